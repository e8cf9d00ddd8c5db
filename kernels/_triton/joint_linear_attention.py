"""ReLU linear attention over one long token axis in three launches: partial states, their sum, outputs.

x' = relu(x · rstd · weight) for q and k; R rotates pairs (2i, 2i + 1) of x' by the token's place in the grid.
    state = c · sum_j R k'_j v_j^T    key sum = c · sum_j k'_j    out_i = (R q'_i state) / (q'_i · key sum + c · eps)
c is the power of two at or below 1/n: sums stay the size of one token's, and no product is rounded by it.
Backward: the gradient of a state is a state again (of q and the rows' weights), so the same launches serve twice.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend_choice import interpreting, programs
from .joint_linear_attention_kernels import _gradient_kernel, _output_kernel, _reduce_kernel, _state_kernel
from .joint_linear_attention_plan import factor_of, launch_options, output_programs, state_programs


@functools.cache
def _processors(device: torch.device) -> tuple[int, int]:
    """(compute capability · 10, multiprocessors); the interpreter counts as a small card."""
    if device.type != "cuda":
        return 0, 4
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor, torch.cuda.get_device_properties(device).multi_processor_count


def half_of(dh: int) -> int:
    """Pairs of a head, padded to a power of two that a dot accepts."""
    return max(16, triton.next_power_of_2(-(-dh // 2)))


def constants_of(dh: int, dtype: torch.dtype, *, scaled: bool, rotated: bool) -> dict:
    """What all kernels fold in. bfloat16 operands have float32's range: nothing overflows on the way.

    float16 storage keeps its digits by a second operand that holds what the first one's rounding lost.
    """
    exact = interpreting() or dtype == torch.float32
    return {
        "DH": dh, "HALF": half_of(dh), "SCALED": scaled, "ROTATED": rotated,
        "DOT": tl.float32 if exact else tl.bfloat16, "LOW_X": dtype == torch.float16,
    }  # fmt: skip


class _Plan(NamedTuple):
    """One launch: its grid and the arguments that all kernels share."""

    grid: tuple[int]
    counts: tuple[int, ...]  # n, heads, tiles, chunk, splits, blocks
    sizes: tuple[int, ...]  # frames, height, width
    constants: dict


def _plan(x: Tensor, rotary, scale, *, launch: str, share) -> _Plan:
    """Cut the tokens of x into tiles that end where a row of the grid ends, and the tiles into chunks."""
    b, n, heads, dh = x.shape
    arch, processors = _processors(x.device)
    options = launch_options(arch, dh, n, x.dtype)[launch]
    sizes = (rotary.frames, rotary.height, rotary.width) if rotary is not None else (1, 1, n)
    blocks = -(-sizes[2] // options["BLOCK"])
    tiles = sizes[0] * sizes[1] * blocks
    chunk = -(-tiles // share(b * heads, n, dh, processors))
    splits = -(-tiles // chunk)
    constants = {**constants_of(dh, x.dtype, scaled=scale is not None, rotated=rotary is not None), **options}
    return _Plan((programs(b * heads, splits),), (n, heads, tiles, chunk, splits, blocks), sizes, constants)


def _rows_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _sum_state(x: Tensor, y: Tensor, *, rotary, scale, row_state=None, row_sum=None) -> Tensor:
    """factor · (sum of R x' y^T; sum of x') as (b, nh, dh + 1, dh) float32, in one or two launches."""
    b, n, heads, dh = x.shape
    plan = _plan(x, rotary, scale, launch="state", share=state_programs)
    splits = plan.counts[4]
    partial = torch.empty((b, heads, splits, dh + 1, dh), dtype=torch.float32, device=x.device)
    rstd, weight = scale if scale is not None else (partial, partial)
    weighted = row_state is not None
    _state_kernel[plan.grid](
        x, y, partial, rstd, weight, row_state if weighted else partial, row_sum if weighted else partial,
        rotary.table if rotary is not None else partial,
        *plan.counts, factor_of(n), *x.stride()[:3], *y.stride()[:3], *plan.sizes,
        LOW_Y=plan.constants["LOW_X"], WEIGHTED=weighted, **plan.constants,
    )  # fmt: skip
    if splits == 1:
        return partial.squeeze(2)
    state = torch.empty((b, heads, dh + 1, dh), dtype=torch.float32, device=x.device)
    size = dh * (dh + 1)
    blocks = triton.cdiv(size, 1024)
    _reduce_kernel[(programs(b * heads, blocks),)](partial, state, splits, blocks, SIZE=size, BLOCK=1024, num_warps=4)
    return state


def _outputs(x: Tensor, state: Tensor, *, rotary, scale, eps: float, divide: bool) -> Tensor:
    """R x' state, divided by x' · key sum + eps or not, in x's dtype; eps in the units of the state."""
    b, n, heads, dh = x.shape
    plan = _plan(x, rotary, scale, launch="output", share=output_programs)
    out = torch.empty((b, n, heads, dh), dtype=torch.float32 if interpreting() else x.dtype, device=x.device)
    rstd, weight = scale if scale is not None else (state, state)
    _output_kernel[plan.grid](
        x, out, state, rstd, weight, rotary.table if rotary is not None else state,
        *plan.counts, eps, *x.stride()[:3], *out.stride()[:3], *plan.sizes,
        LOW_STATE=divide or x.dtype == torch.float16, CLAMP=divide and x.dtype == torch.float16, DIVIDE=divide,
        **plan.constants,
    )  # fmt: skip
    return out.to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float) -> tuple:
    """(out, state): out (b, n, nh, dh), state (b, nh, dh + 1, dh) float32 with the key sum last; one dtype for all."""
    b, n, heads, dh = q.shape
    if q.numel() == 0:
        return v.new_empty(v.shape), v.new_zeros((b, heads, dh + 1, dh), dtype=torch.float32)
    q, k, v = map(_rows_last, (q, k, v))
    state = _sum_state(k, v, rotary=rotary, scale=k_scale)
    return _outputs(q, state, rotary=rotary, scale=q_scale, eps=eps * factor_of(n), divide=True), state


