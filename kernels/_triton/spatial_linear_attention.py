"""Triton backend of spatial ReLU linear attention: one program walks all tokens of one frame for one group of heads.

A group is as many heads as fill a 128-byte line of memory. Its states lie as blocks on the diagonal of one square tile
(columns, columns), so that a row of tokens is loaded in one piece; what the products put beside the blocks is dropped.
With fk = relu(k), fq = relu(q): S = c fk^T v, z = c sum fk, out = fq S / (fq·z + c eps), c the power of two at or
below 1/n. fq and fk are exact in the stored type; S, which is not, enters tensor cores as the sum of two stored-type
tiles, scaled by a power of two of its own that keeps float16 in range. Few programs, long sequences and wide heads go
to the three launches of joint_linear_attention, whose states have the same layout and the same c.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import backend_choice
from ..backend_choice import interpreting, programs
from . import joint_linear_attention as three_phases

FLOAT16_MAX = tl.constexpr(backend_choice.FLOAT16_MAX)
LEAST = tl.constexpr(1e-36)  # the inverse of less is infinite in float32
WIDEST = 64  # features of a head; a wider state leaves no registers for the tokens
WIDEST_BACKWARD = 32
LONGEST = 4096  # tokens; beyond, a program takes so long that the last ones run alone
SHORTEST = 512  # tokens; below, three launches cost more than idle multiprocessors
WAVES = 2  # programs a multiprocessor that keep its memory busy

# By compute capability: bytes of a token one program takes (so many heads), tokens of a tile, warps, stages.
FORWARD = {
    80: (128, 64, 8, 3), 86: (64, 64, 4, 3), 89: (128, 64, 8, 3), 90: (128, 64, 8, 3), 100: (64, 64, 4, 3),
    120: (64, 64, 4, 3),
}  # fmt: skip
BACKWARD = {arch: (32, 64, 4, 2) for arch in FORWARD}
FLOAT32, FLOAT32_BACKWARD, UNKNOWN = (128, 32, 4, 2), (128, 16, 4, 2), (128, 32, 4, 2)


@triton.jit
def _relu(x):
    """Zero below zero; a NaN stays one."""
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def _head_sums(x, HB: tl.constexpr, D: tl.constexpr):
    """(rows, HB * D) -> each value replaced by the sum over its head's columns."""
    ROWS: tl.constexpr = x.shape[0]
    if HB == 1:
        sums = tl.broadcast_to(tl.sum(x, axis=1)[:, None], (ROWS, D))
    else:
        by_head = tl.sum(tl.reshape(x, (ROWS, HB, D)), axis=2)
        sums = tl.reshape(tl.broadcast_to(by_head[:, :, None], (ROWS, HB, D)), (ROWS, HB * D))
    return sums


@triton.jit
def _split(x, DOT: tl.constexpr):
    """x (rows, columns) as (high, low, back): x = (high + low) * back, back a power of two, high at most 2^15."""
    exponent = tl.max(tl.max(tl.abs(x), axis=1), axis=0).to(tl.int32, bitcast=True) >> 23
    exponent = tl.maximum(exponent, 67)  # below 2^-60 all is left as it is
    forth = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    back = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    scaled = x * forth
    high = scaled.to(DOT)
    return high, (scaled - high.to(tl.float32)).to(DOT), back


@triton.jit
def _product(exact, high, low, DOT: tl.constexpr):
    """exact @ (high + low); exact is a float32 tile that DOT holds without loss. Float32 is not split: low is zero."""
    total = tl.dot(exact.to(DOT), high, input_precision="ieee")
    if DOT != tl.float32:
        total += tl.dot(exact.to(DOT), low, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["n"])
