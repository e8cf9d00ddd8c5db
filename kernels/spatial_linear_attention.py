"""Spatial ReLU linear attention: every token sees every other token, in time linear in their number."""

import torch
from torch import Tensor

from .backend_choice import check_same, register, through_operator, triton_problem, use_triton
from .errors import ShapeError

FLOAT16_MAX = 65504.0
WIDEST_HEAD = 128  # of the Triton form


def spatial_linear_attention_torch(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """Plain torch form, any dtype; sums are float32 (float64 for float64 inputs)."""
    with torch.autocast(v.device.type, enabled=False):
        query, key, value = _laid_out(q, v).relu_(), _laid_out(k, v).relu_(), _laid_out(v, v)
        state = key.transpose(-1, -2) @ value  # (m, nh, dh, dh)
        key_sum = key.sum(dim=-2).unsqueeze(-1)  # (m, nh, dh, 1)
        del key, value
        out = (query @ state) / (query @ key_sum + eps)
    out = out.transpose(1, 2)
    if v.dtype == torch.float16:
        out = out.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    return out.to(v.dtype).contiguous()


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """(m, n, nh, dh) -> a fresh (m, nh, n, dh) in the type of sums."""
    compute = torch.float64 if like.dtype == torch.float64 else torch.float32
    return x.transpose(1, 2).to(compute, memory_format=torch.contiguous_format, copy=True)


def spatial_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15, kernels: str = "auto"
) -> Tensor:
    """Mix tokens with the weights relu(q)·relu(k), normalised over the keys; no 1/sqrt(dh).

    q, k, v: (m, n, nh, dh), any strides. Returns (m, n, nh, dh), contiguous, in v's dtype; sums are float32.
    kernels: "auto", "torch" or "triton" (float32, float16, bfloat16, dh up to 128). Raises ShapeError, ConfigError.
    Source: SANA's ReLU linear attention, MiraMo (arXiv 2508.07246) Eq. 5-6; eps is added to the denominator.
    """
    if not q.shape == k.shape == v.shape or v.ndim != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ShapeError(f"q, k and v have shapes {shapes}; one shape (m, n, nh, dh) is needed; reshape them")
    check_same(q=q, k=k, v=v)
    if not use_triton(kernels, q, k, v) or (kernels == "auto" and v.shape[-1] > WIDEST_HEAD):
        return spatial_linear_attention_torch(q, k, v, eps=eps)
    if v.shape[-1] > WIDEST_HEAD:
        raise ShapeError(
            f"a head has {v.shape[-1]} features; the Triton form takes {WIDEST_HEAD}; use kernels 'auto' or 'torch'"
        )
    if not q.dtype == k.dtype == v.dtype:
        wide = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        return spatial_linear_attention(q.to(wide), k.to(wide), v.to(wide), eps=eps, kernels=kernels).to(v.dtype)
    if through_operator(q, k, v):
        keep = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        return _operator(q, k, v, eps, keep)[0]
    from ._triton.spatial_linear_attention import spatial_linear_attention_triton

    return spatial_linear_attention_triton(q, k, v, eps=eps)


def spatial_linear_attention_bytes(
    m: int, n: int, nh: int, dh: int, itemsize: int = 2, *, keep: bool = False, backward: bool = False
) -> int:
    """Bytes the single-pass Triton form reads and writes: forward (keep: with the state for training) or backward."""
    state = 4 * m * nh * (dh + 1) * dh
    passes = 7 if backward else 4
    return passes * m * n * nh * dh * itemsize + (state if keep or backward else 0)


def _state_shape(v: Tensor, keep: bool) -> tuple[int, ...]:
    """The state kept for training: relu(k)^T v and, as last row, the sum of relu(k), both scaled by `_factor`."""
    m, _, nh, dh = v.shape
    return (m, nh, dh + 1, dh) if keep else (0,)


def _factor(n: int) -> float:
    """The power of two at or below 1/n: it keeps states the size of one token's and rounds nothing."""
    return 2.0 ** -max(n - 1, 0).bit_length()


def _state_torch(k: Tensor, v: Tensor) -> Tensor:
    key, value = _laid_out(k, v).relu_(), _laid_out(v, v)
    return torch.cat((key.transpose(-1, -2) @ value, key.sum(dim=-2, keepdim=True)), dim=-2) * _factor(v.shape[1])


def _backward_torch(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Formulas: u = fq S, w = fq·z + eps, out = u / w; du = grad / w, dw = -(fq·(du S^T)) / w."""
    grad, fq, fk, value = _laid_out(grad, v), _laid_out(q, v).relu_(), _laid_out(k, v).relu_(), _laid_out(v, v)
    factor = _factor(v.shape[1])
    state, key_sum = state.to(fq.dtype).split((v.shape[-1], 1), dim=-2)
    weight = fq @ key_sum.transpose(-1, -2) + eps * factor
    grad = grad / weight
    grad_q = grad @ state.transpose(-1, -2)
    grad_weight = -(fq * grad_q).sum(-1, keepdim=True) / weight
    grad_q = (grad_q + grad_weight * key_sum) * (fq > 0)
    grad_state = fq.transpose(-1, -2) @ grad * factor
    grad_key_sum = (fq * grad_weight).sum(-2, keepdim=True) * factor
    grad_k = (value @ grad_state.transpose(-1, -2) + grad_key_sum) * (fk > 0)
    return tuple(x.transpose(1, 2).to(v.dtype).contiguous() for x in (grad_q, grad_k, fk @ grad_state))


def _forward_operator(q: Tensor, k: Tensor, v: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    if triton_problem(v.device) is None and v.shape[-1] <= WIDEST_HEAD:
        from ._triton.spatial_linear_attention import attend

        out, state = attend(q, k, v, eps=eps, keep=keep)
        return out, state if keep else state.new_empty(0)
    state = _state_torch(k, v) if keep else v.new_empty(0, dtype=torch.float32)
    return spatial_linear_attention_torch(q, k, v, eps=eps), state


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), v.new_empty(_state_shape(v, keep), dtype=torch.float32)


def _backward_operator(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    if triton_problem(v.device) is None and v.shape[-1] <= WIDEST_HEAD:
        from ._triton.spatial_linear_attention import spatial_linear_attention_backward_triton

        return spatial_linear_attention_backward_triton(grad, q, k, v, state, eps=eps)
    return _backward_torch(grad, q, k, v, state, eps)


def _backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_for_backward(ctx, inputs, output) -> None:
    q, k, v, ctx.eps, _ = inputs
    ctx.save_for_backward(q, k, v, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _state_grad) -> tuple:
    if grad is None:
        return None, None, None, None, None
    return *_backward_operator_handle(grad, *ctx.saved_tensors, ctx.eps), None, None


_backward_operator_handle = register("spatial_linear_attention_backward", _backward_operator, fake=_backward_fake)
_operator = register(
    "spatial_linear_attention", _forward_operator, fake=_forward_fake, backward=_backward,
    setup_context=_keep_for_backward,
)  # fmt: skip
