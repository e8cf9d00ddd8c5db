"""Triton backend of temporal 1 + cos attention beyond 64 frames: linear in their number, chunk by chunk.

S = k~^T v / t, z = sum k~ / t, m = sum v / t; out = (m + q~ S) / (1 + q~·z). One program walks all frames of one site
for some heads, once over keys and values, once over queries. Backward: a program over queries writes dq and two
numbers a row (1 / denominator, grad·out), one over keys writes dk and dv from sums over those rows.
"""

import triton
import triton.language as tl

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
def _state(
    k, v, cos, sin, k_base, v_base, turn_base, t, heads, halves, dims, kept, half, k_stride_t, k_stride_h, v_stride_t,
    v_stride_h, CHUNK: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """S (HB, D, D), rows k, columns v; z and m (HB, D)."""
    state = tl.zeros((HB, D, D), dtype=tl.float32)
    key_sum = tl.zeros((HB, D), dtype=tl.float32)
    value_sum = tl.zeros((HB, D), dtype=tl.float32)
    for start in range(0, t, CHUNK):
        frames = start + tl.arange(0, CHUNK)
        mask = (frames < t)[:, None, None] & kept
        turn_cos, turn_sin = _load_turns(cos, sin, turn_base, frames, t, halves, half)
        key = _load(k, k_base, frames, heads, dims, k_stride_t, k_stride_h, mask)
        value = _load(v, v_base, frames, heads, dims, v_stride_t, v_stride_h, mask)
        key = _turn(key * _lengths(key)[1][:, :, None], turn_cos, turn_sin, CHUNK, HB, D)
        state += _product(tl.permute(key, (1, 2, 0)).to(DOT), tl.permute(value, (1, 0, 2)).to(DOT))
        key_sum += tl.sum(key, axis=0)
        value_sum += tl.sum(value, axis=0)
    return state / t, key_sum / t, value_sum / t


@triton.jit
def _linear_fwd_kernel(
    q, k, v, cos, sin, out, t, sites, nh, dh, groups, stride_turn,
    q_stride_b, q_stride_t, q_stride_s, q_stride_h, k_stride_b, k_stride_t, k_stride_s, k_stride_h,
    v_stride_b, v_stride_t, v_stride_s, v_stride_h, o_stride_b, o_stride_t, o_stride_s, o_stride_h,
    CHUNK: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    b, site, group = _place(tl.program_id(0), groups, sites)
    dims, halves = tl.arange(0, D), tl.arange(0, D // 2)
    heads = group.to(tl.int32) * HB + tl.arange(0, HB)
    kept = (heads < nh)[None, :, None] & (dims < dh)[None, None, :]
    k_base, v_base = b * k_stride_b + site * k_stride_s, b * v_stride_b + site * v_stride_s
    q_base, o_base = b * q_stride_b + site * q_stride_s, b * o_stride_b + site * o_stride_s
    state, key_sum, value_sum = _state(
        k, v, cos, sin, k_base, v_base, b * stride_turn, t, heads, halves, dims, kept, dh // 2, k_stride_t, k_stride_h,
        v_stride_t, v_stride_h, CHUNK, D, HB, DOT,
    )  # fmt: skip
    state = state.to(DOT)
    for start in range(0, t, CHUNK):
        frames = start + tl.arange(0, CHUNK)
        mask = (frames < t)[:, None, None] & kept
        turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, halves, dh // 2)
        query = _load(q, q_base, frames, heads, dims, q_stride_t, q_stride_h, mask)
        query = _turn(query * _lengths(query)[1][:, :, None], turn_cos, turn_sin, CHUNK, HB, D)
        total = t * (1.0 + tl.sum(query * key_sum[None, :, :], axis=2))  # (CHUNK, HB)
        weight = tl.maximum(total, LEAST) / t
        mixed = tl.permute(_product(tl.permute(query, (1, 0, 2)).to(DOT), state), (1, 0, 2))
        mixed = _clamped((mixed + value_sum[None, :, :]) / weight[:, :, None], CLAMP)
        offsets = o_base + _offsets(frames, heads, dims, o_stride_t, o_stride_h)
        tl.store(out + offsets, mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _row_offsets(b, site, frames, heads, t, sites, nh):
    """Offsets (CHUNK, HB) into the (b, t, s, nh) numbers a row."""
    return ((b * t + frames.to(tl.int64)) * sites + site)[:, None] * nh + heads[None, :]


@triton.jit
def _linear_bwd_q_kernel(
    q, k, v, grad, cos, sin, dq, inverses, alongs, t, sites, nh, dh, groups, stride_turn,
    q_stride_b, q_stride_t, q_stride_s, q_stride_h, k_stride_b, k_stride_t, k_stride_s, k_stride_h,
    v_stride_b, v_stride_t, v_stride_s, v_stride_h, g_stride_b, g_stride_t, g_stride_s, g_stride_h,
    o_stride_b, o_stride_t, o_stride_s, o_stride_h,
    CHUNK: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    b, site, group = _place(tl.program_id(0), groups, sites)
    dims, halves = tl.arange(0, D), tl.arange(0, D // 2)
    heads = group.to(tl.int32) * HB + tl.arange(0, HB)
    kept = (heads < nh)[None, :, None] & (dims < dh)[None, None, :]
    k_base, v_base = b * k_stride_b + site * k_stride_s, b * v_stride_b + site * v_stride_s
    q_base, g_base = b * q_stride_b + site * q_stride_s, b * g_stride_b + site * g_stride_s
    o_base = b * o_stride_b + site * o_stride_s
    state, key_sum, value_sum = _state(
        k, v, cos, sin, k_base, v_base, b * stride_turn, t, heads, halves, dims, kept, dh // 2, k_stride_t, k_stride_h,
        v_stride_t, v_stride_h, CHUNK, D, HB, DOT,
    )  # fmt: skip
    state = tl.permute(state.to(DOT), (0, 2, 1))
    for start in range(0, t, CHUNK):
        frames = start + tl.arange(0, CHUNK)
        mask = (frames < t)[:, None, None] & kept
        turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, halves, dh // 2)
        query = _load(q, q_base, frames, heads, dims, q_stride_t, q_stride_h, mask)
        given = _load(grad, g_base, frames, heads, dims, g_stride_t, g_stride_h, mask)
        length, scale = _lengths(query)
        query *= scale[:, :, None]
        turned = _turn(query, turn_cos, turn_sin, CHUNK, HB, D)
        total = t * (1.0 + tl.sum(turned * key_sum[None, :, :], axis=2))  # (CHUNK, HB)
        inverse = t / tl.maximum(total, LEAST)
        slope = tl.permute(_product(tl.permute(given, (1, 0, 2)).to(DOT), state), (1, 0, 2))
        along = tl.sum(given * value_sum[None, :, :] + turned * slope, axis=2) * inverse
        along = tl.where(total >= LEAST, along, 0.0)
        slope = (slope - along[:, :, None] * key_sum[None, :, :]) * inverse[:, :, None]
        slope = _unit_gradient(_turn(slope, turn_cos, -turn_sin, CHUNK, HB, D), query, length, scale)
        offsets = o_base + _offsets(frames, heads, dims, o_stride_t, o_stride_h)
        tl.store(dq + offsets, slope.to(dq.dtype.element_ty), mask=mask)
        rows = _row_offsets(b, site, frames, heads, t, sites, nh)
        row_mask = (frames < t)[:, None] & (heads < nh)[None, :]
        tl.store(inverses + rows, inverse, mask=row_mask)
        tl.store(alongs + rows, along, mask=row_mask)


@triton.jit
def _linear_bwd_kv_kernel(
    q, k, v, grad, cos, sin, inverses, alongs, dk, dv, t, sites, nh, dh, groups, stride_turn,
    q_stride_b, q_stride_t, q_stride_s, q_stride_h, k_stride_b, k_stride_t, k_stride_s, k_stride_h,
    v_stride_b, v_stride_t, v_stride_s, v_stride_h, g_stride_b, g_stride_t, g_stride_s, g_stride_h,
    o_stride_b, o_stride_t, o_stride_s, o_stride_h,
    CHUNK: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, DOT: tl.constexpr, BALANCED: tl.constexpr,
):  # fmt: skip
    b, site, group = _place(tl.program_id(0), groups, sites)
    dims, halves = tl.arange(0, D), tl.arange(0, D // 2)
    heads = group.to(tl.int32) * HB + tl.arange(0, HB)
    kept = (heads < nh)[None, :, None] & (dims < dh)[None, None, :]
    k_base, v_base = b * k_stride_b + site * k_stride_s, b * v_stride_b + site * v_stride_s
    q_base, g_base = b * q_stride_b + site * q_stride_s, b * g_stride_b + site * g_stride_s
    o_base = b * o_stride_b + site * o_stride_s
    state = tl.zeros((HB, D, D), dtype=tl.float32)  # gradients of S, z and m
    key_sum = tl.zeros((HB, D), dtype=tl.float32)
    value_sum = tl.zeros((HB, D), dtype=tl.float32)
    for start in range(0, t, CHUNK):
        frames = start + tl.arange(0, CHUNK)
        mask = (frames < t)[:, None, None] & kept
        turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, halves, dh // 2)
        query = _load(q, q_base, frames, heads, dims, q_stride_t, q_stride_h, mask)
        given = _load(grad, g_base, frames, heads, dims, g_stride_t, g_stride_h, mask)
        rows = _row_offsets(b, site, frames, heads, t, sites, nh)
        row_mask = (frames < t)[:, None] & (heads < nh)[None, :]
        inverse = tl.load(inverses + rows, mask=row_mask, other=0.0)
        along = tl.load(alongs + rows, mask=row_mask, other=0.0)
        scale = _lengths(query)[1] * inverse
        query = _turn(query * scale[:, :, None], turn_cos, turn_sin, CHUNK, HB, D)  # q~ / denominator
        query = _clamped(query, BALANCED)
        state += _product(tl.permute(query, (1, 2, 0)).to(DOT), tl.permute(given, (1, 0, 2)).to(DOT))
        key_sum -= tl.sum(query * along[:, :, None], axis=0)
        value_sum += tl.sum(given * inverse[:, :, None], axis=0)
    state, most = _balance(state / t, BALANCED)
    state, key_sum, value_sum = state.to(DOT), key_sum / t, value_sum / t
    for start in range(0, t, CHUNK):
        frames = start + tl.arange(0, CHUNK)
        mask = (frames < t)[:, None, None] & kept
        turn_cos, turn_sin = _load_turns(cos, sin, b * stride_turn, frames, t, halves, dh // 2)
        key = _load(k, k_base, frames, heads, dims, k_stride_t, k_stride_h, mask)
        value = _load(v, v_base, frames, heads, dims, v_stride_t, v_stride_h, mask)
        length, scale = _lengths(key)
        key *= scale[:, :, None]
        turned = tl.permute(_turn(key, turn_cos, turn_sin, CHUNK, HB, D), (1, 0, 2))
        offsets = o_base + _offsets(frames, heads, dims, o_stride_t, o_stride_h)
        grad_v = tl.permute(_product(turned.to(DOT), state) * most, (1, 0, 2)) + value_sum[None, :, :]
        tl.store(dv + offsets, grad_v.to(dv.dtype.element_ty), mask=mask)
        slope = _product(tl.permute(value, (1, 0, 2)).to(DOT), tl.permute(state, (0, 2, 1))) * most
        slope = tl.permute(slope, (1, 0, 2)) + key_sum[None, :, :]
        slope = _unit_gradient(_turn(slope, turn_cos, -turn_sin, CHUNK, HB, D), key, length, scale)
        tl.store(dk + offsets, slope.to(dk.dtype.element_ty), mask=mask)
