"""SiLU, depthwise 3x3 and gate in one launch; its gradients in two.

    a = silu(u)    z = (value, gate) = sum_k taps(k) a(p + k) + bias    out = value · silu(gate)

A program takes one frame, a block of BLOCK lines and TILE channels of both halves, and marches along the lines. Lines
run along the frame's height or width, whichever repeats less (`plan`). Of the 3x3 window the sums of unfinished
outputs stay in registers; a line next to the block is read by two programs.
Lines are loaded in pairs: 2 lines x 2 halves x 64 channels are 16 bytes a lane, while sums take 4 channels a lane.
    du(p) = silu'(u(p)) · sum_k taps(k) dz(p - k)    dtaps(k) = sum_p dz(p) a(p + k)    dbias = sum_p dz(p)
    dz = dout · (silu(gate), value · silu'(gate)), recomputed from u
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend_choice import interpreting, programs
from .glu_depthwise_plan import Plan, launch_options, plan

LENGTHS = ("across", "along", "frames", "tiles", "blocks", "groups")
PARTIAL_ROWS = 1024  # about how many partial sums of the weights' gradient are kept, where frames are many


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    """FAST: one instruction of relative error 2^-11 in tanh(x / 2); a card knows it, the interpreter does not."""
    if FAST:
        t = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [0.5 * x], dtype=tl.float32, is_pure=True, pack=1
        )
        return 0.5 + 0.5 * t
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _silu(x, FAST: tl.constexpr):
    return x * _sigmoid(x, FAST)


@triton.jit
def _silu_slope(x):
    s = _sigmoid(x, False)
    return s * (1 + x * (1 - s))


@triton.jit
def _channels(c, tiles, TILE: tl.constexpr):
    """(channel of a half (TILE,), channel of u (2, TILE), which of the latter exist)."""
    lane = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    half = tl.arange(0, 2)[:, None]
    return lane, half * c + lane[None, :], (lane[None, :] < c) & (half < 2)


@triton.jit
def _load_taps(weight, channel, known, TAP_ACROSS: tl.constexpr, TAP_ALONG: tl.constexpr):
    """Nine tensors (2, TILE): tap 3 · across + along."""
    taps = ()
    for across in tl.static_range(3):
        for along in tl.static_range(3):
            at = channel.to(tl.int64) * 9 + (across * TAP_ACROSS + along * TAP_ALONG)
            taps = taps + (tl.load(weight + at, mask=known, other=0).to(tl.float32),)
    return taps


@triton.jit
def _load_lines(u, stride, first, across, column, along, channel, known, LINES: tl.constexpr):
    """LINES tensors (2, TILE) of one column of u, from line `first` on; zero outside the frame."""
    lines = ()
    line = first + tl.arange(0, 2)[:, None, None]
    offset = tl.arange(0, 2).to(tl.int64)[:, None, None] * stride + channel[None, :, :]
    for _pair in tl.static_range(LINES // 2):
        mask = known[None, :, :] & (line >= 0) & (line < across) & (line * 0 + column < along)
        both = tl.load(u + offset, mask=mask, other=0).to(tl.float32)
        lines = lines + tl.split(tl.permute(both, (1, 2, 0)))
        line += 2
        u += stride  # twice: 2 * stride may pass 2^31
        u += stride
    return lines


@triton.jit
def _halves(z):
    return tl.split(tl.permute(z, (1, 0)))


@triton.jit
def _dz(z, dout):
    """Gradient (2, TILE) of z = (value, gate)."""
    value, gate = _halves(z)
    s = _sigmoid(gate, False)
    return tl.permute(tl.join(dout * gate * s, dout * value * s * (1 + gate * (1 - s))), (1, 0))


@triton.jit(do_not_specialize=LENGTHS)
def _glu_depthwise_fwd_kernel(
    u, weight, bias, out, c, across, along, tiles, blocks,
    u_stride_frame, u_stride_across, u_stride_along, out_stride_frame, out_stride_across, out_stride_along,
    TAP_ACROSS: tl.constexpr, TAP_ALONG: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, FAST: tl.constexpr, CLAMP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Column j of u finishes column j - 1 of the output."""
    lane, channel, known = _channels(c, tiles, TILE)
    first = tl.program_id(0) // tiles % blocks * BLOCK
    frame = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    taps = _load_taps(weight, channel, known, TAP_ACROSS, TAP_ALONG)
    start = tl.zeros([2, TILE], tl.float32)
    if HAS_BIAS:
        start += tl.load(bias + channel, mask=known, other=0).to(tl.float32)
    ready = ()  # outputs of column j - 1 without their last taps
    begun = ()  # outputs of column j without their last two taps a line
    for _line in tl.static_range(BLOCK):
        ready = ready + (start,)
        begun = begun + (start,)
    u += frame * u_stride_frame + (first - 1).to(tl.int64) * u_stride_across
    out += frame * out_stride_frame + first.to(tl.int64) * out_stride_across - out_stride_along
    for j in tl.range(0, along + 1, num_stages=STAGES):
        lines = _load_lines(u, u_stride_across, first - 1, across, j, along, channel, known, BLOCK + 2)
        next_ready = ()
        next_begun = ()
        out_line = out
        sums = ((start, start, start), (start, start, start))  # of the two outputs above this line
        for r in tl.static_range(BLOCK + 2):
            a = _silu(lines[r], FAST)
            if r >= 2:
                z = sums[0][0] + taps[8] * a
                next_ready = next_ready + (sums[0][1] + taps[7] * a,)
                next_begun = next_begun + (sums[0][2] + taps[6] * a,)
                value, gate = _halves(z)
                result = value * _silu(gate, FAST)
                if CLAMP:
                    result = tl.minimum(tl.maximum(result, -65504.0), 65504.0)
                mask = (lane < c) & (lane * 0 + first + (r - 2) < across) & (lane * 0 + j > 0)
                tl.store(out_line + lane, result.to(out.dtype.element_ty), mask=mask)
                out_line += out_stride_across
            upper = (sums[1][0] + taps[5] * a, sums[1][1] + taps[4] * a, sums[1][2] + taps[3] * a)
            lower = upper
            if r < BLOCK:
                lower = (ready[r] + taps[2] * a, begun[r] + taps[1] * a, start + taps[0] * a)
            sums = (upper, lower)
        ready = next_ready
        begun = next_begun
        u += u_stride_along
        out += out_stride_along


