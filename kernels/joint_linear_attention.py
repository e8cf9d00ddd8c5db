"""ReLU linear attention over all tokens of a video, with SANA-Video's rotation by frame, height and width."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton.joint_linear_attention_plan import WIDEST_HEAD, factor_of, output_programs, state_programs
from .backend_choice import FLOAT16_MAX, check_same, register, through_operator, triton_problem, use_triton
from .errors import ShapeError

CHUNK = 8192  # tokens the torch backend holds in float32 at a time
Scale = tuple[Tensor, Tensor]  # rstd (b, n) float32 and weight (nh·dh,) of a norm over the full width


class AxisRotary(NamedTuple):
    """Rotation of the feature pairs (2i, 2i + 1) of tokens on a grid: the first pairs by frame, then height, width.

    table: (2, frames + height + width, dh/2) float32, cosines and sines, one row a place on an axis, 0 outside the
    pairs of that axis. So the cosines of a token are the sum of three rows, and no (n, dh) table is ever made.
    """

    frames: int
    height: int
    width: int
    table: Tensor


def axis_rotary(
    dh: int, frames: int, height: int, width: int, *, theta: float = 10000.0, device: torch.device | None = None
) -> AxisRotary:
    """Angles place · theta^(-2i/d) for pair i of an axis with d features: height and width take 2·(dh // 6) each.

    The rest, 40 of 112, turns by frame. Computed in float64 on the CPU, kept in float32 on `device`.
    Raises ShapeError for odd dh. Source: SANA-Video's rotary embedding over (t, h, w).
    """
    if dh % 2 or dh < 2:
        raise ShapeError(f"a head has {dh} features; rotation needs an even number; use 2 or more, or rotary=None")
    side = 2 * (dh // 6)
    table = torch.zeros(2, frames + height + width, dh // 2, dtype=torch.float64)
    row = pair = 0
    for size, features in ((frames, dh - 2 * side), (height, side), (width, side)):
        speed = theta ** (-torch.arange(0, features, 2, dtype=torch.float64) / max(features, 1))
        angle = torch.arange(size, dtype=torch.float64).unsqueeze(1) * speed
        table[:, row : row + size, pair : pair + features // 2] = torch.stack((angle.cos(), angle.sin()))
        row, pair = row + size, pair + features // 2
    return AxisRotary(frames, height, width, table.to(torch.float32).to(device))


def _spans(n: int, rotary: AxisRotary | None) -> list[slice]:
    """Slices of at most CHUNK tokens, whole frames (at least one) when there is a grid."""
    plane = 1 if rotary is None else rotary.height * rotary.width
    step = max(CHUNK // max(plane, 1), 1) * plane
    return [slice(start, min(start + step, n)) for start in range(0, n, max(step, 1))]


def _turned(x: Tensor, rotary: AxisRotary | None, span: slice, *, back: bool = False) -> Tensor:
    """Rotate the pairs of x (b, nh, m, dh), whose m tokens are `span` of the grid; back undoes it."""
    if rotary is None:
        return x
    frames, height, width, table = rotary
    plane = height * width
    first, last = span.start // plane, span.stop // plane
    frame, row, column = table.to(x.dtype).split((frames, height, width), dim=1)
    cos, sin = (
        (f[first:last, None, None] + h[:, None] + w).flatten(0, 2) for f, h, w in zip(frame, row, column)
    )  # (m, dh/2)
    if back:
        sin = -sin
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def _normed(x: Tensor, scale: Scale | None, span: slice, compute: torch.dtype) -> Tensor:
    """Tokens `span` of x (b, n, nh, dh) times rstd and weight, as (b, nh, m, dh)."""
    part = x[:, span].to(compute)
    if scale is not None:
        rstd, weight = scale
        part = part * (rstd[:, span, None, None].to(compute) * weight.to(compute).view(x.shape[2:]))
    return part.transpose(1, 2)


def _compute(v: Tensor) -> torch.dtype:
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _state_torch(k: Tensor, v: Tensor, rotary: AxisRotary | None, k_scale: Scale | None) -> Tensor:
    """factor · (sum of R k' v^T, and as last row the sum of k'), (b, nh, dh + 1, dh)."""
    b, n, nh, dh = v.shape
    state = torch.zeros((b, nh, dh + 1, dh), dtype=_compute(v), device=v.device)
    for span in _spans(n, rotary):
        key = torch.relu(_normed(k, k_scale, span, state.dtype)) * factor_of(n)
        value = v[:, span].to(state.dtype).transpose(1, 2)
        product = _turned(key, rotary, span).transpose(-1, -2) @ value
        state = state + torch.cat((product, key.sum(dim=-2, keepdim=True)), dim=-2)
    return state


def _output_torch(
    q: Tensor, state: Tensor, rotary: AxisRotary | None, q_scale: Scale | None, eps: float, dtype: torch.dtype
) -> Tensor:
    n, dh = q.shape[1], q.shape[-1]
    state, key_sum = state.split((dh, 1), dim=-2)
    parts = [q.new_empty((q.shape[0], 0, *q.shape[2:]), dtype=dtype)]
    for span in _spans(n, rotary):
        query = torch.relu(_normed(q, q_scale, span, state.dtype))
        below = query @ key_sum.transpose(-1, -2) + eps * factor_of(n)
        out = (_turned(query, rotary, span) @ state) / below
        if dtype == torch.float16:
            out = out.clamp(-FLOAT16_MAX, FLOAT16_MAX)
        parts.append(out.transpose(1, 2).to(dtype))
    return torch.cat(parts, dim=1)


def joint_linear_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, *, rotary: AxisRotary | None = None, q_scale: Scale | None = None,
    k_scale: Scale | None = None, eps: float = 1e-15,
) -> Tensor:  # fmt: skip
    """The torch backend, any dtype; sums are float32 (float64 for float64 inputs), a few frames at a time."""
    with torch.autocast(v.device.type, enabled=False):
        state = _state_torch(k, v, rotary, k_scale)
        return _output_torch(q, state, rotary, q_scale, eps, v.dtype)


def joint_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, rotary: AxisRotary | None = None, q_scale: Scale | None = None,
    k_scale: Scale | None = None, eps: float = 1e-15, kernels: str = "auto",
) -> Tensor:  # fmt: skip
    """Mix all tokens with the weights (R q')·(R k') over the sum of q'·k', where x' = relu(x · rstd · weight).

    q, k, v: (b, n, nh, dh), any strides. rotary: the rotation R of tokens that lie on a grid in the order t, h, w; it
    enters the numerator only. q_scale, k_scale: (rstd (b, n), weight (nh·dh,)) of an RMSNorm over the full width,
    applied on load. Returns (b, n, nh, dh), contiguous, in v's dtype; sums are float32; float16 results saturate.
    kernels: "auto", "torch" or "triton" (float32, float16, bfloat16; dh up to 128). Raises ShapeError, ConfigError.
    Source: SANA-Video's linear attention, 1e-15 added to the denominator. Differs: both sums carry the power of two
    at or below 1/n, so that none grows with the number of tokens; eps carries it too.
    """
    _check(q, k, v, rotary, q_scale, k_scale)
    table, q_rstd, q_weight, k_rstd, k_weight = given = _flat(rotary, q_scale, k_scale)
    narrow = v.shape[-1] <= WIDEST_HEAD
    if not use_triton(kernels, q, k, v) or (kernels == "auto" and not narrow):
        return joint_linear_attention_torch(q, k, v, rotary=rotary, q_scale=q_scale, k_scale=k_scale, eps=eps)
    if not narrow:
        raise ShapeError(
            f"a head has {v.shape[-1]} features; the Triton backend takes {WIDEST_HEAD}; use kernels 'auto' or 'torch'"
        )
    wide = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    query, key, value = (x.to(wide) for x in (q, k, v))
    table, q_rstd, k_rstd = (x if x is None else x.to(torch.float32).contiguous() for x in (table, q_rstd, k_rstd))
    q_weight, k_weight = (x if x is None else x.contiguous() for x in (q_weight, k_weight))
    grid = (0, 0, 0) if rotary is None else rotary[:3]
    if through_operator(q, k, v, *given):
        return _operator(query, key, value, table, *grid, q_rstd, q_weight, k_rstd, k_weight, eps)[0].to(v.dtype)
    from ._triton.joint_linear_attention import joint_linear_attention_triton

    return joint_linear_attention_triton(
        query, key, value, rotary=_rotary(table, *grid), q_scale=_pair(q_rstd, q_weight),
        k_scale=_pair(k_rstd, k_weight), eps=eps,
    ).to(v.dtype)  # fmt: skip


def _flat(rotary: AxisRotary | None, q_scale: Scale | None, k_scale: Scale | None) -> tuple[Tensor | None, ...]:
    return (None if rotary is None else rotary.table, *(q_scale or (None, None)), *(k_scale or (None, None)))


def _rotary(table: Tensor | None, frames: int, height: int, width: int) -> AxisRotary | None:
    return None if table is None else AxisRotary(frames, height, width, table)


def _pair(rstd: Tensor | None, weight: Tensor | None) -> Scale | None:
    return None if rstd is None else (rstd, weight)


def _check(q, k, v, rotary: AxisRotary | None, q_scale: Scale | None, k_scale: Scale | None) -> None:
    """Refuse what does not fit together. Raises ShapeError with the sizes."""
    if not q.shape == k.shape == v.shape or v.ndim != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ShapeError(f"q, k and v have shapes {shapes}; one shape (b, n, nh, dh) is needed; reshape them")
    b, n, nh, dh = v.shape
    if rotary is not None:
        places, table = rotary.frames * rotary.height * rotary.width, (2, sum(rotary[:3]), dh // 2)
        if places != n or dh % 2 or tuple(rotary.table.shape) != table:
            raise ShapeError(
                f"{n} tokens with {dh} features a head came with a rotation of {rotary.frames} x {rotary.height} x "
                f"{rotary.width} places and table {tuple(rotary.table.shape)}; build it with axis_rotary for this grid"
            )
    for name, scale in (("q_scale", q_scale), ("k_scale", k_scale)):
        if scale is not None and [tuple(x.shape) for x in scale] != [(b, n), (nh * dh,)]:
            shapes = ", ".join(str(tuple(x.shape)) for x in scale)
            raise ShapeError(f"{name} has shapes {shapes}; rstd ({b}, {n}) and weight ({nh * dh},) are needed")
    given = dict(zip(("table", "q_rstd", "q_weight", "k_rstd", "k_weight"), _flat(rotary, q_scale, k_scale)))
    check_same(q=q, k=k, v=v, **given)


def joint_linear_attention_bytes(
    b: int, n: int, nh: int, dh: int, itemsize: int = 2, *, scaled: bool = False, backward: bool = False,
    processors: int = 132,
) -> int:  # fmt: skip
    """Bytes the Triton backend reads and writes, forward or backward, on a card of so many processors.

    Partial and finished states and per-row numbers count; rotary tables and norm weights, which stay in cache, do not.
    scaled: q and k both come with a norm's scale.
    """
    groups = b * nh
    tensor, rows, state = groups * n * dh * itemsize, groups * n * 4, groups * (dh + 1) * dh * 4
    splits, readers = state_programs(groups, n, dh, processors), output_programs(groups, n, dh, processors)
    summed = state * (1 if splits == 1 else 2 * splits + 1)
    if not backward:
        return 4 * tensor + summed + readers * state + (2 * rows if scaled else 0)
    return 9 * tensor + summed + 2 * readers * state + 4 * rows + (5 * rows if scaled else 0)


def _backward_torch(grad, q, k, v, state, rotary, q_scale, k_scale, eps) -> list[Tensor]:
    """Formulas: w = q'·z + c·eps, d(R q') = grad S^T / w, d(w) = -(R q' · d(R q')) / w; then k and v alike."""
    n, dh = v.shape[1], v.shape[-1]
    whole, compute, factor = slice(0, n), _compute(v), factor_of(n)
    state, key_sum = state.to(compute).split((dh, 1), dim=-2)
    grad, value = (x.to(compute).transpose(1, 2) for x in (grad, v))
    query, key = (torch.relu(_normed(x, s, whole, compute)) for x, s in ((q, q_scale), (k, k_scale)))
    turned_query, turned_key = _turned(query, rotary, whole), _turned(key, rotary, whole)
    below = query @ key_sum.transpose(-1, -2) + eps * factor
    inverse = torch.where(below > eps * factor, 1 / below, 0.0)
    d_query = grad @ state.transpose(-1, -2) * inverse
    d_below = -(turned_query * d_query).sum(-1, keepdim=True) * inverse
    d_query = _turned(d_query, rotary, whole, back=True) + d_below * key_sum
    d_state = turned_query.transpose(-1, -2) @ (grad * inverse) * factor
    d_key_sum = (query * d_below).sum(-2, keepdim=True) * factor
    d_key = _turned(value @ d_state.transpose(-1, -2), rotary, whole, back=True) + d_key_sum
    d_value = (turned_key @ d_state).transpose(1, 2).to(v.dtype).contiguous()
    dq, *d_q_scale = _unscaled(d_query * (query > 0), q, q_scale)
    dk, *d_k_scale = _unscaled(d_key * (key > 0), k, k_scale)
    return [dq, dk, d_value, *d_q_scale, *d_k_scale]


def _unscaled(d_rows: Tensor, x: Tensor, scale: Scale | None) -> list[Tensor | None]:
    """Gradients of x, rstd and weight from that of x · rstd · weight, (b, nh, n, dh)."""
    d_rows = d_rows.transpose(1, 2)
    if scale is None:
        return [d_rows.to(x.dtype).contiguous(), None, None]
    rstd, weight = scale
    wide, rows = weight.to(d_rows.dtype).view(x.shape[2:]), rstd[:, :, None, None].to(d_rows.dtype)
    product = d_rows * x
    d_rstd, d_weight = (product * wide).sum((2, 3)).to(rstd.dtype), (product * rows).sum((0, 1)).flatten()
    return [(d_rows * rows * wide).to(x.dtype).contiguous(), d_rstd, d_weight.to(weight.dtype)]


def _launchable(v: Tensor) -> bool:
    return triton_problem(v.device) is None and v.shape[-1] <= WIDEST_HEAD


def _forward_operator(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, frames: int, height: int, width: int,
    q_rstd: Tensor | None, q_weight: Tensor | None, k_rstd: Tensor | None, k_weight: Tensor | None, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rotary, q_scale, k_scale = _rotary(table, frames, height, width), _pair(q_rstd, q_weight), _pair(k_rstd, k_weight)
    if _launchable(v):
        from ._triton.joint_linear_attention import attend

        return attend(q, k, v, rotary=rotary, q_scale=q_scale, k_scale=k_scale, eps=eps)
    state = _state_torch(k, v, rotary, k_scale)
    return _output_torch(q, state, rotary, q_scale, eps, v.dtype), state


def _forward_fake(q, k, v, table, frames, height, width, q_rstd, q_weight, k_rstd, k_weight, eps):
    b, _, nh, dh = v.shape
    return v.new_empty(v.shape), v.new_empty((b, nh, dh + 1, dh), dtype=_compute(v))


def _backward_operator(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Tensor, table: Tensor | None, frames: int, height: int,
    width: int, q_rstd: Tensor | None, q_weight: Tensor | None, k_rstd: Tensor | None, k_weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = {
        "rotary": _rotary(table, frames, height, width), "q_scale": _pair(q_rstd, q_weight),
        "k_scale": _pair(k_rstd, k_weight), "eps": eps,
    }  # fmt: skip
    if _launchable(v):
        from ._triton.joint_linear_attention import joint_linear_attention_backward_triton as launch

        grads = launch(grad, q, k, v, state, **given)
    else:
        grads = _backward_torch(grad, q, k, v, state, **given)
    dq, dk, dv, *scales = grads
    return dq, dk, dv, *(v.new_empty(0) if x is None else x for x in scales)


def _backward_fake(
    grad, q, k, v, state, table, frames, height, width, q_rstd, q_weight, k_rstd, k_weight, eps
):  # fmt: skip
    scales = (v.new_empty(0) if x is None else torch.empty_like(x) for x in (q_rstd, q_weight, k_rstd, k_weight))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), *scales


def _keep_for_backward(ctx, inputs, output) -> None:
    q, k, v, table, *grid, q_rstd, q_weight, k_rstd, k_weight, eps = inputs
    ctx.save_for_backward(q, k, v, output[1], table, q_rstd, q_weight, k_rstd, k_weight)
    ctx.grid, ctx.eps = grid, eps
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor | None, _state_grad) -> tuple:
    if grad is None:
        return (None,) * 12
    q, k, v, state, table, *scales = ctx.saved_tensors
    grads = _backward_operator_handle(grad, q, k, v, state, table, *ctx.grid, *scales, ctx.eps)
    scale_grads = (None if given is None else x for given, x in zip(scales, grads[3:]))
    return *grads[:3], None, None, None, None, *scale_grads, None


_backward_operator_handle = register("joint_linear_attention_backward", _backward_operator, fake=_backward_fake)
_operator = register(
    "joint_linear_attention", _forward_operator, fake=_forward_fake, backward=_backward,
    setup_context=_keep_for_backward,
)  # fmt: skip
