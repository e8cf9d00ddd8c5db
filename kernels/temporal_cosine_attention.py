"""Temporal attention with the weights 1 + cos(q, k), rotary positions, by a linear or a direct algorithm."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton.temporal_cosine_attention_plan import LEAST, SHORTEST, WIDEST_HEAD
from .backend_choice import STORED_TYPES, check_same, register, through_operator, triton_problem, use_triton
from .errors import ConfigError, ShapeError

# Multiply-adds per site and head: linear 2·t·dh·(dh+1), direct 2·t²·dh; they meet at t = dh + 1.
ALGORITHMS = ("auto", "linear", "direct")


class RotaryTable(NamedTuple):
    """Cosines and sines of the angles of every frame and pair of dims, (b or 1, t, dh/2)."""

    cos: Tensor
    sin: Tensor


def rotary_angles(positions: Tensor, dh: int, *, theta: float = 10000.0) -> Tensor:
    """Angles position · theta^(-2i/dh) for i < dh/2, float64 where the device has it.

    positions (..., t) -> (..., t, dh/2).
    """
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    index = torch.arange(0, dh, 2, device=positions.device, dtype=precise)
    return positions.to(precise).unsqueeze(-1) * theta ** (-index / dh)


def rotary_table(positions: Tensor, dh: int, *, dtype: torch.dtype = torch.float32) -> RotaryTable:
    """Tables for positions (t,) or (b, t), to be made once where many calls share them. Angles are float64."""
    if positions.ndim not in (1, 2):
        raise ShapeError(f"positions are {tuple(positions.shape)}; (t,) or (b, t) is needed")
    angles = rotary_angles(positions.reshape(-1, positions.shape[-1]), dh)
    return RotaryTable(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs (2i, 2i+1) of x (..., dh) by angles given as cosine and sine (..., dh/2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def choose_algorithm(num_frames: int, dh: int) -> str:
    """The cheaper of the two equal algorithms by multiply-adds."""
    return "linear" if num_frames > dh + 1 else "direct"


def temporal_cosine_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, *, algorithm: str = "auto", positions: Tensor | RotaryTable | None = None
) -> Tensor:
    """The torch backend, any dtype; sums are float32 (float64 for float64 inputs)."""
    num_frames = q.shape[1]
    if num_frames == 1:
        return v
    return _mix(q, k, v, *_table(q, v, positions), algorithm)


def temporal_cosine_attention(
    q: Tensor, k: Tensor, v: Tensor, *, algorithm: str = "auto", positions: Tensor | RotaryTable | None = None,
    kernels: str = "auto",
) -> Tensor:  # fmt: skip
    """Mix the frames of one site with the weights 1 + q̂·k̂, hats unit length and rotated by frame index.

    q, k, v: (b, t, s, nh, dh), mixed along t for each site s; dh even. positions: (t,) or (b, t) frame indices,
    default 0..t-1, or the `rotary_table` made of them. algorithm: "linear", "direct" (t x t weights) or "auto", the
    cheaper; they agree to rounding. The Triton backend holds dh to 128 and is linear beyond 64 frames.
    Returns (b, t, s, nh, dh) in v's dtype, contiguous. One frame returns v itself. The denominator is clamped at 1e-6.
    Raises ShapeError and ConfigError.
    Source: MiraMo (arXiv 2508.07246) Eq. 8-9; rotation in numerator and denominator.
    """
    _check(q, k, v, positions, algorithm)
    fits = use_triton(kernels, q, k, v)
    if q.shape[1] == 1:
        return v
    if fits and q.shape[-1] > WIDEST_HEAD:
        if kernels == "triton":
            raise ShapeError(f"heads have {q.shape[-1]} dims; Triton holds {WIDEST_HEAD}: use kernels 'auto'")
        fits = False
    cos, sin = _table(q, v, positions)
    if not fits:
        return _mix(q, k, v, cos, sin, algorithm)
    if through_operator(q, k, v):
        return _forward_operator(q, k, v, cos, sin, algorithm)
    return _forward(q, k, v, cos, sin, algorithm)


def temporal_cosine_attention_bytes(
    b: int, t: int, s: int, nh: int, dh: int, *, itemsize: int = 2, algorithm: str = "auto", backward: bool = False,
    arch: int | None = None,
) -> int:  # fmt: skip
    """Bytes the Triton backend loads and stores: the tensors, and each program's copy of the tables.

    Forward reads q, k, v and writes the result; backward reads q, k, v, the gradient and writes three. The linear
    backward reads four tensors twice and keeps two float32 numbers a row. arch: 10 x major + minor capability.
    """
    from ._triton.temporal_cosine_attention_plan import make_plan

    if t == 1 or not b * t * s * nh * dh:
        return 0
    plan = make_plan(b, t, s, nh, dh, arch=arch, algorithm=algorithm, backward=backward)
    tensor, table = b * t * s * nh * dh * itemsize, b * s * plan.groups * t * dh * 4
    if not plan.linear:
        return (7 if backward else 4) * tensor + table
    if not backward:
        return 4 * tensor + 2 * table
    return 11 * tensor + 4 * table + 4 * (b * t * s * nh * 4)


def _check(q: Tensor, k: Tensor, v: Tensor, positions: Tensor | RotaryTable | None, algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm is {str(algorithm)[:40]!r}; it must be one of {', '.join(ALGORITHMS)}")
    if not q.shape == k.shape == v.shape or q.ndim != 5:
        raise ShapeError(
            f"q, k, v are {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; all must be one (b, t, s, nh, dh)"
        )
    b, t, _, _, dh = q.shape
    if dh % 2 or not dh or not t:
        raise ShapeError(f"there are {t} frames, heads of {dh} dims; at least 1 frame and an even dh are needed")
    check_same(q=q, k=k, v=v)
    if isinstance(positions, RotaryTable):
        for name, table in positions._asdict().items():
            if table.shape not in ((1, t, dh // 2), (b, t, dh // 2)) or table.device != q.device:
                raise ShapeError(
                    f"the table {name} is {tuple(table.shape)} on {table.device}; {(b, t, dh // 2)} or "
                    f"{(1, t, dh // 2)} on {q.device} is needed"
                )
    elif positions is not None and positions.shape not in ((t,), (b, t)):
        raise ShapeError(f"positions are {tuple(positions.shape)}; ({t},) or ({b}, {t}) is needed")


def _compute_type(v: Tensor) -> torch.dtype:
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _table(q: Tensor, v: Tensor, positions: Tensor | RotaryTable | None) -> tuple[Tensor, Tensor]:
    """Cosines and sines (b or 1, t, dh/2), contiguous, in the type the sums have."""
    if isinstance(positions, RotaryTable):
        return tuple(table.to(_compute_type(v)).contiguous() for table in positions)
    if positions is None:
        positions = torch.arange(q.shape[1], device=q.device)
    return rotary_table(positions.to(q.device), q.shape[-1], dtype=_compute_type(v))


def _mix(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, algorithm: str) -> Tensor:
    num_frames, dh = q.shape[1], q.shape[-1]
    compute = _compute_type(v)
    with torch.autocast(v.device.type, enabled=False):
        query, key, value = (x.permute(0, 2, 3, 1, 4).to(compute) for x in (q, k, v))  # (b, s, nh, t, dh)
        turn = [table[:, None, None] for table in (cos, sin)]  # (b or 1, 1, 1, t, dh/2)
        query, key = (
            rotate_pairs(torch.nn.functional.normalize(x, dim=-1, eps=SHORTEST), *turn) for x in (query, key)
        )
        chosen = choose_algorithm(num_frames, dh) if algorithm == "auto" else algorithm
        if chosen == "direct":
            weight = 1 + query @ key.transpose(-1, -2)  # (b, s, nh, t, t)
            out = (weight @ value) / weight.sum(-1, keepdim=True).clamp_min(LEAST)
        else:
            state = key.transpose(-1, -2) @ value  # (b, s, nh, dh, dh)
            key_sum = key.sum(-2).unsqueeze(-1)
            numerator = value.sum(-2, keepdim=True) + query @ state
            out = numerator / (num_frames + query @ key_sum).clamp_min(LEAST)
    out = out.permute(0, 3, 1, 2, 4)
    if v.dtype == torch.float16:
        out = out.clamp(-torch.finfo(v.dtype).max, torch.finfo(v.dtype).max)
    return out.to(v.dtype).contiguous()


def _mix_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by formulas, linear in t: S = k~ᵀv, z = Σk~, out = (Σv + q~S) / (t + q~·z)."""
    grad_out, query, key, value = (x.permute(0, 2, 3, 1, 4).to(_compute_type(v)) for x in (grad, q, k, v))
    turn, back = ([table[:, None, None] for table in pair] for pair in ((cos, sin), (cos, -sin)))
    lengths = [x.norm(dim=-1, keepdim=True) for x in (query, key)]
    query, key = (x / length.clamp_min(SHORTEST) for x, length in zip((query, key), lengths))
    turned_q, turned_k = rotate_pairs(query, *turn), rotate_pairs(key, *turn)
    state, key_sum = turned_k.transpose(-1, -2) @ value, turned_k.sum(-2, keepdim=True)
    total = q.shape[1] + turned_q @ key_sum.transpose(-1, -2)
    numerator = value.sum(-2, keepdim=True) + turned_q @ state
    scaled = grad_out / total.clamp_min(LEAST)
    along = -(scaled * numerator).sum(-1, keepdim=True) / total.clamp_min(LEAST)
    along = along.masked_fill(total < LEAST, 0)  # gradient of the denominator
    grad_state = turned_q.transpose(-1, -2) @ scaled
    grad_q = scaled @ state.transpose(-1, -2) + along * key_sum
    grad_k = value @ grad_state.transpose(-1, -2) + (along * turned_q).sum(-2, keepdim=True)
    grad_v = turned_k @ grad_state + scaled.sum(-2, keepdim=True)
    grads = []
    for unit, length, turned in zip((query, key), lengths, (grad_q, grad_k)):
        straight = rotate_pairs(turned, *back)
        inner = (unit * straight).sum(-1, keepdim=True).masked_fill(length < SHORTEST, 0)
        grads.append((straight - unit * inner) / length.clamp_min(SHORTEST))
    return tuple(
        x.permute(0, 3, 1, 2, 4).to(like.dtype).contiguous() for x, like in zip((*grads, grad_v), (q, k, v))
    )


