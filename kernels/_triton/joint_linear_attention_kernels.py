"""Kernels of the long linear attention: partial states, their sum, outputs, and the gradients of rows.

A head's features are kept as two halves, the even and the odd members of the pairs (2i, 2i + 1); rows of a state keep
their natural order, and its last row is the key sum. A tile is BLOCK tokens of one row of the grid, so that the tables
of frame and height are read once for all of it; without rotation all tokens are one row.
"""

import triton
import triton.language as tl

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
def _rotate(even, odd, table, row, column, valid, frames, height, width, DH: tl.constexpr, HALF: tl.constexpr,
            BACK: tl.constexpr):  # fmt: skip
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
    if BACK:
        return even * cos + odd * sin, odd * cos - even * sin
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
            even, odd = _rotate(even, odd, table, row, column, valid, frames, height, width, DH, HALF, False)
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
    LOW_STATE: tl.constexpr, SCALED: tl.constexpr, ROTATED: tl.constexpr, CLAMP: tl.constexpr, DIVIDE: tl.constexpr,
):  # fmt: skip
    """One (sample, head, chunk of tokens): out = (R q' state) / (q' · key sum + eps), or only the numerator."""
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
            even, odd = _rotate(even, odd, table, row, column, valid, frames, height, width, DH, HALF, False)
        above = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        above = _product(even, even_state, above, DOT, LOW_X, LOW_STATE)
        above = _product(odd, odd_state, above, DOT, LOW_X, LOW_STATE)
        result = above
        if DIVIDE:
            result = above / below[:, None]
        if CLAMP:
            result = tl.minimum(tl.maximum(result, -65504.0), 65504.0)
        mask = valid[:, None] & (feature < DH)[None, :]
        at = out + token.to(tl.int64)[:, None] * out_token + feature[None, :]
        tl.store(at, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=LENGTHS)
def _gradient_kernel(
    x, y, dx, dy, state, rstd, weight, row_state, row_sum, d_rstd, d_weight, table,
    n, heads, tiles, chunk, splits, blocks, eps,
    x_batch, x_token, x_head, y_batch, y_token, y_head, dx_batch, dx_token, dx_head,
    frames, height, width,
    DH: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, LOW_X: tl.constexpr,
    LOW_STATE: tl.constexpr, SCALED: tl.constexpr, ROTATED: tl.constexpr, QUERY: tl.constexpr,
    VALUES: tl.constexpr,
):  # fmt: skip
    """One (sample, head, chunk of tokens): the gradient of q from that of out, or those of k and v.

    QUERY: x = q, y = d(out). With w = q' · key sum + eps: d(R q') = y state^T / w, d(w) = -(R q' · y state^T) / w^2;
    1 / w goes to row_state and d(w) to row_sum, for the pass that sums the state's gradient.
    Else x = k, y = v and `state` is the state's gradient: d(R k') = v state^T and, with VALUES, d(v) = R k' state.
    """
    program = tl.program_id(0)
    split = program % splits
    bh = (program // splits).to(tl.int64)
    batch = bh // heads
    head = bh % heads
    x += batch * x_batch + head * x_head
    y += batch * y_batch + head * y_head
    dx += batch * dx_batch + head * dx_head
    dy += batch * dx_batch + head * dx_head
    state += bh * (DH * (DH + 1))
    even_state, even_sum = _load_state(state, 0, DH, HALF)
    odd_state, odd_sum = _load_state(state, 1, DH, HALF)
    first = split * chunk
    last = tl.minimum(first + chunk, tiles)
    feature = tl.arange(0, 2 * HALF)
    weight_total = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for tile in range(first, last):
        row, token, column, valid = _tile(tile, blocks, width, BLOCK)
        mask = valid[:, None] & (feature < DH)[None, :]
        at = token.to(tl.int64)[:, None] * dx_token + feature[None, :]
        given = _load_rows(x, token, x_token, valid, DH, 2 * HALF)
        values = _load_rows(y, token, y_token, valid, DH, 2 * HALF)
        rows = given
        if SCALED:
            scale = tl.load(rstd + batch * n + token, mask=valid, other=0.0)
            rows = given * scale[:, None] * _scale_row(weight, head, DH, 2 * HALF)[None, :]
        rows = tl.maximum(rows, 0.0)
        even, odd = _halves(rows, BLOCK, HALF)
        if QUERY:
            below = tl.sum(even * even_sum[None, :] + odd * odd_sum[None, :], 1) + eps
            inverse = tl.where(below > eps, 1.0 / below, 0.0)
        if ROTATED:
            even, odd = _rotate(even, odd, table, row, column, valid, frames, height, width, DH, HALF, False)
        nothing = tl.zeros((BLOCK, HALF), tl.float32)
        d_even = _product(values, tl.trans(even_state), nothing, DOT, LOW_X, LOW_STATE)
        d_odd = _product(values, tl.trans(odd_state), nothing, DOT, LOW_X, LOW_STATE)
        if QUERY:
            d_even = d_even * inverse[:, None]
            d_odd = d_odd * inverse[:, None]
            d_below = -tl.sum(even * d_even + odd * d_odd, 1) * inverse
            tl.store(row_state + bh * n + token, inverse, mask=valid)
            tl.store(row_sum + bh * n + token, d_below, mask=valid)
        if VALUES:
            d_values = tl.zeros((BLOCK, 2 * HALF), tl.float32)
            d_values = _product(even, even_state, d_values, DOT, LOW_X, LOW_STATE)
            d_values = _product(odd, odd_state, d_values, DOT, LOW_X, LOW_STATE)
            tl.store(dy + at, d_values.to(dy.dtype.element_ty), mask=mask)
        if ROTATED:
            d_even, d_odd = _rotate(d_even, d_odd, table, row, column, valid, frames, height, width, DH, HALF, True)
        if QUERY:
            d_even += d_below[:, None] * even_sum[None, :]
            d_odd += d_below[:, None] * odd_sum[None, :]
        else:
            d_even += even_sum[None, :]
            d_odd += odd_sum[None, :]
        d_rows = tl.reshape(tl.join(d_even, d_odd), (BLOCK, 2 * HALF))
        d_rows = tl.where(rows > 0, d_rows, 0.0)
        if SCALED:
            scale_row = _scale_row(weight, head, DH, 2 * HALF)[None, :]
            tl.store(d_rstd + bh * n + token, tl.sum(d_rows * given * scale_row, 1), mask=valid)
            d_rows = d_rows * scale[:, None]
            weight_total += d_rows * given
            d_rows = d_rows * scale_row
        tl.store(dx + at, d_rows.to(dx.dtype.element_ty), mask=mask)
    if SCALED:
        tl.store(d_weight + (bh * splits + split) * DH + feature, tl.sum(weight_total, 0), mask=feature < DH)
