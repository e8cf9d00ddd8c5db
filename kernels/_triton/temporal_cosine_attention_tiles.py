"""Tiles of temporal 1 + cos attention that its kernels share: loads, turns, lengths, products, gradients."""

import triton
import triton.language as tl

from .. import backend_choice
from . import temporal_cosine_attention_plan as plan

SHORTEST, LEAST = tl.constexpr(plan.SHORTEST), tl.constexpr(plan.LEAST)
FLOAT16_MAX = tl.constexpr(backend_choice.FLOAT16_MAX)


@triton.jit
def _offsets(frames, heads, dims, stride_t, stride_h):
    """(T,), (HB,), (D,) -> offsets (T, HB, D); the last stride is 1."""
    rows = frames.to(tl.int64)[:, None, None] * stride_t + heads.to(tl.int64)[None, :, None] * stride_h
    return rows + dims[None, None, :]


@triton.jit
def _load(pointer, base, frames, heads, dims, stride_t, stride_h, mask):
    """A tile (T, HB, D) in float32, zero where masked."""
    return tl.load(pointer + base + _offsets(frames, heads, dims, stride_t, stride_h), mask=mask, other=0.0).to(
        tl.float32
    )


@triton.jit
def _load_turns(cos, sin, base, frames, t, halves, half):
    """Cosines and sines (T, 1, D/2) of a program's row of the tables."""
    offsets = base + frames.to(tl.int64)[:, None] * half + halves[None, :]
    mask = (frames[:, None] < t) & (halves[None, :] < half)
    turn_cos = tl.load(cos + offsets, mask=mask, other=0.0)
    turn_sin = tl.load(sin + offsets, mask=mask, other=0.0)
    return turn_cos[:, None, :], turn_sin[:, None, :]


@triton.jit
def _lengths(x):
    """Lengths (T, HB) along the last axis, and what makes a vector one long."""
    length = tl.sqrt(tl.sum(x * x, axis=2))
    return length, 1.0 / tl.maximum(length, SHORTEST)


@triton.jit
def _turn(x, cos, sin, T: tl.constexpr, HB: tl.constexpr, D: tl.constexpr):
    """Rotate the interleaved pairs of x (T, HB, D) by tables (T, 1, D/2); back again with -sin."""
    even, odd = tl.split(tl.reshape(x, (T, HB, D // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (T, HB, D))


@triton.jit
def _product(a, b):
    """Batched product (HB, M, K) x (HB, K, N) in float32.

    Triton gives each warp of a batched product whole matrices: a single one is multiplied flat, shared by all warps.
    """
    if a.shape[0] == 1:
        flat = tl.dot(
            tl.reshape(a, (a.shape[1], a.shape[2])), tl.reshape(b, (b.shape[1], b.shape[2])), input_precision="ieee"
        )
        out = flat[None, :, :]
    else:
        out = tl.dot(a, b, input_precision="ieee")
    return out


@triton.jit
def _unit_gradient(grad, unit, length, scale):
    """Gradient of x from that of unit = x / max(length, 1e-12); all (T, HB, D), lengths (T, HB)."""
    along = tl.where(length >= SHORTEST, tl.sum(unit * grad, axis=2), 0.0)
    return (grad - unit * along[:, :, None]) * scale[:, :, None]


@triton.jit
def _clamped(x, CLAMP: tl.constexpr):
    """Within float16's range where CLAMP; a NaN stays one."""
    if CLAMP:
        x = tl.where(x > FLOAT16_MAX, FLOAT16_MAX, tl.where(x < -FLOAT16_MAX, -FLOAT16_MAX, x))
    return x


@triton.jit
def _place(pid, groups, sites):
    """Program -> (sample, site, group of heads), int64; neighbours share a site's cache lines."""
    pid = pid.to(tl.int64)
    rest = pid // groups
    return rest // sites, rest % sites, pid % groups


@triton.jit
def _balance(x, BALANCED: tl.constexpr):
    """x (HB, M, N) as (x / most, most): float16 products of gradients neither overflow nor vanish."""
    most = tl.full((x.shape[0], 1, 1), 1.0, tl.float32)
    if BALANCED:
        most = tl.maximum(tl.max(tl.max(tl.abs(x), axis=2), axis=1), 1e-30)[:, None, None]
    return x / most, most
