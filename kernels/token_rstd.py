"""Reciprocal root mean square of every token: the row statistic of an RMSNorm applied elsewhere."""

import torch
from torch import Tensor

from .errors import ShapeError


def token_rstd_torch(x: Tensor, *, eps: float) -> Tensor:
    """Plain torch form, any dtype; sums are float32 (float64 for float64 inputs)."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=compute)  # converts as it reads: no wide copy
    return torch.rsqrt(norm * norm / x.shape[-1] + eps)


def token_rstd(x: Tensor, *, eps: float, kernels: str = "auto") -> Tensor:
    """1 / sqrt(mean(x²) + eps) along the last axis, in one read of x.

    x: (..., d). kernels: "auto", "torch" or "triton". Returns (...) in float32 (float64 for float64).
    Raises ShapeError when x has no axis, is empty along it, or holds no floating point numbers.
    Source: RMSNorm (arXiv 1910.07467) Eq. 4, eps inside the root.
    """
    if not x.ndim or not x.shape[-1] or not x.is_floating_point():
        raise ShapeError(f"x is {tuple(x.shape)} of {x.dtype}; floating point (..., d) with d > 0 is needed")
    return token_rstd_torch(x, eps=eps)
