"""Reciprocal root mean square of every token: the row statistic of an RMSNorm applied elsewhere."""

import torch
from torch import Tensor

from .backend_choice import STORED_TYPES, WIDEST_TOKEN, register, through_operator, triton_problem, use_triton
from .errors import ShapeError


def token_rstd_torch(x: Tensor, *, eps: float) -> Tensor:
    """The torch backend, any dtype; sums are float32 (float64 for float64 inputs)."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=-1, dtype=compute)  # converts as it reads: no wide copy
    return torch.rsqrt(norm * norm / x.shape[-1] + eps)


def token_rstd(x: Tensor, *, eps: float, kernels: str = "auto") -> Tensor:
    """1 / sqrt(mean(x²) + eps) along the last axis, in one read of x.

    x: (..., d). kernels: "auto", "torch" or "triton"; tokens of more than 6144 channels take torch.
    Returns (...) in float32 (float64 for float64).
    Raises ShapeError when x has no axis, is empty along it, or holds no floating point numbers.
    Source: RMSNorm (arXiv 1910.07467) Eq. 4, eps inside the root.
    """
    if not x.ndim or not x.shape[-1] or not x.is_floating_point():
        raise ShapeError(f"x is {tuple(x.shape)} of {x.dtype}; floating point (..., d) with d > 0 is needed")
    if not use_triton(kernels, x) or x.shape[-1] > WIDEST_TOKEN:
        return token_rstd_torch(x, eps=eps)
    return token_rstd_operator(x, eps) if through_operator(x) else _launch(x, eps)


def _launch(x: Tensor, eps: float) -> Tensor:
    from ._triton.token_rstd import token_rstd_triton

    return token_rstd_triton(x, eps)


def _launchable(x: Tensor) -> bool:
    return triton_problem(x.device) is None and x.dtype in STORED_TYPES


def _forward(x: Tensor, eps: float) -> Tensor:
    return _launch(x, eps) if _launchable(x) else token_rstd_torch(x, eps=eps)


def _forward_fake(x: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _backward(grad: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """grad_x = -x · grad · rstd³ / d."""
    if _launchable(x):
        from ._triton.token_rstd import token_rstd_backward_triton

        return token_rstd_backward_triton(grad, x, rstd)
    factor = -(grad * rstd**3 / x.shape[-1]).unsqueeze(-1)
    return (x.to(factor.dtype) * factor).to(x.dtype).contiguous()


def _backward_fake(grad: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0], output)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return token_rstd_backward_operator(grad, *ctx.saved_tensors), None


token_rstd_operator = register(
    "token_rstd", _forward, fake=_forward_fake, backward=_differentiate, setup_context=_save
)
token_rstd_backward_operator = register("token_rstd_backward", _backward, fake=_backward_fake)


def token_rstd_bytes(tokens: int, d: int, itemsize: int = 2) -> int:
    """Bytes the Triton backend reads and writes: every token once, one float32 number each out."""
    return tokens * (d * itemsize + 4)
