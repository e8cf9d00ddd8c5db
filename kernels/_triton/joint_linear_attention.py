"""ReLU linear attention over one long token axis in three launches: partial states, their sum, outputs.

x' = relu(x · rstd · weight) for q and k; R rotates pairs (2i, 2i + 1) of x' by the token's place in the grid.
    state = c · sum_j R k'_j v_j^T    key sum = c · sum_j k'_j    out_i = (R q'_i state) / (q'_i · key sum + c · eps)
c is the power of two at or below 1/n: sums stay the size of one token's, and no product is rounded by it.
Backward: the gradient of a state is a state again (of q and the rows' weights), so the same launches serve twice.
A head's features are kept as two halves, even and odd members of the pairs; rows of a state keep their natural order,
and its last row is the key sum.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import interpreting, programs

LENGTHS = ("n", "heads", "chunk", "splits", "plane", "width", "time_pairs", "side_pairs", "height_at", "width_at")


@triton.jit
def _load_rows(base, token, stride, valid, DH: tl.constexpr, WIDTH: tl.constexpr):
    feature = tl.arange(0, WIDTH)
    mask = valid[:, None] & (feature < DH)[None, :]
    return tl.load(base + token.to(tl.int64)[:, None] * stride + feature[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _scale_row(weight, head, DH: tl.constexpr, WIDTH: tl.constexpr):
    feature = tl.arange(0, WIDTH)
    return tl.load(weight + head * DH + feature, mask=feature < DH, other=0.0).to(tl.float32)


@triton.jit
def _halves(rows, BLOCK: tl.constexpr, HALF: tl.constexpr):
    return tl.split(tl.reshape(rows, (BLOCK, HALF, 2)))


@triton.jit
def _angles(table, token, valid, plane, width, time_pairs, side_pairs, height_at, width_at, HALF: tl.constexpr):
    pair = tl.arange(0, HALF)[None, :]
    frame = (token // plane)[:, None]
    row = (token % plane // width)[:, None]
    column = (token % width)[:, None]
    in_height = height_at + row * side_pairs + pair - time_pairs
    in_width = width_at + column * side_pairs + pair - time_pairs - side_pairs
    at = tl.where(pair < time_pairs + side_pairs, in_height, in_width)
    at = tl.where(pair < time_pairs, frame * time_pairs + pair, at)
    mask = valid[:, None] & (pair < time_pairs + 2 * side_pairs)
    entries = width_at + width * side_pairs
    return tl.load(table + at, mask=mask, other=0.0), tl.load(table + entries + at, mask=mask, other=0.0)


@triton.jit
def _product(a, b, total, DOT: tl.constexpr, LOW_A: tl.constexpr, LOW_B: tl.constexpr):
    """total + a b; operands of 16 bits may carry what their rounding lost as a second operand."""
    if DOT == tl.float32:
        return tl.dot(a, b, total, input_precision="ieee")
    a_high = a.to(DOT)
    b_high = b.to(DOT)
    total = tl.dot(a_high, b_high, total)
    if LOW_B:
        total = tl.dot(a_high, (b - b_high.to(tl.float32)).to(DOT), total)
    if LOW_A:
        total = tl.dot((a - a_high.to(tl.float32)).to(DOT), b_high, total)
    return total


@triton.jit
def _load_state(base, parity, DH: tl.constexpr, HALF: tl.constexpr):
    row = tl.arange(0, HALF) * 2 + parity
    column = tl.arange(0, 2 * HALF)
    mask = (row < DH)[:, None] & (column < DH)[None, :]
    state = tl.load(base + row[:, None] * DH + column[None, :], mask=mask, other=0.0)
    return state, tl.load(base + DH * DH + row, mask=row < DH, other=0.0)


@triton.jit
def _store_state(base, state, key_sum, parity, DH: tl.constexpr, HALF: tl.constexpr):
    row = tl.arange(0, HALF) * 2 + parity
    column = tl.arange(0, 2 * HALF)
    mask = (row < DH)[:, None] & (column < DH)[None, :]
    tl.store(base + row[:, None] * DH + column[None, :], state, mask=mask)
    tl.store(base + DH * DH + row, key_sum, mask=row < DH)


@triton.jit(do_not_specialize=LENGTHS)
def _state_kernel(
    x, y, partial, rstd, weight, row_state, row_sum, table,
    n, heads, chunk, splits, factor,
    x_batch, x_token, x_head, y_batch, y_token, y_head,
    plane, width, time_pairs, side_pairs, height_at, width_at,
    DH: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    LOW_X: tl.constexpr, LOW_Y: tl.constexpr,
    SCALED: tl.constexpr, ROTATED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """One (sample, head, chunk of tokens): partial (dh + 1, dh) = factor · (sum of R x' y^T; sum of x')."""
    program = tl.program_id(0)
    split = program % splits
    bh = (program // splits).to(tl.int64)
    batch = bh // heads
    head = bh % heads
    x += batch * x_batch + head * x_head
    y += batch * y_batch + head * y_head
    first = split * chunk
    last = tl.minimum(first + chunk, n)
    even_state = tl.zeros((HALF, 2 * HALF), tl.float32)
    odd_state = tl.zeros((HALF, 2 * HALF), tl.float32)
    even_sum = tl.zeros((HALF,), tl.float32)
    odd_sum = tl.zeros((HALF,), tl.float32)
    for start in range(first, last, BLOCK):
        token = start + tl.arange(0, BLOCK)
        valid = token < last
        rows = _load_rows(x, token, x_token, valid, DH, 2 * HALF)
        values = _load_rows(y, token, y_token, valid, DH, 2 * HALF)
        if SCALED:
            scale = tl.load(rstd + batch * n + token, mask=valid, other=0.0)
            rows = rows * scale[:, None] * _scale_row(weight, head, DH, 2 * HALF)[None, :]
        even, odd = _halves(tl.maximum(rows, 0.0), BLOCK, HALF)
        if WEIGHTED:
            state_weight = tl.load(row_state + bh * n + token, mask=valid, other=0.0)[:, None] * factor
            sum_weight = tl.load(row_sum + bh * n + token, mask=valid, other=0.0)[:, None] * factor
        else:
            state_weight = factor
            sum_weight = factor
        even_sum += tl.sum(even * sum_weight, 0)
        odd_sum += tl.sum(odd * sum_weight, 0)
        even = even * state_weight
        odd = odd * state_weight
        if ROTATED:
            cos, sin = _angles(
                table, token, valid, plane, width, time_pairs, side_pairs, height_at, width_at, HALF
            )
            even, odd = even * cos - odd * sin, even * sin + odd * cos
        even_state = _product(tl.trans(even), values, even_state, DOT, LOW_X, LOW_Y)
        odd_state = _product(tl.trans(odd), values, odd_state, DOT, LOW_X, LOW_Y)
    partial += (bh * splits + split) * (DH * (DH + 1))
    _store_state(partial, even_state, even_sum, 0, DH, HALF)
    _store_state(partial, odd_state, odd_sum, 1, DH, HALF)


@triton.jit(do_not_specialize=("splits",))
def _reduce_kernel(partial, state, splits, blocks, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the partial states of one (sample, head), always in the same order."""
    program = tl.program_id(0)
    bh = (program // blocks).to(tl.int64)
    entry = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = entry < SIZE
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(splits):
        total += tl.load(partial + (bh * splits + split) * SIZE + entry, mask=mask, other=0.0)
    tl.store(state + bh * SIZE + entry, total, mask=mask)


@triton.jit(do_not_specialize=LENGTHS)
def _output_kernel(
    q, out, state, rstd, weight, table,
    n, heads, chunk, splits, eps,
    q_batch, q_token, q_head, out_batch, out_token, out_head,
    plane, width, time_pairs, side_pairs, height_at, width_at,
    DH: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, LOW_X: tl.constexpr,
    LOW_STATE: tl.constexpr, SCALED: tl.constexpr, ROTATED: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    """One (sample, head, chunk of tokens): out = (R q' state) / (q' · key sum + eps)."""
    program = tl.program_id(0)
    split = program % splits
    bh = (program // splits).to(tl.int64)
    batch = bh // heads
    head = bh % heads
    q += batch * q_batch + head * q_head
    out += batch * out_batch + head * out_head
    state += bh * (DH * (DH + 1))
    even_state, even_sum = _load_state(state, 0, DH, HALF)
    odd_state, odd_sum = _load_state(state, 1, DH, HALF)
    first = split * chunk
    last = tl.minimum(first + chunk, n)
    feature = tl.arange(0, 2 * HALF)
    for start in range(first, last, BLOCK):
        token = start + tl.arange(0, BLOCK)
        valid = token < last
        rows = _load_rows(q, token, q_token, valid, DH, 2 * HALF)
        if SCALED:
            scale = tl.load(rstd + batch * n + token, mask=valid, other=0.0)
            rows = rows * scale[:, None] * _scale_row(weight, head, DH, 2 * HALF)[None, :]
        even, odd = _halves(tl.maximum(rows, 0.0), BLOCK, HALF)
        below = tl.sum(even * even_sum[None, :] + odd * odd_sum[None, :], 1) + eps
        if ROTATED:
            cos, sin = _angles(
                table, token, valid, plane, width, time_pairs, side_pairs, height_at, width_at, HALF
            )
            even, odd = even * cos - odd * sin, even * sin + odd * cos
        above = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        above = _product(even, even_state, above, DOT, LOW_X, LOW_STATE)
        above = _product(odd, odd_state, above, DOT, LOW_X, LOW_STATE)
        result = above / below[:, None]
        if CLAMP:
            result = tl.minimum(tl.maximum(result, -65504.0), 65504.0)
        mask = valid[:, None] & (feature < DH)[None, :]
        at = out + token.to(tl.int64)[:, None] * out_token + feature[None, :]
        tl.store(at, result.to(out.dtype.element_ty), mask=mask)


def launch_options(arch: int, dh: int, n: int) -> dict[str, dict[str, int]]:
    """Tile sizes, warps and stages of each launch, by compute capability (90 = 9.0), head size and tokens."""
    wide = dh > 64
    block = 64 if n >= 64 else 16
    state = {"BLOCK": block if not wide else min(block, 32), "num_warps": 8 if wide else 4, "num_stages": 2}
    output = {"BLOCK": block, "num_warps": 8 if wide else 4, "num_stages": 2}
    return {"state": state, "output": output}


@functools.cache
def _processors(device: torch.device) -> tuple[int, int]:
    """(compute capability · 10, multiprocessors); the interpreter counts as a small card."""
    if device.type != "cuda":
        return 0, 4
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor, torch.cuda.get_device_properties(device).multi_processor_count


def state_chunks(groups: int, n: int, dh: int, processors: int) -> tuple[int, int]:
    """(tokens of a chunk, chunks) of a state pass: two programs a processor, each of 16·dh tokens or more.

    A partial state of dh·(dh + 1) float32 is written and read once, so longer chunks cost less; 32 chunks at most.
    """
    wanted = -(-2 * processors // max(groups, 1))
    splits = max(1, min(wanted, n // (16 * dh), 32))
    chunk = -(-n // splits)
    chunk = -(-chunk // 64) * 64
    return chunk, -(-n // chunk)


def output_chunks(groups: int, n: int, dh: int, processors: int) -> tuple[int, int]:
    """(tokens of a chunk, chunks) of a pass that reads a state once a chunk: 1,024 tokens at dh 112, 256 at dh 32."""
    chunk = triton.next_power_of_2(8 * max(dh, 16))
    while chunk < 8192 and groups * -(-n // chunk) > 8 * processors:
        chunk *= 2
    return chunk, -(-n // chunk)


def _rows_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _precision(dtype: torch.dtype) -> tuple[object, bool]:
    """(type of dot operands, whether 16-bit storage needs a second operand for what rounding loses)."""
    if interpreting() or dtype == torch.float32:
        return tl.float32, False
    return tl.bfloat16, dtype == torch.float16  # bfloat16 has float32's range: nothing overflows on the way


def _geometry(rotary) -> tuple[int, ...]:
    if rotary is None:
        return 1, 1, 0, 0, 0, 0
    height_at = rotary.frames * rotary.time_pairs
    width_at = height_at + rotary.height * rotary.side_pairs
    plane = rotary.height * rotary.width
    return plane, rotary.width, rotary.time_pairs, rotary.side_pairs, height_at, width_at


def factor_of(n: int) -> float:
    """The power of two at or below 1/n."""
    return 2.0 ** -(n - 1).bit_length()


def _sum_state(x: Tensor, y: Tensor, *, rotary, scale, row_state=None, row_sum=None) -> Tensor:
    """factor · (sum of R x' y^T; sum of x') as (b, nh, dh + 1, dh) float32, in one or two launches."""
    b, n, heads, dh = x.shape
    arch, processors = _processors(x.device)
    chunk, splits = state_chunks(b * heads, n, dh, processors)
    size = dh * (dh + 1)
    partial = torch.empty((b, heads, splits, dh + 1, dh), dtype=torch.float32, device=x.device)
    rstd, weight = scale if scale is not None else (partial, partial)
    dot, low = _precision(x.dtype)
    weighted = row_state is not None
    _state_kernel[(programs(b * heads, splits),)](
        x, y, partial, rstd, weight, row_state if weighted else partial, row_sum if weighted else partial,
        rotary.table if rotary is not None else partial,
        n, heads, chunk, splits, factor_of(n), *x.stride()[:3], *y.stride()[:3], *_geometry(rotary),
        DH=dh, HALF=half_of(dh), DOT=dot, LOW_X=low, LOW_Y=low, SCALED=scale is not None,
        ROTATED=rotary is not None, WEIGHTED=weighted, **launch_options(arch, dh, n)["state"],
    )  # fmt: skip
    if splits == 1:
        return partial.squeeze(2)
    state = torch.empty((b, heads, dh + 1, dh), dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(size, 1024)
    _reduce_kernel[(programs(b * heads, blocks),)](partial, state, splits, blocks, SIZE=size, BLOCK=1024, num_warps=4)
    return state


def half_of(dh: int) -> int:
    """Pairs of a head, padded to a power of two that a dot accepts."""
    return max(16, triton.next_power_of_2(-(-dh // 2)))


def attend(q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float) -> tuple:
    """(out, state): out (b, n, nh, dh) in v's dtype, state (b, nh, dh + 1, dh) float32 with the key sum last."""
    b, n, heads, dh = q.shape
    if q.numel() == 0:
        return torch.empty_like(v, memory_format=torch.contiguous_format), q.new_zeros(
            (b, heads, dh + 1, dh), dtype=torch.float32
        )
    q, k, v = map(_rows_last, (q, k, v))
    state = _sum_state(k, v, rotary=rotary, scale=k_scale)
    arch, processors = _processors(q.device)
    chunk, splits = output_chunks(b * heads, n, dh, processors)
    out = torch.empty((b, n, heads, dh), dtype=torch.float32 if interpreting() else v.dtype, device=q.device)
    rstd, weight = q_scale if q_scale is not None else (state, state)
    dot, low = _precision(q.dtype)
    _output_kernel[(programs(b * heads, splits),)](
        q, out, state, rstd, weight, rotary.table if rotary is not None else state,
        n, heads, chunk, splits, eps * factor_of(n), *q.stride()[:3], *out.stride()[:3], *_geometry(rotary),
        DH=dh, HALF=half_of(dh), DOT=dot, LOW_X=low, LOW_STATE=True, SCALED=q_scale is not None,
        ROTATED=rotary is not None, CLAMP=v.dtype == torch.float16, **launch_options(arch, dh, n)["output"],
    )  # fmt: skip
    return out.to(v.dtype), state


def joint_linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float = 1e-15
) -> Tensor:
    """Launch the forward passes; arguments as in joint_linear_attention, shapes already checked."""
    return attend(q, k, v, rotary=rotary, q_scale=q_scale, k_scale=k_scale, eps=eps)[0]
