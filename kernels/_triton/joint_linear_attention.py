"""ReLU linear attention over one long token axis in three launches: partial states, their sum, outputs.

x' = relu(x · rstd · weight) for q and k; R rotates pairs (2i, 2i + 1) of x' by the token's place in the grid.
    state = c · sum_j R k'_j v_j^T    key sum = c · sum_j k'_j    out_i = (R q'_i state) / (q'_i · key sum + c · eps)
c is the power of two at or below 1/n: sums stay the size of one token's, and no product is rounded by it.
Backward: the gradient of a state is a state again (of q and the rows' weights), so the same launches serve twice.
A head's features are kept as two halves, even and odd members of the pairs; rows of a state keep their natural order,
and its last row is the key sum.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import interpreting, programs

LENGTHS = ("n", "heads", "tiles", "chunk", "splits", "blocks", "frames", "height", "width")


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
def _tile(tile, blocks, width, BLOCK: tl.constexpr):
    """(row of the grid, tokens, which of them exist): a tile never crosses the end of a row."""
    row = tile // blocks
    column = (tile - row * blocks) * BLOCK + tl.arange(0, BLOCK)
    return row, row * width + column, column, column < width


@triton.jit
def _rotate(even, odd, table, row, column, valid, frames, height, width, DH: tl.constexpr, HALF: tl.constexpr):
    """Rotate by frame and height, the same for the whole tile, and by width; each axis' table is 0 off its pairs."""
    pair = tl.arange(0, HALF)
    known = pair < DH // 2
    sines = table + (frames + height + width) * (DH // 2)
    at_frame = row // height * (DH // 2) + pair
    at_height = (frames + row % height) * (DH // 2) + pair
    at_width = (frames + height + column)[:, None] * (DH // 2) + pair[None, :]
    mask = valid[:, None] & known[None, :]
    cos = tl.load(table + at_frame, mask=known, other=0.0) + tl.load(table + at_height, mask=known, other=0.0)
    sin = tl.load(sines + at_frame, mask=known, other=0.0) + tl.load(sines + at_height, mask=known, other=0.0)
    cos = cos[None, :] + tl.load(table + at_width, mask=mask, other=0.0)
    sin = sin[None, :] + tl.load(sines + at_width, mask=mask, other=0.0)
    return even * cos - odd * sin, even * sin + odd * cos


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
    n, heads, tiles, chunk, splits, blocks, factor,
    x_batch, x_token, x_head, y_batch, y_token, y_head,
    frames, height, width,
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
    last = tl.minimum(first + chunk, tiles)
    even_state = tl.zeros((HALF, 2 * HALF), tl.float32)
    odd_state = tl.zeros((HALF, 2 * HALF), tl.float32)
    even_sum = tl.zeros((BLOCK, HALF), tl.float32)
    odd_sum = tl.zeros((BLOCK, HALF), tl.float32)
    for tile in range(first, last):
        row, token, column, valid = _tile(tile, blocks, width, BLOCK)
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
        even_sum += even * sum_weight
        odd_sum += odd * sum_weight
        even = even * state_weight
        odd = odd * state_weight
        if ROTATED:
            even, odd = _rotate(even, odd, table, row, column, valid, frames, height, width, DH, HALF)
        even_state = _product(tl.trans(even), values, even_state, DOT, LOW_X, LOW_Y)
        odd_state = _product(tl.trans(odd), values, odd_state, DOT, LOW_X, LOW_Y)
    partial += (bh * splits + split) * (DH * (DH + 1))
    _store_state(partial, even_state, tl.sum(even_sum, 0), 0, DH, HALF)
    _store_state(partial, odd_state, tl.sum(odd_sum, 0), 1, DH, HALF)


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
    n, heads, tiles, chunk, splits, blocks, eps,
    q_batch, q_token, q_head, out_batch, out_token, out_head,
    frames, height, width,
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
    last = tl.minimum(first + chunk, tiles)
    feature = tl.arange(0, 2 * HALF)
    for tile in range(first, last):
        row, token, column, valid = _tile(tile, blocks, width, BLOCK)
        rows = _load_rows(q, token, q_token, valid, DH, 2 * HALF)
        if SCALED:
            scale = tl.load(rstd + batch * n + token, mask=valid, other=0.0)
            rows = rows * scale[:, None] * _scale_row(weight, head, DH, 2 * HALF)[None, :]
        even, odd = _halves(tl.maximum(rows, 0.0), BLOCK, HALF)
        below = tl.sum(even * even_sum[None, :] + odd * odd_sum[None, :], 1) + eps
        if ROTATED:
            even, odd = _rotate(even, odd, table, row, column, valid, frames, height, width, DH, HALF)
        above = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        above = _product(even, even_state, above, DOT, LOW_X, LOW_STATE)
        above = _product(odd, odd_state, above, DOT, LOW_X, LOW_STATE)
        result = above / below[:, None]
        if CLAMP:
            result = tl.minimum(tl.maximum(result, -65504.0), 65504.0)
        mask = valid[:, None] & (feature < DH)[None, :]
        at = out + token.to(tl.int64)[:, None] * out_token + feature[None, :]
        tl.store(at, result.to(out.dtype.element_ty), mask=mask)


def launch_options(arch: int, dh: int, n: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """Tile sizes, warps and stages of each launch, by compute capability (90 = 9.0), head size, tokens and type."""
    if arch == 0:  # the interpreter pays by the operation, not by the size
        return {name: {"BLOCK": 128, "num_warps": 1, "num_stages": 1} for name in ("state", "output", "gradient")}
    block = 64 if dh <= 32 else 32
    warps = 4 if dh <= 64 else 8
    options = {"BLOCK": block if n >= block else 16, "num_warps": warps, "num_stages": 2}
    return {name: dict(options) for name in ("state", "output", "gradient")}


@functools.cache
def _processors(device: torch.device) -> tuple[int, int]:
    """(compute capability · 10, multiprocessors); the interpreter counts as a small card."""
    if device.type != "cuda":
        return 0, 4
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor, torch.cuda.get_device_properties(device).multi_processor_count


def state_chunks(groups: int, n: int, dh: int, processors: int) -> int:
    """Programs that share one state: two programs a processor, each of 16·dh tokens or more, 32 at most.

    A partial state of dh·(dh + 1) float32 is written and read once, so longer chunks cost less.
    """
    wanted = -(-2 * processors // groups)
    return max(1, min(wanted, n // (16 * dh), 32))


def output_chunks(groups: int, n: int, dh: int, processors: int) -> int:
    """Programs that read one finished state: 1,024 tokens or more each at dh 112, 256 at dh 32."""
    chunk = triton.next_power_of_2(8 * max(dh, 16))
    while chunk < 8192 and groups * -(-n // chunk) > 8 * processors:
        chunk *= 2
    return -(-n // chunk)


def factor_of(n: int) -> float:
    """The power of two at or below 1/n."""
    return 2.0 ** -(n - 1).bit_length()


def half_of(dh: int) -> int:
    """Pairs of a head, padded to a power of two that a dot accepts."""
    return max(16, triton.next_power_of_2(-(-dh // 2)))


class _Plan(NamedTuple):
    """One launch: its grid and the arguments that all kernels share."""

    grid: tuple[int]
    counts: tuple[int, ...]  # n, heads, tiles, chunk, splits, blocks
    sizes: tuple[int, ...]  # frames, height, width
    constants: dict


def _plan(x: Tensor, rotary, scale, *, launch: str, chunks) -> _Plan:
    """Cut the tokens of x into tiles that end where a row of the grid ends, and the tiles into chunks."""
    b, n, heads, dh = x.shape
    arch, processors = _processors(x.device)
    options = launch_options(arch, dh, n, x.dtype)[launch]
    sizes = (rotary.frames, rotary.height, rotary.width) if rotary is not None else (1, 1, n)
    blocks = -(-sizes[2] // options["BLOCK"])
    tiles = sizes[0] * sizes[1] * blocks
    chunk = -(-tiles // chunks(b * heads, n, dh, processors))
    splits = -(-tiles // chunk)
    exact = interpreting() or x.dtype == torch.float32
    constants = {
        "DH": dh, "HALF": half_of(dh), "SCALED": scale is not None, "ROTATED": rotary is not None,
        # bfloat16 has float32's range, so nothing overflows on the way; float16 then needs two operands a value
        "DOT": tl.float32 if exact else tl.bfloat16, "LOW_X": x.dtype == torch.float16, **options,
    }  # fmt: skip
    return _Plan((programs(b * heads, splits),), (n, heads, tiles, chunk, splits, blocks), sizes, constants)


def _rows_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _sum_state(x: Tensor, y: Tensor, *, rotary, scale, row_state=None, row_sum=None) -> Tensor:
    """factor · (sum of R x' y^T; sum of x') as (b, nh, dh + 1, dh) float32, in one or two launches."""
    b, n, heads, dh = x.shape
    plan = _plan(x, rotary, scale, launch="state", chunks=state_chunks)
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


def attend(q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float) -> tuple:
    """(out, state): out (b, n, nh, dh) in v's dtype, state (b, nh, dh + 1, dh) float32 with the key sum last."""
    b, n, heads, dh = q.shape
    if q.numel() == 0:
        return v.new_empty(v.shape), v.new_zeros((b, heads, dh + 1, dh), dtype=torch.float32)
    q, k, v = map(_rows_last, (q, k, v))
    state = _sum_state(k, v, rotary=rotary, scale=k_scale)
    plan = _plan(q, rotary, q_scale, launch="output", chunks=output_chunks)
    out = torch.empty((b, n, heads, dh), dtype=torch.float32 if interpreting() else v.dtype, device=q.device)
    rstd, weight = q_scale if q_scale is not None else (state, state)
    _output_kernel[plan.grid](
        q, out, state, rstd, weight, rotary.table if rotary is not None else state,
        *plan.counts, eps * factor_of(n), *q.stride()[:3], *out.stride()[:3], *plan.sizes,
        LOW_STATE=True, CLAMP=v.dtype == torch.float16, **plan.constants,
    )  # fmt: skip
    return out.to(v.dtype), state


def joint_linear_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, *, rotary=None, q_scale=None, k_scale=None, eps: float = 1e-15
) -> Tensor:
    """Launch the forward passes; arguments as in joint_linear_attention, shapes already checked."""
    return attend(q, k, v, rotary=rotary, q_scale=q_scale, k_scale=k_scale, eps=eps)[0]
