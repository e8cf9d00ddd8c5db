"""Triton backend of temporal 1 + cos attention to 64 frames: one program holds all frames of one site for some heads.

With q~, k~ of unit length and rotated by their frames' positions, C = q~ k~^T: out = (sum v + C v) / (t + sum C). The
ones of 1 + C are summed apart, in float32, so that rounding to a tensor core's type touches the cosines only. Frames
beyond t need no mask after the load: their k~ and v are zero. Tiles are (frames, heads, dims) in memory order and
(heads, ., .) in products. Longer sequences: temporal_cosine_attention_long.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend_choice import interpreting, programs
from . import temporal_cosine_attention_long as long
from .temporal_cosine_attention_plan import Plan, architecture, dot_type, make_plan
from .temporal_cosine_attention_tiles import (
    LEAST,
    _balance,
    _clamped,
    _lengths,
    _load,
    _load_turns,
    _offsets,
    _place,
    _product,
    _turn,
    _unit_gradient,
)


@triton.jit
def _quadratic_fwd_kernel(
    q, k, v, cos, sin, out, t, sites, nh, dh, groups, blocks, stride_turn,
    q_stride_b, q_stride_t, q_stride_s, q_stride_h, k_stride_b, k_stride_t, k_stride_s, k_stride_h,
    v_stride_b, v_stride_t, v_stride_s, v_stride_h, o_stride_b, o_stride_t, o_stride_s, o_stride_h,
    T: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    b, site, group = _place(tl.program_id(0), groups, sites)
    frames, dims = tl.arange(0, T), tl.arange(0, D)
    turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, tl.arange(0, D // 2), dh // 2)
    q_base, k_base = b * q_stride_b + site * q_stride_s, b * k_stride_b + site * k_stride_s
    v_base, o_base = b * v_stride_b + site * v_stride_s, b * o_stride_b + site * o_stride_s
    first = group.to(tl.int32) * blocks
    for block in range(first, tl.minimum(first + blocks, tl.cdiv(nh, HB))):
        heads = block * HB + tl.arange(0, HB)
        mask = (frames < t)[:, None, None] & (heads < nh)[None, :, None] & (dims < dh)[None, None, :]
        query = _load(q, q_base, frames, heads, dims, q_stride_t, q_stride_h, mask)
        key = _load(k, k_base, frames, heads, dims, k_stride_t, k_stride_h, mask)
        value = _load(v, v_base, frames, heads, dims, v_stride_t, v_stride_h, mask)
        query = _turn(query * _lengths(query)[1][:, :, None], turn_cos, turn_sin, T, HB, D)
        key = _turn(key * _lengths(key)[1][:, :, None], turn_cos, turn_sin, T, HB, D)
        cosine = _product(tl.permute(query, (1, 0, 2)).to(DOT), tl.permute(key, (1, 2, 0)).to(DOT))  # (HB, T, T)
        weight = tl.maximum(t + tl.sum(cosine, axis=2), LEAST)
        mixed = _product(cosine.to(DOT), tl.permute(value, (1, 0, 2)).to(DOT))
        mixed = (mixed + tl.sum(value, axis=0)[:, None, :]) / weight[:, :, None]
        offsets = o_base + _offsets(frames, heads, dims, o_stride_t, o_stride_h)
        mixed = _clamped(tl.permute(mixed, (1, 0, 2)), CLAMP)
        tl.store(out + offsets, mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _quadratic_bwd_kernel(
    q, k, v, grad, cos, sin, dq, dk, dv, t, sites, nh, dh, groups, blocks, stride_turn,
    q_stride_b, q_stride_t, q_stride_s, q_stride_h, k_stride_b, k_stride_t, k_stride_s, k_stride_h,
    v_stride_b, v_stride_t, v_stride_s, v_stride_h, g_stride_b, g_stride_t, g_stride_s, g_stride_h,
    o_stride_b, o_stride_t, o_stride_s, o_stride_h,
    T: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    b, site, group = _place(tl.program_id(0), groups, sites)
    frames, dims = tl.arange(0, T), tl.arange(0, D)
    turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, tl.arange(0, D // 2), dh // 2)
    q_base, k_base = b * q_stride_b + site * q_stride_s, b * k_stride_b + site * k_stride_s
    v_base, g_base = b * v_stride_b + site * v_stride_s, b * g_stride_b + site * g_stride_s
    o_base = b * o_stride_b + site * o_stride_s
    first = group.to(tl.int32) * blocks
    for block in range(first, tl.minimum(first + blocks, tl.cdiv(nh, HB))):
        heads = block * HB + tl.arange(0, HB)
        mask = (frames < t)[:, None, None] & (heads < nh)[None, :, None] & (dims < dh)[None, None, :]
        query = _load(q, q_base, frames, heads, dims, q_stride_t, q_stride_h, mask)
        key = _load(k, k_base, frames, heads, dims, k_stride_t, k_stride_h, mask)
        q_length, q_scale = _lengths(query)
        k_length, k_scale = _lengths(key)
        query *= q_scale[:, :, None]
        key *= k_scale[:, :, None]
        turned_q = tl.permute(_turn(query, turn_cos, turn_sin, T, HB, D), (1, 0, 2)).to(DOT)
        turned_k = tl.permute(_turn(key, turn_cos, turn_sin, T, HB, D), (1, 0, 2)).to(DOT)
        cosine = _product(turned_q, tl.permute(turned_k, (0, 2, 1)))  # (HB, T, T)
        total = t + tl.sum(cosine, axis=2)
        inverse = 1.0 / tl.maximum(total, LEAST)

        value = _load(v, v_base, frames, heads, dims, v_stride_t, v_stride_h, mask)
        given = _load(grad, g_base, frames, heads, dims, g_stride_t, g_stride_h, mask)
        given_h = tl.permute(given, (1, 0, 2))
        slope = _product(given_h.to(DOT), tl.permute(value, (1, 2, 0)).to(DOT))
        # grad · out of each frame, which is what the denominator's gradient comes to
        along = tl.where(total >= LEAST, tl.sum((1.0 + cosine) * slope, axis=2) * inverse, 0.0)
        slope, most = _balance((slope - along[:, :, None]) * inverse[:, :, None], BALANCED)
        slope = slope.to(DOT)
        grad_q = tl.permute(_product(slope, turned_k) * most, (1, 0, 2))
        grad_k = _product(tl.permute(slope, (0, 2, 1)), turned_q) * most
        grad_k = tl.permute(grad_k, (1, 0, 2))
        offsets = o_base + _offsets(frames, heads, dims, o_stride_t, o_stride_h)
        grad_q = _unit_gradient(_turn(grad_q, turn_cos, -turn_sin, T, HB, D), query, q_length, q_scale)
        tl.store(dq + offsets, grad_q.to(dq.dtype.element_ty), mask=mask)
        grad_k = _unit_gradient(_turn(grad_k, turn_cos, -turn_sin, T, HB, D), key, k_length, k_scale)
        tl.store(dk + offsets, grad_k.to(dk.dtype.element_ty), mask=mask)

        cosine, most = _balance(cosine * inverse[:, :, None], BALANCED)
        grad_v = _product(tl.permute(cosine.to(DOT), (0, 2, 1)), given_h.to(DOT)) * most
        grad_v += tl.sum(given_h * inverse[:, :, None], axis=1)[:, None, :]
        tl.store(dv + offsets, tl.permute(grad_v, (1, 0, 2)).to(dv.dtype.element_ty), mask=mask)


def temporal_cosine_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, *, algorithm: str = "auto"
) -> Tensor:
    """q, k, v (b, t, s, nh, dh), t > 1; cos, sin (b or 1, t, dh/2) float32. Returns (b, t, s, nh, dh), contiguous."""
    if not v.numel():
        return v.new_empty(v.shape)
    plan, grid = _plan(v, algorithm=algorithm)
    out = _result(v)
    tensors, sizes, strides, constants = _arguments(plan, (q, k, v), cos, out)
    kernel = long._linear_fwd_kernel if plan.linear else _quadratic_fwd_kernel
    kernel[grid](*tensors, cos, sin, out, *sizes, *strides, **constants, CLAMP=v.dtype == torch.float16)
    return out.to(v.dtype)


def temporal_cosine_attention_backward_triton(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, *, algorithm: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous, from that of the result; arguments as in the forward pass."""
    if not v.numel():
        return tuple(x.new_empty(x.shape) for x in (q, k, v))
    plan, grid = _plan(v, algorithm=algorithm, backward=True)
    dq, dk, dv = (_result(x) for x in (q, k, v))
    tensors, sizes, strides, constants = _arguments(plan, (q, k, v, grad), cos, dv)
    balanced = v.dtype == torch.float16
    if plan.linear:
        inverses, alongs = torch.empty((2, *v.shape[:-1]), dtype=torch.float32, device=v.device)
        rows = (inverses, alongs)
        long._linear_bwd_q_kernel[grid](*tensors, cos, sin, dq, *rows, *sizes, *strides, **constants)
        long._linear_bwd_kv_kernel[grid](
            *tensors, cos, sin, *rows, dk, dv, *sizes, *strides, **constants, BALANCED=balanced
        )
    else:
        _quadratic_bwd_kernel[grid](
            *tensors, cos, sin, dq, dk, dv, *sizes, *strides, **constants, BALANCED=balanced
        )
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _result(x: Tensor) -> Tensor:
    """Memory for a tensor like x; float32 under the interpreter, which would cut digits off instead of rounding."""
    return torch.empty(x.shape, dtype=torch.float32 if interpreting() else x.dtype, device=x.device)


def _plan(v: Tensor, *, algorithm: str, backward: bool = False) -> tuple[Plan, tuple[int]]:
    """The plan and its grid; raises ShapeError before memory is taken."""
    wide = v.dtype == torch.float32
    plan = make_plan(*v.shape, arch=architecture(v.device), algorithm=algorithm, backward=backward, wide=wide)
    return plan, (programs(v.shape[0], v.shape[2], plan.groups),)


def _arguments(plan: Plan, tensors, cos: Tensor, out: Tensor):
    """What all kernels are given: tensors whose last stride is 1, sizes, strides and constants."""
    _, t, s, nh, dh = out.shape
    tensors = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    sizes = [t, s, nh, dh, plan.groups] + ([] if plan.linear else [plan.blocks])
    sizes.append(cos.stride(0) if cos.shape[0] > 1 else 0)
    strides = [stride for x in (*tensors, out) for stride in x.stride()[:-1]]
    constants = {
        "CHUNK" if plan.linear else "T": plan.frames, "D": plan.dims, "HB": plan.heads,
        "DOT": _TYPES[dot_type(*tensors)], "num_warps": plan.num_warps, "num_stages": plan.num_stages,
    }  # fmt: skip
    return tensors, sizes, strides, constants


_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
