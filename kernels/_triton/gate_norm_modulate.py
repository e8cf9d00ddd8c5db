"""Triton backend of gate, residual, norm and modulation: a program walks over some tokens of one frame, one at a time.

The rows of that frame (gate, shift, scale, bias) are read once a program and stay in registers. A token's d columns lie
in two parts, so that few lanes idle where d is no power of two: `head`, the largest power of two, and `tail`, the rest
rounded up and masked; 1152 = 1024 + 128. Both are one-dimensional and meet in scalars only: in tiles of several tokens
the compiler moved the head into the tail's layout, through shared memory. Absent tensors are None, which Triton folds
into the compiled kernel. Backward recomputes the norm from x and y instead of saving statistics. Its sums over tokens
are written once a program and added up in a second, ordered step: no atomics, so that equal inputs give equal bits.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import backend_choice
from ..backend_choice import interpreting, programs
from .gate_norm_modulate_plan import columns, launch_options

FLOAT16_MAX = tl.constexpr(backend_choice.FLOAT16_MAX)


@functools.cache
def capability(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0; 0 without a card."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@triton.jit
def _total(head, tail, D1: tl.constexpr):
    """Sum over a token's columns."""
    total = tl.sum(head, axis=0)
    if D1:
        total += tl.sum(tail, axis=0)
    return total


@triton.jit
def _part(pointer, at, mask):
    """Columns in float32; masked lanes are zero."""
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _row(values, table, column, kept):
    """values + table at these columns in float32; zeros, which nobody reads, when there are no values."""
    row = tl.zeros(column.shape, dtype=tl.float32)
    if values is not None:
        row = tl.load(values + column, mask=kept, other=0.0).to(tl.float32)
        if table is not None:
            row += tl.load(table + column, mask=kept, other=0.0).to(tl.float32)
    return row


@triton.jit
def _summed(x, y, column, kept, gate, bias, GATED: tl.constexpr, BIASED: tl.constexpr):
    """x + bias + gate·y of one token, and y; gate and bias are rows."""
    out = _part(x, column, kept)
    if BIASED:
        out += bias
    added = out
    if y is not None:
        added = _part(y, column, kept)
        if GATED:
            out += gate * added
        else:
            out += added
    return out, added


@triton.jit
def _normed(head, tail, tail_kept, eps, D: tl.constexpr, D1: tl.constexpr):
    """Both parts of a token with mean 0 and deviation 1, and 1 / deviation."""
    INVERSE: tl.constexpr = 1.0 / D
    mean = _total(head, tail, D1) * INVERSE
    head -= mean
    if D1:
        tail = tl.where(tail_kept, tail - mean, 0.0)
    rest = _total(head, tail, D1) * INVERSE  # what rounding left in the mean: large where the mean is
    variance = _total(head * head, tail * tail, D1) * INVERSE - rest * rest
    rstd = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    return (head - rest) * rstd, (tail - rest) * rstd, rstd


@triton.jit
def _modulated(value, shift, scale, SHIFTED: tl.constexpr, SCALED: tl.constexpr):
    """value·(1 + scale) + shift; shift and scale are rows."""
    if SCALED:
        value *= 1.0 + scale
    if SHIFTED:
        value += shift
    return value