def joint_linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float = 1e-15
) -> Tensor:
    """Launch the forward passes; arguments as in joint_linear_attention, shapes already checked."""
    return attend(q, k, v, rotary=rotary, q_scale=q_scale, k_scale=k_scale, eps=eps)[0]


def _gradient(x: Tensor, y: Tensor, state: Tensor, *, rotary, scale, eps: float, query: bool) -> tuple:
    """(d(x), d(y) or None, 1 / w and d(w) a row or None, d(rstd), d(weight)) of one pass over x and y.

    eps in the units of the state.
    """
    b, n, heads, dh = x.shape
    plan = _plan(x, rotary, scale, launch="gradient", share=output_programs)
    stored = torch.float32 if interpreting() else x.dtype
    dx = torch.empty((b, n, heads, dh), dtype=stored, device=x.device)
    values = not query and not (x.dtype == torch.float16 and dh > 32)  # both products at once spill
    dy = torch.empty_like(dx) if values else dx
    rows = [torch.empty((b, heads, n), dtype=torch.float32, device=x.device) for _ in range(2)] if query else []
    row_state, row_sum = rows if query else (state, state)
    rstd, weight = scale if scale is not None else (state, state)
    d_rstd = d_weight = state
    if scale is not None:
        d_rstd = torch.empty((b, heads, n), dtype=torch.float32, device=x.device)
        d_weight = torch.empty((b, heads, plan.counts[4], dh), dtype=torch.float32, device=x.device)
    _gradient_kernel[plan.grid](
        x, y, dx, dy, state, rstd, weight, row_state, row_sum, d_rstd, d_weight,
        rotary.table if rotary is not None else state,
        *plan.counts, eps, *x.stride()[:3], *y.stride()[:3], *dx.stride()[:3], *plan.sizes,
        LOW_STATE=x.dtype == torch.float16, QUERY=query, VALUES=values, **plan.constants,
    )  # fmt: skip
    if not (query or values):
        dy = _outputs(x, state, rotary=rotary, scale=scale, eps=eps, divide=False)
    scale_grads = (None, None) if scale is None else (d_rstd.sum(1), d_weight.sum((0, 2)).flatten().to(weight.dtype))
    return dx.to(x.dtype), None if query else dy.to(y.dtype), rows, *scale_grads


def joint_linear_attention_backward_triton(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, rotary=None, q_scale=None, k_scale=None,
    eps: float = 1e-15,
) -> tuple:  # fmt: skip
    """Gradients (q, k, v, q's rstd, q's weight, k's rstd, k's weight) from that of out and the state of `attend`.

    The last four are None without scales. 9 passes over one tensor, 10 for float16 heads beyond 32: d(q) reads q and
    grad, its state reads them again, d(k) and d(v) read k and v.
    """
    if q.numel() == 0:
        given = (q, k, v, *(q_scale or (None, None)), *(k_scale or (None, None)))
        return tuple(x if x is None else torch.zeros_like(x) for x in given)
    grad, q, k, v = map(_rows_last, (grad, q, k, v))
    eps = eps * factor_of(q.shape[1])
    dq, _, rows, *d_q_scale = _gradient(q, grad, state, rotary=rotary, scale=q_scale, eps=eps, query=True)
    d_state = _sum_state(q, grad, rotary=rotary, scale=q_scale, row_state=rows[0], row_sum=rows[1])
    dk, dv, _, *d_k_scale = _gradient(k, v, d_state, rotary=rotary, scale=k_scale, eps=eps, query=False)
    return dq, dk, dv, *d_q_scale, *d_k_scale


def sum_state(k: Tensor, v: Tensor) -> Tensor:
    """The first phase by itself: the state of `attend`, (b, nh, dh + 1, dh) float32."""
    b, _, heads, dh = k.shape
    if k.numel() == 0:
        return v.new_zeros((b, heads, dh + 1, dh), dtype=torch.float32)
    return _sum_state(_rows_last(k), _rows_last(v), rotary=None, scale=None)


def sum_state_backward(grad: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of k and v from that of their state."""
    if k.numel() == 0:
        return torch.zeros_like(k), torch.zeros_like(v)
    scaled = (grad * factor_of(k.shape[1])).contiguous()
    return _gradient(_rows_last(k), _rows_last(v), scaled, rotary=None, scale=None, eps=0.0, query=False)[:2]


def read_state(q: Tensor, state: Tensor, *, eps: float) -> Tensor:
    """The last phase by itself: q (b, n, nh, dh) reads a given state; eps in the units of the state."""
    if q.numel() == 0:
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    return _outputs(_rows_last(q), state.contiguous(), rotary=None, scale=None, eps=eps, divide=True)


def read_state_backward(grad: Tensor, q: Tensor, state: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of q and the state from that of what `read_state` gave."""
    if q.numel() == 0:
        return torch.zeros_like(q), torch.zeros_like(state)
    grad, q = _rows_last(grad), _rows_last(q)
    dq, _, rows, *_ = _gradient(q, grad, state.contiguous(), rotary=None, scale=None, eps=eps, query=True)
    summed = _sum_state(q, grad, rotary=None, scale=None, row_state=rows[0], row_sum=rows[1])
    return dq, summed / factor_of(q.shape[1])