@triton.jit(do_not_specialize=LENGTHS)
def _glu_depthwise_du_kernel(
    dout, u, weight, bias, du, c, across, along, tiles, blocks,
    u_stride_frame, u_stride_across, u_stride_along, dout_stride_frame, dout_stride_across, dout_stride_along,
    du_stride_frame, du_stride_across, du_stride_along,
    TAP_ACROSS: tl.constexpr, TAP_ALONG: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    """Column j of u finishes z of column j - 1 on BLOCK + 2 lines, and that finishes du of column j - 2."""
    lane, channel, known = _channels(c, tiles, TILE)
    first = tl.program_id(0) // tiles % blocks * BLOCK
    frame = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    taps = _load_taps(weight, channel, known, TAP_ACROSS, TAP_ALONG)
    zero = tl.zeros([2, TILE], tl.float32)
    start = zero
    if HAS_BIAS:
        start += tl.load(bias + channel, mask=known, other=0).to(tl.float32)
    z_ready = ()
    z_begun = ()
    da_ready = ()
    da_begun = ()
    u_before = ()  # column j - 1 and j - 2 of u
    u_earlier = ()
    for r in tl.static_range(BLOCK + 2):
        z_ready = z_ready + (start,)
        z_begun = z_begun + (start,)
        if r < BLOCK:
            da_ready = da_ready + (zero,)
            da_begun = da_begun + (zero,)
            u_before = u_before + (zero,)
            u_earlier = u_earlier + (zero,)
    u += frame * u_stride_frame + (first - 2).to(tl.int64) * u_stride_across
    dout += frame * dout_stride_frame + (first - 1).to(tl.int64) * dout_stride_across - dout_stride_along
    du += frame * du_stride_frame + first.to(tl.int64) * du_stride_across - du_stride_along
    du -= du_stride_along
    for j in tl.range(0, along + 2):
        lines = _load_lines(u, u_stride_across, first - 2, across, j, along, channel, known, BLOCK + 4)
        a = ()
        for r in tl.static_range(BLOCK + 4):
            a = a + (_silu(lines[r], False),)
        next_z_ready = ()
        next_z_begun = ()
        dz = ()
        dout_line = dout
        for r in tl.static_range(BLOCK + 2):
            z = z_ready[r] + taps[2] * a[r] + taps[5] * a[r + 1] + taps[8] * a[r + 2]
            next_z_ready = next_z_ready + (z_begun[r] + taps[1] * a[r] + taps[4] * a[r + 1] + taps[7] * a[r + 2],)
            next_z_begun = next_z_begun + (start + taps[0] * a[r] + taps[3] * a[r + 1] + taps[6] * a[r + 2],)
            line = lane * 0 + first + (r - 1)
            column = lane * 0 + j - 1
            mask = (lane < c) & (line >= 0) & (line < across) & (column >= 0) & (column < along)
            g = tl.load(dout_line + lane, mask=mask, other=0).to(tl.float32)
            dout_line += dout_stride_across
            dz = dz + (_dz(z, g),)
        next_da_ready = ()
        next_da_begun = ()
        next_before = ()
        next_earlier = ()
        du_line = du
        for r in tl.static_range(BLOCK):
            da = da_ready[r] + taps[6] * dz[r] + taps[3] * dz[r + 1] + taps[0] * dz[r + 2]
            next_da_ready = next_da_ready + (da_begun[r] + taps[7] * dz[r] + taps[4] * dz[r + 1] + taps[1] * dz[r + 2],)
            next_da_begun = next_da_begun + (taps[8] * dz[r] + taps[5] * dz[r + 1] + taps[2] * dz[r + 2],)
            result = da * _silu_slope(u_earlier[r])
            if CLAMP:
                result = tl.minimum(tl.maximum(result, -65504.0), 65504.0)
            mask = known & (channel * 0 + first + r < across) & (channel * 0 + j > 1)
            tl.store(du_line + channel, result.to(du.dtype.element_ty), mask=mask)
            du_line += du_stride_across
            next_earlier = next_earlier + (u_before[r],)
            next_before = next_before + (lines[r + 2],)
        z_ready = next_z_ready
        z_begun = next_z_begun
        da_ready = next_da_ready
        da_begun = next_da_begun
        u_before = next_before
        u_earlier = next_earlier
        u += u_stride_along
        dout += dout_stride_along
        du += du_stride_along


@triton.jit(do_not_specialize=LENGTHS)
def _glu_depthwise_weights_kernel(
    dout, u, weight, bias, partial, c, across, along, tiles, blocks, frames, groups,
    u_stride_frame, u_stride_across, u_stride_along, dout_stride_frame, dout_stride_across, dout_stride_along,
    TAP_ACROSS: tl.constexpr, TAP_ALONG: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Sums over a block of lines of every groups-th frame: partial (groups · blocks, 10, 2c), taps then bias."""
    lane, channel, known = _channels(c, tiles, TILE)
    first = tl.program_id(0) // tiles % blocks * BLOCK
    group = tl.program_id(0) // tiles // blocks
    taps = _load_taps(weight, channel, known, TAP_ACROSS, TAP_ALONG)
    zero = tl.zeros([2, TILE], tl.float32)
    start = zero
    if HAS_BIAS:
        start += tl.load(bias + channel, mask=known, other=0).to(tl.float32)
    total = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    for frame in tl.range(group, frames, groups):
        at = (first * 0 + frame).to(tl.int64)
        u_here = u + at * u_stride_frame + (first - 1).to(tl.int64) * u_stride_across
        dout_here = dout + at * dout_stride_frame + first.to(tl.int64) * dout_stride_across - dout_stride_along
        left = ()
        middle = ()
        for _line in tl.static_range(BLOCK + 2):
            left = left + (zero,)
            middle = middle + (zero,)
        for j in tl.range(0, along + 1):
            lines = _load_lines(u_here, u_stride_across, first - 1, across, j, along, channel, known, BLOCK + 2)
            right = ()
            for r in tl.static_range(BLOCK + 2):
                right = right + (_silu(lines[r], False),)
            dout_line = dout_here
            for r in tl.static_range(BLOCK):
                z = start
                for t in tl.static_range(3):
                    z += taps[3 * t] * left[r + t] + taps[3 * t + 1] * middle[r + t] + taps[3 * t + 2] * right[r + t]
                mask = (lane < c) & (lane * 0 + first + r < across) & (lane * 0 + j > 0)
                g = tl.load(dout_line + lane, mask=mask, other=0).to(tl.float32)
                dout_line += dout_stride_across
                dz = _dz(z, g)
                added = ()
                for t in tl.static_range(3):
                    added = added + (
                        total[3 * t] + dz * left[r + t],
                        total[3 * t + 1] + dz * middle[r + t],
                        total[3 * t + 2] + dz * right[r + t],
                    )
                total = added + (total[9] + dz,)
            left = middle
            middle = right
            u_here += u_stride_along
            dout_here += dout_stride_along
    partial += (tl.program_id(0) // tiles).to(tl.int64) * 20 * c + channel
    for across_tap in tl.static_range(3):
        for along_tap in tl.static_range(3):
            at = (first * 0 + 2 * (across_tap * TAP_ACROSS + along_tap * TAP_ALONG)).to(tl.int64) * c
            tl.store(partial + at, total[3 * across_tap + along_tap], mask=known)
    tl.store(partial + (first * 0 + 18).to(tl.int64) * c, total[9], mask=known)


def _arch(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _prepare(kind: str, u: Tensor, grid: tuple[int, int]) -> tuple[Plan, int, dict, dict]:
    """(plan, tiles of channels, arguments all kernels share, compile-time options)."""
    options = launch_options(kind, u.dtype, _arch(u.device))
    march = plan(*grid, options["BLOCK"])
    c = u.shape[2] // 2
    tiles = -(-c // options["TILE"])
    taps = (3, 1) if march.over_height else (1, 3)
    shared = {"c": c, "across": march.across, "along": march.along, "tiles": tiles, "blocks": march.blocks}
    return march, tiles, shared, {"TAP_ACROSS": taps[0], "TAP_ALONG": taps[1], **options}


def _strides(name: str, x: Tensor, march: Plan, grid: tuple[int, int]) -> dict:
    row, token = grid[1] * x.stride(1), x.stride(1)
    across, along = (row, token) if march.over_height else (token, row)
    return {f"{name}_stride_frame": x.stride(0), f"{name}_stride_across": across, f"{name}_stride_along": along}


def _last_dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _weights_dense(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.contiguous(), None if bias is None else bias.contiguous()


def _output(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The interpreter truncates where a card rounds: there kernels write float32, and torch rounds."""
    return torch.empty(shape, dtype=torch.float32 if interpreting() else like.dtype, device=like.device)


def glu_depthwise_triton(u: Tensor, weight: Tensor, bias: Tensor | None, *, grid: tuple[int, int]) -> Tensor:
    """Launch the forward kernel. Shapes as in kernels/glu_depthwise.py; (m, h·w, c), contiguous."""
    m, n, channels = u.shape
    if not m:
        return u.new_empty((0, n, channels // 2))
    march, tiles, shared, options = _prepare("forward", u, grid)
    flat = programs(m, march.blocks, tiles)
    u, (weight, bias) = _last_dense(u), _weights_dense(weight, bias)
    out = _output(u, (m, n, channels // 2))
    _glu_depthwise_fwd_kernel[(flat,)](
        u, weight, bias, out, **shared, **_strides("u", u, march, grid), **_strides("out", out, march, grid),
        HAS_BIAS=bias is not None, FAST=u.dtype == torch.bfloat16 and not interpreting(),
        CLAMP=u.dtype == torch.float16, **options,
    )  # fmt: skip
    return out.to(u.dtype)


def glu_depthwise_input_gradient_triton(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *, grid: tuple[int, int]
) -> Tensor:
    """Gradient of u, (m, h·w, 2c), in u's dtype. Reads u and dout only: z is computed again."""
    if not u.shape[0]:
        return u.new_empty(u.shape)
    march, tiles, shared, options = _prepare("input", u, grid)
    flat = programs(u.shape[0], march.blocks, tiles)
    u, dout, (weight, bias) = _last_dense(u), _last_dense(dout), _weights_dense(weight, bias)
    du = _output(u, tuple(u.shape))
    _glu_depthwise_du_kernel[(flat,)](
        dout, u, weight, bias, du, **shared, **_strides("u", u, march, grid), **_strides("dout", dout, march, grid),
        **_strides("du", du, march, grid), HAS_BIAS=bias is not None, CLAMP=u.dtype == torch.float16, **options,
    )  # fmt: skip
    return du.to(u.dtype)


def glu_depthwise_weight_gradient_triton(
    dout: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients (2c, 1, 3, 3) and (2c,) of weight and bias, float32: partial sums, then their sum."""
    m, _, channels = u.shape
    if not m:
        return u.new_zeros((channels, 1, 3, 3), dtype=torch.float32), u.new_zeros(channels, dtype=torch.float32)
    u, dout, (weight, bias) = _last_dense(u), _last_dense(dout), _weights_dense(weight, bias)
    march, tiles, shared, options = _prepare("weights", u, grid)
    groups = min(m, max(1, PARTIAL_ROWS // march.blocks))
    partial = torch.empty((groups * march.blocks, 10, channels), dtype=torch.float32, device=u.device)
    _glu_depthwise_weights_kernel[(programs(groups, march.blocks, tiles),)](
        dout, u, weight, bias, partial, **shared, frames=m, groups=groups,
        **_strides("u", u, march, grid), **_strides("dout", dout, march, grid),
        HAS_BIAS=bias is not None, **options,
    )  # fmt: skip
    total = partial.sum(0)
    return total[:9].t().reshape(channels, 1, 3, 3).contiguous(), total[9].clone()