def _spatial_fwd_kernel(
    q, k, v, out, state, n, nh, factor, eps,
    q_stride_m, q_stride_n, q_stride_h, k_stride_m, k_stride_n, k_stride_h, v_stride_m, v_stride_n, v_stride_h,
    DH: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, BN: tl.constexpr, DOT: tl.constexpr,
    KEEP: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = HB * D
    groups = tl.cdiv(nh, HB)
    m = (tl.program_id(0) // groups).to(tl.int64)
    column = tl.arange(0, C)
    head = ((tl.program_id(0) % groups) * HB + column // D).to(tl.int64)
    within = column % D
    kept = (head < nh) & (within < DH)
    k += m * k_stride_m
    v += m * v_stride_m
    q += m * q_stride_m
    k_column, v_column, q_column = head * k_stride_h + within, head * v_stride_h + within, head * q_stride_h + within

    sums = tl.zeros((C, C), dtype=tl.float32)
    key_sums = tl.zeros((BN, C), dtype=tl.float32)
    for start in range(0, n, BN):
        token = start + tl.arange(0, BN)
        mask = (token < n)[:, None] & kept[None, :]
        at = token.to(tl.int64)[:, None]
        keys = _relu(tl.load(k + (at * k_stride_n + k_column[None, :]), mask=mask, other=0.0).to(tl.float32))
        values = tl.load(v + (at * v_stride_n + v_column[None, :]), mask=mask, other=0.0).to(tl.float32)
        key_sums += keys
        sums = tl.dot(tl.trans(keys.to(DOT)), values.to(DOT), sums, input_precision="ieee")
    z = tl.sum(key_sums, axis=0) * factor  # (C,)
    same_head = (column // D)[:, None] == (column // D)[None, :]
    sums = tl.where(same_head, sums * factor, 0.0)  # (C, C), rows k, columns v

    if KEEP:
        state += m * nh * ((DH + 1) * DH)
        row = head * ((DH + 1) * DH) + within * DH
        tl.store(state + (row[:, None] + within[None, :]), sums, mask=same_head & kept[:, None] & kept[None, :])
        tl.store(state + (head * ((DH + 1) * DH) + (DH * DH + within)), z, mask=kept)

    high, low, back = _split(sums, DOT)
    out += m * n * nh * DH
    for start in range(0, n, BN):
        token = start + tl.arange(0, BN)
        mask = (token < n)[:, None] & kept[None, :]
        at = token.to(tl.int64)[:, None]
        queries = _relu(tl.load(q + (at * q_stride_n + q_column[None, :]), mask=mask, other=0.0).to(tl.float32))
        weight = _head_sums(queries * z[None, :], HB, D) + eps
        mixed = _product(queries, high, low, DOT) * back / weight
        if CLAMP:
            mixed = tl.where(mixed > FLOAT16_MAX, FLOAT16_MAX, tl.where(mixed < -FLOAT16_MAX, -FLOAT16_MAX, mixed))
        target = out + (at * (nh * DH) + (head * DH + within)[None, :])
        tl.store(target, mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _spatial_bwd_kernel(
    grad, q, k, v, state, grad_q, grad_k, grad_v, n, nh, factor, eps,
    grad_stride_m, grad_stride_n, grad_stride_h, q_stride_m, q_stride_n, q_stride_h,
    k_stride_m, k_stride_n, k_stride_h, v_stride_m, v_stride_n, v_stride_h,
    DH: tl.constexpr, D: tl.constexpr, HB: tl.constexpr, BN: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = HB * D
    groups = tl.cdiv(nh, HB)
    m = (tl.program_id(0) // groups).to(tl.int64)
    column = tl.arange(0, C)
    head = ((tl.program_id(0) % groups) * HB + column // D).to(tl.int64)
    within = column % D
    kept = (head < nh) & (within < DH)
    same_head = (column // D)[:, None] == (column // D)[None, :]
    grad += m * grad_stride_m
    q += m * q_stride_m
    k += m * k_stride_m
    v += m * v_stride_m
    q_column, grad_column = head * q_stride_h + within, head * grad_stride_h + within
    k_column, v_column = head * k_stride_h + within, head * v_stride_h + within
    whole = head * DH + within  # column of a contiguous (n, nh, DH)

    state += m * nh * ((DH + 1) * DH)
    row = head * ((DH + 1) * DH) + within * DH
    block = same_head & kept[:, None] & kept[None, :]
    turned = tl.load(state + (row[None, :] + within[:, None]), mask=block, other=0.0)  # (C, C), rows v, columns k
    z = tl.load(state + (head * ((DH + 1) * DH) + (DH * DH + within)), mask=kept, other=0.0)
    high, low, back = _split(turned, DOT)

    # Pass 1. r = fq / w, g = grad S^T: dq = (g / w + dw z) [q > 0], dw = -r·g / w, dS = r^T grad, dz = sum fq dw.
    # r z lies in [0, 1], r does not: (r z)^T grad is summed, in units of 2^-13, and divided by z at the end.
    grad_sums = tl.zeros((C, C), dtype=tl.float32)
    grad_key_sums = tl.zeros((BN, C), dtype=tl.float32)
    grad_q += m * n * nh * DH
    for start in range(0, n, BN):
        token = start + tl.arange(0, BN)
        mask = (token < n)[:, None] & kept[None, :]
        at = token.to(tl.int64)[:, None]
        raw = tl.load(q + (at * q_stride_n + q_column[None, :]), mask=mask, other=0.0).to(tl.float32)
        incoming = tl.load(grad + (at * grad_stride_n + grad_column[None, :]), mask=mask, other=0.0).to(tl.float32)
        queries = _relu(raw)
        weight = _head_sums(queries * z[None, :], HB, D) + eps
        ratio = queries / weight
        g = _product(incoming, high, low, DOT) * back
        grad_weight = -_head_sums(ratio * g, HB, D) / weight
        slope = tl.where(raw <= 0.0, 0.0, g / weight + grad_weight * z[None, :])
        target = grad_q + (at * (nh * DH) + whole[None, :])
        tl.store(target, slope.to(grad_q.dtype.element_ty), mask=mask)
        grad_key_sums += queries * grad_weight
        share = ratio * z[None, :] * 8192.0
        upper = share.to(DOT)
        grad_sums = tl.dot(tl.trans(upper), incoming.to(DOT), grad_sums, input_precision="ieee")
        if DOT != tl.float32:
            lower = (share - upper.to(tl.float32)).to(DOT)
            grad_sums = tl.dot(tl.trans(lower), incoming.to(DOT), grad_sums, input_precision="ieee")

    # Pass 2: dk = (v dS^T + dz) [k > 0] c, dv = c fk dS. Where z is 0 no k is positive: dS is not needed.
    scale = tl.where(z > LEAST, factor / 8192.0 / tl.where(z > LEAST, z, 1.0), 0.0)
    grad_sums = tl.where(same_head, grad_sums * scale[:, None], 0.0)  # rows k, columns v
    grad_z = tl.sum(grad_key_sums, axis=0) * factor
    high, low, back = _split(grad_sums, DOT)
    grad_k += m * n * nh * DH
    grad_v += m * n * nh * DH
    for start in range(0, n, BN):
        token = start + tl.arange(0, BN)
        mask = (token < n)[:, None] & kept[None, :]
        at = token.to(tl.int64)[:, None]
        raw = tl.load(k + (at * k_stride_n + k_column[None, :]), mask=mask, other=0.0).to(tl.float32)
        values = tl.load(v + (at * v_stride_n + v_column[None, :]), mask=mask, other=0.0).to(tl.float32)
        slope = _product(values, tl.trans(high), tl.trans(low), DOT) * back + grad_z[None, :]
        slope = tl.where(raw <= 0.0, 0.0, slope)
        target = at * (nh * DH) + whole[None, :]
        tl.store(grad_k + target, slope.to(grad_k.dtype.element_ty), mask=mask)
        mixed = _product(_relu(raw), high, low, DOT) * back
        tl.store(grad_v + target, mixed.to(grad_v.dtype.element_ty), mask=mask)


def padded(dh: int) -> int:
    """Columns a head takes: the next power of two, at least the 16 that a product needs."""
    return max(16, triton.next_power_of_2(dh))


def launch_options(arch: int, dh: int, n: int, itemsize: int = 2, *, backward: bool = False) -> dict[str, int]:
    """Heads of a program, tokens of a tile, warps, stages; by compute capability (90 = 9.0), head size and tokens.

    A card that is not listed takes the row of the nearest older one.
    """
    table, float32 = (BACKWARD, FLOAT32_BACKWARD) if backward else (FORWARD, FLOAT32)
    nearest = max((known for known in table if known <= arch), default=None)
    line, block, warps, stages = float32 if itemsize == 4 else table.get(nearest, UNKNOWN)
    heads = max(1, line // (padded(dh) * itemsize))
    block = max(16, min(block, triton.next_power_of_2(n)))
    return {"HB": heads, "BN": block, "num_warps": warps, "num_stages": stages}


def takes_three_phases(
    m: int, n: int, nh: int, dh: int, heads: int, processors: int, *, backward: bool = False
) -> bool:
    """Whether one program a frame and group of heads is the worse choice.

    So it is for heads too wide for its registers, for long sequences, and where m frames make fewer programs than keep
    the card's multiprocessors busy, unless the sequence is too short to be worth three launches.
    """
    few = m * -(-nh // heads) < WAVES * processors
    wide = padded(dh) > (WIDEST_BACKWARD if backward else WIDEST)
    return wide or n > LONGEST or (n >= SHORTEST and few)


@functools.cache
def _card(device: torch.device) -> tuple[int, int]:
    """(compute capability, multiprocessors); the interpreter has none of either."""
    if device.type != "cuda":
        return 0, 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor, torch.cuda.get_device_properties(device).multi_processor_count


def _constants(dh: int, dtype: torch.dtype) -> dict:
    """What a kernel is compiled for. The interpreter computes bfloat16 wrongly; float16 it computes as a card does."""
    dot = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
    if dtype == torch.bfloat16 and interpreting():
        dot = tl.float32
    return {"DH": dh, "D": padded(dh), "DOT": dot}


def _readable(x: Tensor) -> Tensor:
    """Rows must be dense; every other stride is free."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _result(like: Tensor) -> Tensor:
    """What a kernel writes: float32 under the interpreter, which would truncate; rounded by the caller."""
    return torch.empty(like.shape, dtype=torch.float32 if interpreting() else like.dtype, device=like.device)


def attend(q: Tensor, k: Tensor, v: Tensor, *, eps: float, keep: bool = False) -> tuple[Tensor, Tensor]:
    """(out (m, n, nh, dh), state (m, nh, dh + 1, dh) float32 with z as its last row; without keep it may be empty)."""
    m, n, nh, dh = v.shape
    if v.numel() == 0:
        return torch.empty_like(v, memory_format=torch.contiguous_format), v.new_zeros(
            (m, nh, dh + 1, dh) if keep else (0,), dtype=torch.float32
        )
    q, k, v = map(_readable, (q, k, v))
    arch, processors = _card(v.device)
    options = launch_options(arch, dh, n, v.element_size())
    with torch.cuda.device_of(v):
        if takes_three_phases(m, n, nh, dh, options["HB"], processors):
            return three_phases.attend(q, k, v, eps=eps)
        grid = (programs(m, -(-nh // options["HB"])),)
        out = _result(v)
        state = torch.empty((m, nh, dh + 1, dh) if keep else (0,), dtype=torch.float32, device=v.device)
        factor = three_phases.factor_of(n)
        _spatial_fwd_kernel[grid](
            q, k, v, out, state, n, nh, factor, eps * factor, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            KEEP=keep, CLAMP=v.dtype == torch.float16, **_constants(dh, v.dtype), **options,
        )  # fmt: skip
    return out.to(v.dtype), state


def spatial_linear_attention_triton(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """Launch the forward pass; shapes, types and devices are checked by the caller."""
    return attend(q, k, v, eps=eps)[0]


def spatial_linear_attention_backward_triton(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, eps: float = 1e-15
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, contiguous; state as `attend` keeps it."""
    m, n, nh, dh = v.shape
    if v.numel() == 0:
        return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    grad, q, k, v = map(_readable, (grad, q, k, v))
    arch, processors = _card(v.device)
    options = launch_options(arch, dh, n, v.element_size(), backward=True)
    factor = three_phases.factor_of(n)
    with torch.cuda.device_of(v):
        if takes_three_phases(m, n, nh, dh, options["HB"], processors, backward=True):
            return three_phases.joint_linear_attention_backward_triton(grad, q, k, v, state, eps=eps)[:3]
        grid = (programs(m, -(-nh // options["HB"])),)
        grads = _result(q), _result(k), _result(v)
        _spatial_bwd_kernel[grid](
            grad, q, k, v, state, *grads, n, nh, factor, eps * factor,
            *grad.stride()[:3], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            **_constants(dh, v.dtype), **options,
        )  # fmt: skip
    return tuple(x.to(v.dtype) for x in grads)