@triton.jit
def _stored(pointer, at, value, mask, CLAMP: tl.constexpr):
    """Round and store; CLAMP keeps float16 from overflowing and lets NaN pass."""
    if CLAMP:
        value = tl.where(value > FLOAT16_MAX, FLOAT16_MAX, tl.where(value < -FLOAT16_MAX, -FLOAT16_MAX, value))
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["t", "n"])
def _gate_norm_modulate_fwd_kernel(
    x, y, gate, gate_table, shift, shift_table, scale, scale_table, bias, x_new, h, t, n, eps,
    x_stride_b, x_stride_t, x_stride_n, y_stride_b, y_stride_t, y_stride_n, gate_stride_b, gate_stride_t,
    shift_stride_b, shift_stride_t, scale_stride_b, scale_stride_t,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, CHUNK: tl.constexpr,
    CLAMP: tl.constexpr,
):  # fmt: skip
    chunks = tl.cdiv(n, CHUNK)
    frame = tl.program_id(0) // chunks
    first = (tl.program_id(0) % chunks) * CHUNK
    b, f = (frame // t).to(tl.int64), (frame % t).to(tl.int64)
    x += b * x_stride_b + f * x_stride_t
    target = frame.to(tl.int64) * n * D
    if y is not None:
        y += b * y_stride_b + f * y_stride_t
    if gate is not None:
        gate += b * gate_stride_b + f * gate_stride_t
    if shift is not None:
        shift += b * shift_stride_b + f * shift_stride_t
    if scale is not None:
        scale += b * scale_stride_b + f * scale_stride_t
    column = tl.arange(0, D0)
    kept = column < D
    gate_row, bias_row = _row(gate, gate_table, column, kept), _row(bias, None, column, kept)
    shift_row, scale_row = _row(shift, shift_table, column, kept), _row(scale, scale_table, column, kept)
    tail_column, tail_kept = column, kept
    gate_tail, bias_tail, shift_tail, scale_tail = gate_row, bias_row, shift_row, scale_row
    if D1:
        tail_column = D0 + tl.arange(0, D1)
        tail_kept = tail_column < D
        gate_tail, bias_tail = _row(gate, gate_table, tail_column, tail_kept), _row(bias, None, tail_column, tail_kept)
        shift_tail = _row(shift, shift_table, tail_column, tail_kept)
        scale_tail = _row(scale, scale_table, tail_column, tail_kept)

    GATED: tl.constexpr = gate is not None
    BIASED: tl.constexpr = bias is not None
    SHIFTED: tl.constexpr = shift is not None
    SCALED: tl.constexpr = scale is not None
    for index in range(first, tl.minimum(first + CHUNK, n)):
        token = tl.cast(index, tl.int64)
        y_token = y
        if y is not None:
            y_token = y + token * y_stride_n
        x_token, at = x + token * x_stride_n, target + token * D
        head, _ = _summed(x_token, y_token, column, kept, gate_row, bias_row, GATED, BIASED)
        tail = head
        if D1:
            tail, _ = _summed(x_token, y_token, tail_column, tail_kept, gate_tail, bias_tail, GATED, BIASED)
        if x_new is not None:
            _stored(x_new + at, column, head, kept, CLAMP)
            if D1:
                _stored(x_new + at, tail_column, tail, tail_kept, CLAMP)
        if h is not None:
            head, tail, _ = _normed(head, tail, tail_kept, eps, D, D1)
            _stored(h + at, column, _modulated(head, shift_row, scale_row, SHIFTED, SCALED), kept, CLAMP)
            if D1:
                tail = _modulated(tail, shift_tail, scale_tail, SHIFTED, SCALED)
                _stored(h + at, tail_column, tail, tail_kept, CLAMP)


@triton.jit
def _sums(partial, SLOT: tl.constexpr, head, tail, column, kept, tail_column, tail_kept, D: tl.constexpr,
          D1: tl.constexpr):  # fmt: skip
    """Store a program's sums over its tokens in their slot."""
    tl.store(partial + (SLOT * D + column), head, mask=kept)
    if D1:
        tl.store(partial + (SLOT * D + tail_column), tail, mask=tail_kept)


@triton.jit(do_not_specialize=["t", "n"])
def _gate_norm_modulate_bwd_kernel(
    x, y, gate, gate_table, scale, scale_table, bias, grad_x_new, grad_h, grad_x, grad_y, partial, t, n, eps,
    x_stride_b, x_stride_t, x_stride_n, y_stride_b, y_stride_t, y_stride_n, gate_stride_b, gate_stride_t,
    scale_stride_b, scale_stride_t, new_stride_b, new_stride_t, new_stride_n, h_stride_b, h_stride_t, h_stride_n,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, CHUNK: tl.constexpr,
    SLOTS: tl.constexpr, SHIFT_SLOT: tl.constexpr, SCALE_SLOT: tl.constexpr, BIAS_SLOT: tl.constexpr,
):  # fmt: skip
    chunks = tl.cdiv(n, CHUNK)
    frame = tl.program_id(0) // chunks
    first = (tl.program_id(0) % chunks) * CHUNK
    b, f = (frame // t).to(tl.int64), (frame % t).to(tl.int64)
    x += b * x_stride_b + f * x_stride_t
    target = frame.to(tl.int64) * n * D
    if y is not None:
        y += b * y_stride_b + f * y_stride_t
    if gate is not None:
        gate += b * gate_stride_b + f * gate_stride_t
    if scale is not None:
        scale += b * scale_stride_b + f * scale_stride_t
    if grad_x_new is not None:
        grad_x_new += b * new_stride_b + f * new_stride_t
    if grad_h is not None:
        grad_h += b * h_stride_b + f * h_stride_t
    column = tl.arange(0, D0)
    kept = column < D
    gate_row, bias_row = _row(gate, gate_table, column, kept), _row(bias, None, column, kept)
    scale_row = _row(scale, scale_table, column, kept)
    tail_column, tail_kept, gate_tail, bias_tail, scale_tail = column, kept, gate_row, bias_row, scale_row
    sums = tl.zeros((D0,), dtype=tl.float32)
    gate_sum, shift_sum, scale_sum, bias_sum = sums, sums, sums, sums
    gate_rest, shift_rest, scale_rest, bias_rest = sums, sums, sums, sums
    if D1:
        tail_column = D0 + tl.arange(0, D1)
        tail_kept = tail_column < D
        gate_tail, bias_tail = _row(gate, gate_table, tail_column, tail_kept), _row(bias, None, tail_column, tail_kept)
        scale_tail = _row(scale, scale_table, tail_column, tail_kept)
        rests = tl.zeros((D1,), dtype=tl.float32)
        gate_rest, shift_rest, scale_rest, bias_rest = rests, rests, rests, rests

    GATED: tl.constexpr = gate is not None
    BIASED: tl.constexpr = bias is not None
    SCALED: tl.constexpr = scale is not None
    INVERSE: tl.constexpr = 1.0 / D
    for index in range(first, tl.minimum(first + CHUNK, n)):
        token = tl.cast(index, tl.int64)
        y_token = y
        if y is not None:
            y_token = y + token * y_stride_n
        x_token, at = x + token * x_stride_n, target + token * D
        head, y_head = _summed(x_token, y_token, column, kept, gate_row, bias_row, GATED, BIASED)
        tail, y_tail = head, y_head
        if D1:
            tail, y_tail = _summed(x_token, y_token, tail_column, tail_kept, gate_tail, bias_tail, GATED, BIASED)
        out, out_tail = tl.zeros_like(head), tl.zeros_like(tail)
        if grad_h is not None:
            head, tail, rstd = _normed(head, tail, tail_kept, eps, D, D1)
            given = _part(grad_h + token * h_stride_n, column, kept)
            given_tail = given
            if D1:
                given_tail = _part(grad_h + token * h_stride_n, tail_column, tail_kept)
            shift_sum += given
            shift_rest += given_tail
            scale_sum += given * head
            scale_rest += given_tail * tail
            given = _modulated(given, scale_row, scale_row, False, SCALED)
            given_tail = _modulated(given_tail, scale_tail, scale_tail, False, SCALED)
            mean = _total(given, given_tail, D1) * INVERSE
            slope = _total(given * head, given_tail * tail, D1) * INVERSE
            out, out_tail = rstd * (given - mean - head * slope), rstd * (given_tail - mean - tail * slope)
        if grad_x_new is not None:
            out += _part(grad_x_new + token * new_stride_n, column, kept)
            if D1:
                out_tail += _part(grad_x_new + token * new_stride_n, tail_column, tail_kept)
        if grad_x is not None:
            _stored(grad_x + at, column, out, kept, False)
            if D1:
                _stored(grad_x + at, tail_column, out_tail, tail_kept, False)
        if grad_y is not None:
            _stored(grad_y + at, column, out * gate_row, kept, False)
            if D1:
                _stored(grad_y + at, tail_column, out_tail * gate_tail, tail_kept, False)
        gate_sum += out * y_head
        gate_rest += out_tail * y_tail
        bias_sum += out
        bias_rest += out_tail

    if partial is not None:
        partial += tl.program_id(0).to(tl.int64) * (SLOTS * D)
        if GATED:  # always slot 0
            _sums(partial, 0, gate_sum, gate_rest, column, kept, tail_column, tail_kept, D, D1)
        if SHIFT_SLOT >= 0:
            _sums(partial, SHIFT_SLOT, shift_sum, shift_rest, column, kept, tail_column, tail_kept, D, D1)
        if SCALE_SLOT >= 0:
            _sums(partial, SCALE_SLOT, scale_sum, scale_rest, column, kept, tail_column, tail_kept, D, D1)
        if BIAS_SLOT >= 0:
            _sums(partial, BIAS_SLOT, bias_sum, bias_rest, column, kept, tail_column, tail_kept, D, D1)


def last_dense(x: Tensor | None) -> Tensor | None:
    """x with its channels side by side in memory; copied only when they are not."""
    return x if x is None or x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _strides(rows: Tensor | None, frames: int) -> tuple[int, int]:
    """Steps over samples and frames of rows (b, t or 1, d); one row for all frames is read again and again."""
    if rows is None:
        return 0, 0
    return rows.stride(0), rows.stride(1) if rows.shape[1] == frames else 0


def _steps(x: Tensor | None) -> tuple[int, int, int]:
    """Steps over samples, frames and tokens."""
    return (0, 0, 0) if x is None else x.stride()[:3]


def gate_norm_modulate_triton(
    x: Tensor, y: Tensor | None, gate: Tensor | None, gate_table: Tensor | None, shift: Tensor | None,
    shift_table: Tensor | None, scale: Tensor | None, scale_table: Tensor | None, bias: Tensor | None, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch the forward kernel: (x_new, h), each contiguous; a tensor of no elements where there is none."""
    x, y, gate, shift, scale = (last_dense(part) for part in (x, y, gate, shift, scale))
    gate_table, shift_table, scale_table, bias = (last_dense(p) for p in (gate_table, shift_table, scale_table, bias))
    b, t, n, d = x.shape
    dtype = torch.float32 if interpreting() else x.dtype
    has_sum, has_norm = y is not None or bias is not None, shift is not None or scale is not None
    x_new = torch.empty(x.shape if has_sum else 0, dtype=dtype, device=x.device)
    h = torch.empty(x.shape if has_norm else 0, dtype=dtype, device=x.device)
    if x.numel():
        options = launch_options(capability(x.device), d, b * t * n)
        head, tail = columns(d)
        with torch.cuda.device_of(x):
            _gate_norm_modulate_fwd_kernel[(programs(b * t, triton.cdiv(n, options["CHUNK"])),)](
                x, y, gate, gate_table, shift, shift_table, scale, scale_table, bias,
                x_new if has_sum else None, h if has_norm else None, t, n, eps, *_steps(x), *_steps(y),
                *_strides(gate, t), *_strides(shift, t), *_strides(scale, t),
                D=d, D0=head, D1=tail, CLAMP=x.dtype == torch.float16, **options,
            )  # fmt: skip
    return x_new.to(x.dtype), h.to(x.dtype)


def gate_norm_modulate_backward_triton(
    grad_x_new: Tensor | None, grad_h: Tensor | None, x: Tensor, y: Tensor | None, gate: Tensor | None,
    gate_table: Tensor | None, has_shift: bool, scale: Tensor | None, scale_table: Tensor | None,
    bias: Tensor | None, eps: float, sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Launch the backward kernel: (grad_x, grad_y, sums (b, t, slots, d) float32).

    grad_x has no elements without grad_h (it is grad_x_new then), grad_y none without gate (it is grad_x then), sums
    none unless asked for. Slots: sums over tokens of the gradients of gate, shift, scale, bias, as many as there are.
    """
    grad_x_new, grad_h, x, y, gate, scale = (last_dense(part) for part in (grad_x_new, grad_h, x, y, gate, scale))
    gate_table, scale_table, bias = (last_dense(part) for part in (gate_table, scale_table, bias))
    b, t, n, d = x.shape
    has = {"gate": gate is not None, "shift": has_shift and grad_h is not None,
           "scale": scale is not None and grad_h is not None, "bias": bias is not None}  # fmt: skip
    slots = [name for name, here in has.items() if here and sums]
    at = {f"{name.upper()}_SLOT": slots.index(name) if name in slots else -1 for name in ("shift", "scale", "bias")}
    options = launch_options(capability(x.device), d, b * t * n, "backward")
    chunks = triton.cdiv(n, options["CHUNK"])
    stored = {"device": x.device, "dtype": torch.float32 if interpreting() else x.dtype}
    grad_x = torch.empty(0 if grad_h is None else x.shape, **stored)
    grad_y = torch.empty(0 if gate is None else x.shape, **stored)
    partial = torch.empty((b, t, chunks, len(slots), d), dtype=torch.float32, device=x.device)
    if x.numel():
        head, tail = columns(d)
        with torch.cuda.device_of(x):
            _gate_norm_modulate_bwd_kernel[(programs(b * t, chunks),)](
                x, y, gate, gate_table, scale, scale_table, bias, grad_x_new, grad_h,
                None if grad_h is None else grad_x, None if gate is None else grad_y, partial if slots else None,
                t, n, eps, *_steps(x), *_steps(y), *_strides(gate, t), *_strides(scale, t), *_steps(grad_x_new),
                *_steps(grad_h), D=d, D0=head, D1=tail, SLOTS=len(slots), **at, **options,
            )  # fmt: skip
    y_dtype = x.dtype if y is None else y.dtype
    return grad_x.to(x.dtype), grad_y.to(y_dtype), partial.sum(2)
