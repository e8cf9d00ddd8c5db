"""Gate, residual, norm and modulation of a transformer block in one pass, with rows per sample and frame."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._triton.gate_norm_modulate_plan import TOKENS_A_PROGRAM
from .backend_choice import (
    FLOAT16_MAX,
    STORED_TYPES,
    WIDEST_TOKEN,
    check_same,
    register,
    through_operator,
    triton_problem,
    use_triton,
)
from .errors import ShapeError


class Rows(NamedTuple):
    """One modulation row a frame: values[b, t] + table, summed in float32 and never expanded to tokens."""

    values: Tensor  # (b or 1, t or 1, d)
    table: Tensor | None = None  # (d,), the block's own part


def gate_norm_modulate_torch(
    x: Tensor, y: Tensor | None = None, *, gate: Rows | None = None, shift: Rows | None = None,
    scale: Rows | None = None, bias: Tensor | None = None, eps: float = 1e-6,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The torch backend, any dtype; sums are float32 (float64 for float64 inputs)."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = _residual(x, y, _row(gate, compute), bias, compute)
    x_new = x if wide is x else _stored(wide, x.dtype)
    if shift is None and scale is None:
        return x_new, None
    normed = F.layer_norm(wide.to(compute), wide.shape[-1:], eps=eps)
    if scale is None:
        h = normed + _row(shift, compute)
    elif shift is None:
        h = normed * (1 + _row(scale, compute))
    else:
        own = None if torch.is_grad_enabled() else normed
        h = torch.addcmul(_row(shift, compute), normed, 1 + _row(scale, compute), out=own)
    return x_new, _stored(h, x.dtype)


def _row(rows: Rows | None, compute: torch.dtype) -> Tensor | None:
    """(b, t, d) -> (b, t, 1, d), the table added."""
    if rows is None:
        return None
    values = rows.values.to(compute)
    return (values if rows.table is None else values + rows.table.to(compute)).unsqueeze(2)


def _residual(x: Tensor, y: Tensor | None, gate: Tensor | None, bias: Tensor | None, compute: torch.dtype) -> Tensor:
    """x + bias + gate·y in the compute type; x itself when nothing is added."""
    wide = x if bias is None else x + bias.to(compute)
    if y is None:
        return wide
    if gate is not None:
        return torch.addcmul(wide, gate, y)  # promotes: no wide copies of x and y
    return wide.to(compute) + y


def _stored(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the storage type; float16 saturates instead of overflowing."""
    if dtype == torch.float16:
        wide = wide.clamp(-FLOAT16_MAX, FLOAT16_MAX)
    return wide.to(dtype)


