"""Triton backend of the tokens' reciprocal root mean square: a program walks over some tokens, one by one.

Columns lie in a head and a tail as in gate_norm_modulate. Backward is -x·(grad·rstd³ / d), from the saved rstd.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend_choice import interpreting, programs
from .gate_norm_modulate import _part, _stored, _total, columns, last_dense

CHUNK = 16  # tokens a program


def launch_options(arch: int, d: int, tokens: int) -> dict:
    """Tokens a program, warps and stages. One row serves all cards: a thread holds 8 columns, loads of 16 bytes."""
    head, _ = columns(d)
    return {"CHUNK": CHUNK, "num_warps": max(1, min(16, head // 256)), "num_stages": 1}


@triton.jit(do_not_specialize=["m", "n"])
def _token_rstd_fwd_kernel(
    x, out, m, n, eps, x_stride_m, x_stride_n,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    INVERSE: tl.constexpr = 1.0 / D
    column = tl.arange(0, D0)
    kept = column < D
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for index in range(first, tl.minimum(first + CHUNK, m * n)):
        token = tl.cast(index, tl.int64)
        place = x + (token // n) * x_stride_m + (token % n) * x_stride_n
        head = _part(place, column, kept)
        tail = head
        if D1:
            tail = _part(place, D0 + tl.arange(0, D1), D0 + tl.arange(0, D1) < D)
        tl.store(out + token, 1.0 / tl.sqrt(_total(head * head, tail * tail, D1) * INVERSE + eps))


@triton.jit(do_not_specialize=["m", "n"])
def _token_rstd_bwd_kernel(
    x, rstd, grad, grad_x, m, n, x_stride_m, x_stride_n,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    INVERSE: tl.constexpr = 1.0 / D
    column = tl.arange(0, D0)
    kept = column < D
    first = tl.program_id(0).to(tl.int64) * CHUNK
    for index in range(first, tl.minimum(first + CHUNK, m * n)):
        token = tl.cast(index, tl.int64)
        place = x + (token // n) * x_stride_m + (token % n) * x_stride_n
        r = tl.load(rstd + token)
        factor = -tl.load(grad + token) * r * r * r * INVERSE
        _stored(grad_x + token * D, column, _part(place, column, kept) * factor, kept, False)
        if D1:
            tail, tail_kept = D0 + tl.arange(0, D1), D0 + tl.arange(0, D1) < D
            _stored(grad_x + token * D, tail, _part(place, tail, tail_kept) * factor, tail_kept, False)


def _as_tokens(x: Tensor) -> Tensor:
    """x (..., d) as (m, n, d), a view wherever strides allow it."""
    x = last_dense(x)
    if x.ndim < 3:
        return x.reshape(1, -1, x.shape[-1])
    return x if x.ndim == 3 else x.flatten(0, -3)


def token_rstd_triton(x: Tensor, eps: float) -> Tensor:
    """Launch the forward kernel: (...) float32, contiguous."""
    tokens = _as_tokens(x)
    m, n, d = tokens.shape
    out = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    if out.numel():
        options, (head, tail) = launch_options(0, d, m * n), columns(d)
        with torch.cuda.device_of(x):
            _token_rstd_fwd_kernel[(programs(triton.cdiv(m * n, options["CHUNK"])),)](
                tokens, out, m, n, eps, *tokens.stride()[:2], D=d, D0=head, D1=tail, **options
            )
    return out


def token_rstd_backward_triton(grad: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """Launch the backward kernel: the gradient of x, contiguous, in x's dtype."""
    tokens, grad, rstd = _as_tokens(x), grad.float().contiguous(), rstd.contiguous()
    m, n, d = tokens.shape
    out = torch.empty(x.shape, dtype=torch.float32 if interpreting() else x.dtype, device=x.device)
    if out.numel():
        options, (head, tail) = launch_options(0, d, m * n), columns(d)
        with torch.cuda.device_of(x):
            _token_rstd_bwd_kernel[(programs(triton.cdiv(m * n, options["CHUNK"])),)](
                tokens, rstd, grad, out, m, n, *tokens.stride()[:2], D=d, D0=head, D1=tail, **options
            )
    return out.to(x.dtype)
