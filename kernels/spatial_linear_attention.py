"""Spatial ReLU linear attention: every token sees every other token, in time linear in their number."""

import torch
from torch import Tensor

from ._triton.joint_linear_attention_plan import WIDEST_HEAD, factor_of
from .backend_choice import FLOAT16_MAX, check_same, register, through_operator, triton_problem, use_triton
from .errors import ShapeError


def spatial_linear_attention_torch(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """The torch backend, any dtype; sums are float32 (float64 for float64 inputs)."""
    return attend_torch(q, k, v, eps=eps)[0]


def attend_torch(q: Tensor, k: Tensor, v: Tensor, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(out (m, n, nh, dh), state (m, nh, dh, dh), key sum (m, nh, dh, 1)); both sums as they are, not scaled."""
    with torch.autocast(v.device.type, enabled=False):
        query, key, value = laid_out(q, v).relu_(), laid_out(k, v).relu_(), laid_out(v, v)
        state = key.transpose(-1, -2) @ value
        key_sum = key.sum(dim=-2).unsqueeze(-1)
        del key, value
        out = (query @ state) / (query @ key_sum + eps)
    return stored_as(out.transpose(1, 2), v.dtype), state, key_sum


def stored_as(out: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous in a storage type; float16 saturates."""
    if dtype == torch.float16:
        out = out.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    return out.to(dtype).contiguous()


def laid_out(x: Tensor, like: Tensor) -> Tensor:
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
    check_shapes(q=q, k=k, v=v)
    if not takes_triton(kernels, q, k, v):
        return spatial_linear_attention_torch(q, k, v, eps=eps)
    if not q.dtype == k.dtype == v.dtype:
        wide = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        return spatial_linear_attention(q.to(wide), k.to(wide), v.to(wide), eps=eps, kernels=kernels).to(v.dtype)
    if through_operator(q, k, v):
        keep = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        return _operator(q, k, v, eps, keep)[0]
    from ._triton.spatial_linear_attention import spatial_linear_attention_triton

    return spatial_linear_attention_triton(q, k, v, eps=eps)


def check_shapes(**tensors: Tensor) -> None:
    """Refuse tensors that are not (m, n, nh, dh), one shape on one device. Raises ShapeError."""
    given = list(tensors.values())
    if any(x.shape != given[0].shape or x.ndim != 4 for x in given):
        *most, last = tensors
        shapes = ", ".join(str(tuple(x.shape)) for x in given)
        raise ShapeError(
            f"{', '.join(most)} and {last} have shapes {shapes}; one shape (m, n, nh, dh) is needed; reshape them"
        )
    check_same(**tensors)


def takes_triton(kernels: str, *tensors: Tensor) -> bool:
    """Whether the Triton backend runs on these (m, n, nh, dh); 'auto' leaves wide heads to torch. Raises ShapeError."""
    width = tensors[0].shape[-1]
    if not use_triton(kernels, *tensors) or (kernels == "auto" and width > WIDEST_HEAD):
        return False
    if width > WIDEST_HEAD:
        raise ShapeError(
            f"a head has {width} features; the Triton backend takes {WIDEST_HEAD}; use kernels 'auto' or 'torch'"
        )
    return True


def spatial_linear_attention_bytes(
    m: int, n: int, nh: int, dh: int, itemsize: int = 2, *, keep: bool = False, backward: bool = False
) -> int:
    """Bytes the single-pass Triton backend moves: forward (keep: with the state for training) or backward."""
    state = 4 * m * nh * (dh + 1) * dh
    passes = 7 if backward else 4
    return passes * m * n * nh * dh * itemsize + (state if keep or backward else 0)


def _state_shape(v: Tensor, keep: bool) -> tuple[int, ...]:
    """The state kept for training: relu(k)^T v and, as last row, the sum of relu(k), both scaled by `factor_of`."""
    m, _, nh, dh = v.shape
    return (m, nh, dh + 1, dh) if keep else (0,)


def state_torch(k: Tensor, v: Tensor) -> Tensor:
    key, value = laid_out(k, v).relu_(), laid_out(v, v)
    return torch.cat((key.transpose(-1, -2) @ value, key.sum(dim=-2, keepdim=True)), dim=-2) * factor_of(v.shape[1])


def _backward_torch(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Formulas: u = fq S, w = fq·z + eps, out = u / w; du = grad / w, dw = -(fq·(du S^T)) / w."""
    grad, fq, fk, value = laid_out(grad, v), laid_out(q, v).relu_(), laid_out(k, v).relu_(), laid_out(v, v)
    factor = factor_of(v.shape[1])
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


def forward_operator(q: Tensor, k: Tensor, v: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    if triton_problem(v.device) is None and v.shape[-1] <= WIDEST_HEAD:
        from ._triton.spatial_linear_attention import attend

        out, state = attend(q, k, v, eps=eps, keep=keep)
        return out, state if keep else state.new_empty(0)
    state = state_torch(k, v) if keep else v.new_empty(0, dtype=torch.float32)
    return spatial_linear_attention_torch(q, k, v, eps=eps), state


def forward_fake(q: Tensor, k: Tensor, v: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), v.new_empty(_state_shape(v, keep), dtype=torch.float32)


def _run_backward(
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
    return *backward_operator(grad, *ctx.saved_tensors, ctx.eps), None, None


backward_operator = register("spatial_linear_attention_backward", _run_backward, fake=_backward_fake)
_operator = register(
    "spatial_linear_attention", forward_operator, fake=forward_fake, backward=_backward,
    setup_context=_keep_for_backward,
)  # fmt: skip
