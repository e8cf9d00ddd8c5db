"""The state of spatial linear attention by itself: handed out by an attention, summed alone, read by other queries.

    sums = c · (sum_j relu(k_j) v_j^T; sum_j relu(k_j))    read(q) = (relu(q) · state) / (relu(q) · key sum + c · eps)
c, the `scale` of a state, is the power of two at or below 1/n, n being its tokens: sums stay the size of one token's
share and none is rounded by it. It cancels in the quotient but for eps, which therefore carries it too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton.joint_linear_attention_plan import WIDEST_HEAD, factor_of, output_programs, state_programs
from .backend_choice import check_same, register, through_operator, triton_problem
from .errors import ShapeError
from .spatial_linear_attention import (
    attend_torch,
    backward_operator,
    check_shapes,
    forward_fake,
    forward_operator,
    laid_out,
    state_torch,
    stored_as,
    takes_triton,
)


class SpatialState(NamedTuple):
    """What the keys and values of n tokens leave behind.

    sums: (m, nh, dh + 1, dh), rows by key feature, columns by value feature, the key sum as last row; float32, float64
    for float64 inputs; times `scale`. States of one scale may be shifted, picked and added.
    """

    sums: Tensor
    scale: float


def spatial_linear_attention_with_state(
    q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15, kernels: str = "auto"
) -> tuple[Tensor, SpatialState]:
    """`spatial_linear_attention`, bit for bit, and the state it read; gradients flow through both.

    Arguments and errors as there.
    """
    check_shapes(q=q, k=k, v=v)
    scale = factor_of(v.shape[1])
    if not takes_triton(kernels, q, k, v):
        out, state, key_sum = attend_torch(q, k, v, eps=eps)
        return out, SpatialState(torch.cat((state, key_sum.transpose(-1, -2)), dim=-2) * scale, scale)
    query, key, value = _widened(q, k, v)
    if through_operator(q, k, v):
        out, sums = _attention_operator(query, key, value, eps)
    else:
        from ._triton.spatial_linear_attention import attend

        out, sums = attend(query, key, value, eps=eps, keep=True)
    return out.to(v.dtype), SpatialState(sums, scale)


def spatial_linear_state(k: Tensor, v: Tensor, *, kernels: str = "auto") -> SpatialState:
    """The state of keys and values (m, n, nh, dh) without a query. Raises ShapeError, ConfigError."""
    check_shapes(k=k, v=v)
    scale = factor_of(v.shape[1])
    if not takes_triton(kernels, k, v):
        with torch.autocast(v.device.type, enabled=False):
            return SpatialState(state_torch(k, v), scale)
    k, v = _widened(k, v)
    if through_operator(k, v):
        return SpatialState(_state_operator(k, v), scale)
    from ._triton.joint_linear_attention import sum_state

    return SpatialState(sum_state(k, v), scale)


def read_spatial_state(q: Tensor, state: SpatialState, *, eps: float = 1e-15, kernels: str = "auto") -> Tensor:
    """What queries (m, n, nh, dh) find in a state of (m, nh, dh + 1, dh): (m, n, nh, dh), in q's dtype.

    n need not be the number of tokens in the state. Float16 results saturate. Raises ShapeError, ConfigError.
    """
    check_shapes(q=q)
    m, _, heads, dh = q.shape
    if state.sums.shape != (m, heads, dh + 1, dh):
        raise ShapeError(
            f"queries are {tuple(q.shape)} and the state is {tuple(state.sums.shape)}; ({m}, {heads}, {dh + 1}, {dh}) "
            "is needed; pick one state a row of queries"
        )
    check_same(q=q, state=state.sums)
    if not takes_triton(kernels, q):
        with torch.autocast(q.device.type, enabled=False):
            return _read_torch(q, state.sums, eps * state.scale)
    if through_operator(q, state.sums):
        return _read_operator(q, state.sums, eps * state.scale)
    from ._triton.joint_linear_attention import read_state

    return read_state(q, state.sums, eps=eps * state.scale)


def spatial_linear_state_bytes(
    m: int, n: int, nh: int, dh: int, itemsize: int = 2, *, processors: int = 132
) -> int:
    """Bytes that summing a state reads and writes on a card of so many processors; partial states count."""
    groups = m * nh
    splits = state_programs(groups, n, dh, processors)
    return 2 * groups * n * dh * itemsize + 4 * groups * (dh + 1) * dh * (1 if splits == 1 else 2 * splits + 1)


def read_spatial_state_bytes(
    m: int, n: int, nh: int, dh: int, itemsize: int = 2, *, processors: int = 132
) -> int:
    """Bytes that reading a state by n queries a row reads and writes: each program loads its own copy."""
    groups = m * nh
    readers = output_programs(groups, n, dh, processors)
    return 2 * groups * n * dh * itemsize + 4 * groups * (dh + 1) * dh * readers


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the narrowest type that holds each."""
    wide = tensors[0].dtype
    for x in tensors[1:]:
        wide = torch.promote_types(wide, x.dtype)
    return tuple(x.to(wide) for x in tensors)