def gate_norm_modulate(
    x: Tensor, y: Tensor | None = None, *, gate: Rows | None = None, shift: Rows | None = None,
    scale: Rows | None = None, bias: Tensor | None = None, eps: float = 1e-6, kernels: str = "auto",
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """x_new = x + bias + gate·y and h = LayerNorm(x_new)·(1 + scale) + shift, the norm without weights.

    x, y: (b, t, n, d). gate, shift, scale: Rows, one row a frame or one for all frames. bias: (d,), a projection's
    that was left out of y. Without gate, y is added as it is; without shift and scale, h is None; without y and bias,
    x_new is x itself. kernels: "auto", "torch" or "triton"; tokens of more than 6144 channels take torch.
    Returns (x_new, h), both (b, t, n, d) in x's dtype; h comes from x_new before it is rounded, sums are float32.
    Float16 results saturate at 65504. Raises ShapeError for shapes and devices that do not fit.
    Source: adaLN-zero of DiT (arXiv 2212.09748) §3.2; PixArt-α (arXiv 2310.00426) §2.3 for the tables.
    """
    given = _check(x, y, gate, shift, scale, bias)
    has_sum, has_norm = y is not None or bias is not None, shift is not None or scale is not None
    if not (has_sum or has_norm):
        return x, None
    if not use_triton(kernels, *given) or x.shape[-1] > WIDEST_TOKEN:
        return gate_norm_modulate_torch(x, y, gate=gate, shift=shift, scale=scale, bias=bias, eps=eps)
    parts = [part for rows in (gate, shift, scale) for part in _parts(rows, x.shape[0])]
    form = gate_norm_modulate_operator if through_operator(*given) else _launch
    x_new, h = form(x, y, *parts, bias, eps)
    return x_new if has_sum else x, h if has_norm else None


def _parts(rows: Rows | None, samples: int) -> tuple[Tensor | None, Tensor | None]:
    """Values of every sample and the table; one sample's values are repeated by a stride of 0, not in memory."""
    if rows is None:
        return None, None
    return rows.values.expand(samples, -1, -1), rows.table


def _launch(*arguments) -> tuple[Tensor, Tensor]:
    from ._triton.gate_norm_modulate import gate_norm_modulate_triton

    return gate_norm_modulate_triton(*arguments)


def _launchable(*tensors: Tensor | None) -> bool:
    """Whether kernels run here: an operator of a graph traced for a card may be called on a CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    return triton_problem(given[0].device) is None and all(tensor.dtype in STORED_TYPES for tensor in given)


def _forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, gate_table: Tensor | None, shift: Tensor | None,
    shift_table: Tensor | None, scale: Tensor | None, scale_table: Tensor | None, bias: Tensor | None, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator: x_new and h as tensors of their own, without elements where the call has none."""
    parts = (gate, gate_table, shift, shift_table, scale, scale_table)
    if _launchable(x, y, *parts, bias):
        return _launch(x, y, *parts, bias, eps)
    gate, shift, scale = (Rows(*parts[i : i + 2]) if parts[i] is not None else None for i in (0, 2, 4))
    x_new, h = gate_norm_modulate_torch(x, y, gate=gate, shift=shift, scale=scale, bias=bias, eps=eps)
    has_sum = y is not None or bias is not None
    return (x_new.contiguous() if has_sum else x.new_empty(0)), (x.new_empty(0) if h is None else h.contiguous())


def _forward_fake(x, y, gate, gate_table, shift, shift_table, scale, scale_table, bias, eps):
    has_sum, has_norm = y is not None or bias is not None, shift is not None or scale is not None
    return x.new_empty(x.shape if has_sum else 0), x.new_empty(x.shape if has_norm else 0)


def _backward(
    grad_x_new: Tensor | None, grad_h: Tensor | None, x: Tensor, y: Tensor | None, gate: Tensor | None,
    gate_table: Tensor | None, has_shift: bool, scale: Tensor | None, scale_table: Tensor | None,
    bias: Tensor | None, eps: float, sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The backward operator: (grad_x, grad_y, sums (b, t, slots, d)), described at the launcher, which it mirrors.

    With v = x + bias + gate·y, r = 1/√(var v + eps), v̂ = r·(v - mean v) and g = grad_h·(1 + scale), over channels:
    grad_v = grad_x_new + r·(g - mean g - v̂·mean(g·v̂)); grad_y = gate·grad_v. Sums over a frame's tokens are the rows'
    gradients: gate y·grad_v, shift grad_h, scale grad_h·v̂, bias grad_v.
    """
    tensors = (x, y, gate, gate_table, scale, scale_table, bias)
    if _launchable(*tensors, grad_x_new, grad_h):
        from ._triton.gate_norm_modulate import gate_norm_modulate_backward_triton

        return gate_norm_modulate_backward_triton(
            grad_x_new, grad_h, x, y, gate, gate_table, has_shift, scale, scale_table, bias, eps, sums
        )
    return _backward_torch(grad_x_new, grad_h, x, y, gate, gate_table, has_shift, scale, scale_table, bias, eps, sums)


def _backward_torch(grad_x_new, grad_h, x, y, gate, gate_table, has_shift, scale, scale_table, bias, eps, sums):
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    gate_row = None if gate is None else _row(Rows(gate, gate_table), compute)
    grad = torch.zeros((), dtype=compute, device=x.device) if grad_x_new is None else grad_x_new.to(compute)
    slots = {}
    if grad_h is not None:
        wide = _residual(x, y, gate_row, bias, compute).to(compute)
        centred = wide - wide.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        normed, given = centred * rstd, grad_h.to(compute)
        slots = {"shift": given if has_shift else None, "scale": None if scale is None else given * normed}
        if scale is not None:
            given = given * (1 + _row(Rows(scale, scale_table), compute))
        slope = (given * normed).mean(-1, keepdim=True)
        grad = grad + rstd * (given - given.mean(-1, keepdim=True) - normed * slope)
    slots = {"gate": None if gate is None else y * grad, **slots, "bias": None if bias is None else grad}
    totals = [slot.sum(2) for slot in slots.values() if slot is not None and sums]
    b, t, _, d = x.shape
    return (
        x.new_empty(0) if grad_h is None else grad.to(x.dtype),
        x.new_empty(0) if gate is None else (grad * gate_row).to(y.dtype),
        torch.stack(totals, 2).to(torch.float32) if totals else x.new_empty((b, t, 0, d), dtype=torch.float32),
    )


def _backward_fake(grad_x_new, grad_h, x, y, gate, gate_table, has_shift, scale, scale_table, bias, eps, sums):
    b, t, _, d = x.shape
    norm = grad_h is not None
    slots = (gate is not None) + (has_shift and norm) + (scale is not None and norm) + (bias is not None)
    return (
        x.new_empty(x.shape if norm else 0),
        x.new_empty(0) if gate is None else y.new_empty(y.shape),
        x.new_empty((b, t, slots if sums else 0, d), dtype=torch.float32),
    )


def _save(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:9])
    ctx.eps = inputs[9]


def _differentiate(ctx, grad_x_new: Tensor | None, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of the operator's ten arguments."""
    x, y, gate, gate_table, shift, shift_table, scale, scale_table, bias = ctx.saved_tensors
    if y is None and bias is None:
        grad_x_new = None
    if shift is None and scale is None:
        grad_h = None
    if grad_x_new is None and grad_h is None:
        return (None,) * 10
    if grad_h is None and gate is None and bias is None:
        return grad_x_new.to(x.dtype), grad_x_new.to(y.dtype), *(None,) * 8
    grad_x, grad_y, sums = gate_norm_modulate_backward_operator(
        grad_x_new, grad_h, x, y, gate, gate_table, shift is not None, scale, scale_table, bias, ctx.eps,
        any(ctx.needs_input_grad[2:9]),
    )
    if grad_h is None:
        grad_x = grad_x_new.to(x.dtype)
    if gate is None and y is not None:
        grad_y = grad_x.to(y.dtype)
    totals = list(sums.unbind(2))
    grads = []
    for values, table, used in ((gate, gate_table, True), (shift, shift_table, grad_h is not None),
                                (scale, scale_table, grad_h is not None)):  # fmt: skip
        total = totals.pop(0) if totals and values is not None and used else None
        grads += [_like(total, values), _like(total, table)]
    grad_bias = _like(totals.pop(0), bias) if totals else None
    return grad_x, None if y is None else grad_y, *grads, grad_bias, None


def _like(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """Sums (b, t, d) as the gradient of rows (b, t or 1, d), a table or a bias (d,)."""
    return None if total is None or part is None else total.sum_to_size(part.shape).to(part.dtype)


gate_norm_modulate_operator = register(
    "gate_norm_modulate", _forward, fake=_forward_fake, backward=_differentiate, setup_context=_save
)
gate_norm_modulate_backward_operator = register("gate_norm_modulate_backward", _backward, fake=_backward_fake)


def gate_norm_modulate_bytes(
    b: int, t: int, n: int, d: int, *, itemsize: int = 2, y: bool = True, gate: bool = True, norm: bool = True,
    bias: bool = False, tables: bool = True,
) -> int:  # fmt: skip
    """Bytes the Triton backend reads and writes for tokens (b, t, n, d), all tensors of `itemsize` bytes a number.

    Every token of x and y is read once, of x_new and h written once; each program reads its rows once.
    """
    tokens = b * t * n * d * (1 + y + (y or bias) + norm)
    programs = b * t * -(-n // TOKENS_A_PROGRAM)
    rows = programs * d * ((gate + 2 * norm) * (1 + tables) + bias)
    return itemsize * (tokens + rows)


def _check(
    x: Tensor, y: Tensor | None, gate: Rows | None, shift: Rows | None, scale: Rows | None, bias: Tensor | None
) -> list[Tensor]:
    """Refuse what does not fit; all tensors of the call, x first."""
    if x.ndim != 4 or not x.shape[-1] or not x.is_floating_point():
        raise ShapeError(f"x is {tuple(x.shape)} of {x.dtype}; floating point (b, t, n, d) with d > 0 is needed")
    if y is not None and y.shape != x.shape:
        raise ShapeError(f"y is {tuple(y.shape)}, x {tuple(x.shape)}; give both the same shape")
    if gate is not None and y is None:
        raise ShapeError("gate was given without y, the tensor it multiplies; give both or neither")
    b, t, _, d = x.shape
    if bias is not None and bias.shape != (d,):
        raise ShapeError(f"bias is {tuple(bias.shape)}; {(d,)} is needed, one number for each channel of x")
    named = (("gate", gate), ("shift", shift), ("scale", scale))
    for name, rows in named:
        if rows is not None:
            _check_rows(name, rows, b, t, d)
    given = _given(x, y, gate, shift, scale, bias)
    if any(tensor.device != x.device for tensor in given):
        parts = {f"{name}'s {part}": getattr(rows, part) for name, rows in named if rows for part in Rows._fields}
        check_same(x=x, y=y, bias=bias, **parts)
    return given


def _given(x: Tensor, *others: Tensor | Rows | None) -> list[Tensor]:
    """All tensors of a call, x first, those of Rows included."""
    flat = [x]
    for other in others:
        flat += other if isinstance(other, Rows) else [other]
    return [tensor for tensor in flat if tensor is not None]


def _check_rows(name: str, rows: Rows, b: int, t: int, d: int) -> None:
    if not isinstance(rows, Rows):
        raise ShapeError(f"{name} is a {type(rows).__name__}; give Rows(values, table)")
    shape = tuple(rows.values.shape)
    if len(shape) != 3 or shape[0] not in (1, b) or shape[1] not in (1, t) or shape[2] != d:
        raise ShapeError(f"{name} is {shape}; ({b}, {t} or 1, {d}) is needed: a row a frame, or one for all frames")
    if rows.table is not None and rows.table.shape != (d,):
        raise ShapeError(f"{name}'s table is {tuple(rows.table.shape)}; {(d,)} is needed")
