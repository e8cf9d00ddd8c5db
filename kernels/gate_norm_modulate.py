"""Gate, residual, norm and modulation of a transformer block in one pass, with rows per sample and frame."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dispatch import check_same
from .errors import ShapeError

FLOAT16_MAX = 65504.0


class Rows(NamedTuple):
    """One modulation row a frame: values[b, t] + table, summed in float32 and never expanded to tokens."""

    values: Tensor  # (b or 1, t or 1, d)
    table: Tensor | None = None  # (d,), the block's own part


def gate_norm_modulate_torch(
    x: Tensor, y: Tensor | None = None, *, gate: Rows | None = None, shift: Rows | None = None,
    scale: Rows | None = None, bias: Tensor | None = None, eps: float = 1e-6,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Plain torch form, any dtype; sums are float32 (float64 for float64 inputs)."""
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
    x_new is x itself. kernels: "auto", "torch" or "triton".
    Returns (x_new, h), both (b, t, n, d) in x's dtype; h comes from x_new before it is rounded, sums are float32.
    Float16 results saturate at 65504. Raises ShapeError for shapes and devices that do not fit.
    Source: adaLN-zero of DiT (arXiv 2212.09748) §3.2; PixArt-α (arXiv 2310.00426) §2.3 for the tables.
    """
    _check(x, y, gate, shift, scale, bias)
    return gate_norm_modulate_torch(x, y, gate=gate, shift=shift, scale=scale, bias=bias, eps=eps)


def _check(
    x: Tensor, y: Tensor | None, gate: Rows | None, shift: Rows | None, scale: Rows | None, bias: Tensor | None
) -> None:
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
    if any(tensor.device != x.device for tensor in _given(x, y, gate, shift, scale, bias)):
        parts = {f"{name}'s {part}": getattr(rows, part) for name, rows in named if rows for part in Rows._fields}
        check_same(x=x, y=y, bias=bias, **parts)


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