def _launchable(x: Tensor) -> bool:
    return triton_problem(x.device) is None and x.shape[-1] <= WIDEST_HEAD


def _read_torch(q: Tensor, sums: Tensor, eps: float) -> Tensor:
    query = laid_out(q, q).relu_()
    state, key_sum = sums.to(query.dtype).split((q.shape[-1], 1), dim=-2)
    out = (query @ state) / (query @ key_sum.transpose(-1, -2) + eps)
    return stored_as(out.transpose(1, 2), q.dtype)


def _state(k: Tensor, v: Tensor) -> Tensor:
    if not _launchable(v):
        return state_torch(k, v)
    from ._triton.joint_linear_attention import sum_state

    return sum_state(k, v)


def _state_fake(k: Tensor, v: Tensor) -> Tensor:
    m, _, heads, dh = v.shape
    return v.new_empty((m, heads, dh + 1, dh), dtype=torch.float32)


def _state_backward(grad: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """dk = c · (v dS^T + dz) where k > 0, dv = c · relu(k) dS."""
    if _launchable(v):
        from ._triton.joint_linear_attention import sum_state_backward

        return sum_state_backward(grad, k, v)
    key, value = laid_out(k, v).relu_(), laid_out(v, v)
    state, key_sum = (grad.to(key.dtype) * factor_of(v.shape[1])).split((v.shape[-1], 1), dim=-2)
    grad_k = (value @ state.transpose(-1, -2) + key_sum) * (key > 0)
    return tuple(x.transpose(1, 2).to(v.dtype).contiguous() for x in (grad_k, key @ state))


def _state_backward_fake(grad: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape)


def _read(q: Tensor, sums: Tensor, eps: float) -> Tensor:
    if not _launchable(q):
        return _read_torch(q, sums, eps)
    from ._triton.joint_linear_attention import read_state

    return read_state(q, sums, eps=eps)


def _read_fake(q: Tensor, sums: Tensor, eps: float) -> Tensor:
    return q.new_empty(q.shape)


def _read_backward(grad: Tensor, q: Tensor, sums: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """u = fq S, w = fq·z + eps, out = u / w; du = grad / w, dw = -(fq·(du S^T)) / w; dS = fq^T du, dz = sum fq dw."""
    if _launchable(q):
        from ._triton.joint_linear_attention import read_state_backward

        return read_state_backward(grad, q, sums, eps=eps)
    query, grad = laid_out(q, q).relu_(), laid_out(grad, q)
    state, key_sum = sums.to(query.dtype).split((q.shape[-1], 1), dim=-2)
    weight = query @ key_sum.transpose(-1, -2) + eps
    grad = grad / weight
    grad_q = grad @ state.transpose(-1, -2)
    grad_weight = -(query * grad_q).sum(-1, keepdim=True) / weight
    grad_sums = torch.cat((query.transpose(-1, -2) @ grad, (query * grad_weight).sum(-2, keepdim=True)), dim=-2)
    grad_q = (grad_q + grad_weight * key_sum) * (query > 0)
    return grad_q.transpose(1, 2).to(q.dtype).contiguous(), grad_sums.to(sums.dtype)


def _read_backward_fake(grad: Tensor, q: Tensor, sums: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), sums.new_empty(sums.shape)


def _attend(q: Tensor, k: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return forward_operator(q, k, v, eps, True)


def _attend_fake(q: Tensor, k: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return forward_fake(q, k, v, eps, True)


def _keep_attention(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _attention_backward(ctx, grad: Tensor | None, state_grad: Tensor | None) -> tuple:
    """Both ways add up: that of the answers, which runs through the state kept inside, and that of the state given."""
    q, k, v, sums = ctx.saved_tensors
    grads = [None, None, None]
    if grad is not None:
        grads = list(backward_operator(grad, q, k, v, sums, ctx.eps))
    if state_grad is not None:
        for place, more in zip((1, 2), _state_backward_operator(state_grad, k, v)):
            grads[place] = more if grads[place] is None else grads[place] + more
    return *grads, None


def _keep_state(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_state(ctx, grad: Tensor) -> tuple:
    return tuple(_state_backward_operator(grad, *ctx.saved_tensors))


def _keep_read(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_read(ctx, grad: Tensor) -> tuple:
    return *_read_backward_operator(grad, *ctx.saved_tensors, ctx.eps), None


_state_backward_operator = register("spatial_linear_state_backward", _state_backward, fake=_state_backward_fake)
_read_backward_operator = register("read_spatial_state_backward", _read_backward, fake=_read_backward_fake)
_state_operator = register(
    "spatial_linear_state", _state, fake=_state_fake, backward=_backward_of_state, setup_context=_keep_state
)
_read_operator = register(
    "read_spatial_state", _read, fake=_read_fake, backward=_backward_of_read, setup_context=_keep_read
)
_attention_operator = register(
    "spatial_linear_attention_with_state", _attend, fake=_attend_fake, backward=_attention_backward,
    setup_context=_keep_attention,
)  # fmt: skip