def _launchable(v: Tensor) -> bool:
    """Whether the kernels can run here: a graph traced for a card may run without one."""
    return triton_problem(v.device) is None and v.dtype in STORED_TYPES


def _forward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, algorithm: str) -> Tensor:
    if not _launchable(v):
        return _mix(q, k, v, cos, sin, algorithm)
    from ._triton.temporal_cosine_attention import temporal_cosine_attention_triton

    return temporal_cosine_attention_triton(q, k, v, cos, sin, algorithm=algorithm)


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, algorithm: str
) -> tuple[Tensor, Tensor, Tensor]:
    if not _launchable(v):
        return _mix_backward(grad, q, k, v, cos, sin)
    from ._triton.temporal_cosine_attention import temporal_cosine_attention_backward_triton

    return temporal_cosine_attention_backward_triton(grad, q, k, v, cos, sin, algorithm=algorithm)


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.algorithm = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor):
    grads = _backward_operator(grad, *ctx.saved_tensors, ctx.algorithm)
    return *(x if needed else None for x, needed in zip(grads, ctx.needs_input_grad)), None, None, None


_backward_operator = register(
    "temporal_cosine_attention_backward", _backward,
    fake=lambda grad, q, k, v, cos, sin, algorithm: (_like(q), _like(k), _like(v)),
)  # fmt: skip
_forward_operator = register(
    "temporal_cosine_attention", _forward, fake=lambda q, k, v, cos, sin, algorithm: _like(v), backward=_gradients,
    setup_context=_keep,
)  # fmt: skip
