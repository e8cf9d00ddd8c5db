"""What every operator's interpreted tests share: the truth rule, hostile inputs, NaN outputs, counted traffic."""

import contextlib
import dataclasses

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

TINY = 1e-6  # rounding noise of float32 sums: below it two errors are not compared


def relative_error(out: Tensor, truth: Tensor) -> float:
    """||out - truth|| / ||truth|| in float64; the absolute norm where the truth is zero."""
    out, truth = out.detach().double(), truth.detach().double()
    scale = truth.norm().item()
    return (out - truth).norm().item() / (scale or 1.0)


def assert_as_good_as_torch(
    out: Tensor, plain: Tensor, truth: Tensor, factor: float = 2.0, floor: float = TINY
) -> None:
    """Fail unless the error of `out` is at most `factor` times the error of `plain`, plus `floor`.

    out: what the Triton backend returned. plain: the torch backend on the same stored inputs. truth: a float64 loop.
    Errors are relative Frobenius norms; a NaN or an infinity anywhere in `out` fails. Shapes and types must agree.
    """
    assert out.shape == truth.shape == plain.shape, (out.shape, plain.shape, truth.shape)
    assert out.dtype == plain.dtype, f"{out.dtype} instead of {plain.dtype}"
    assert torch.isfinite(out).all(), f"{(~torch.isfinite(out)).sum().item()} of {out.numel()} values are not finite"
    error, allowed = relative_error(out, truth), factor * relative_error(plain, truth) + floor
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def strided(x: Tensor) -> Tensor:
    """The same values as a view with odd strides (the last is 1) whose gaps hold NaN, so that a missed mask shows.

    The result is a leaf without gradient: call requires_grad_() on it.
    """
    shape = [2 * size + 1 for size in x.shape[:-1]] + [x.shape[-1] + 3 - x.shape[-1] % 2]
    gap = float("nan") if x.is_floating_point() else 0
    buffer = torch.full(shape, gap, dtype=x.dtype, device=x.device)
    view = buffer[tuple(slice(0, 2 * size, 2) for size in x.shape[:-1])][..., 1 : 1 + x.shape[-1]]
    view.copy_(x.detach())
    return view.detach()


@contextlib.contextmanager
def poisoned():
    """Fill what torch.empty, empty_like, new_empty and their strided twins return with NaN (integers: the maximum)."""
    mode = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")  # the fill below is part of torch's deterministic mode
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@dataclasses.dataclass
class Counted:
    """Traffic of interpreted kernels, in bytes. A load that repeats an address inside one tile counts it once."""

    loaded: int = 0
    stored: int = 0
    launches: int = 0
    programs: int = 0

    @property
    def total(self) -> int:
        """Bytes loaded plus bytes stored."""
        return self.loaded + self.stored


@contextlib.contextmanager
def counted_bytes():
    """Count what interpreted kernels load and store inside the block; masked lanes count nothing."""
    counted = Counted()

    def on_access(kind, lanes, itemsize):
        bytes_moved = np.unique(lanes).size * itemsize
        if kind != "store":
            counted.loaded += bytes_moved
        if kind != "load":
            counted.stored += bytes_moved

    def on_launch(ranges, grid):
        counted.launches += 1
        counted.programs += int(np.prod(grid)) if not callable(grid) else 0

    with _watch(on_access, on_launch):
        yield counted


@contextlib.contextmanager
def addresses_checked():
    """Fail when a lane that is not masked touches memory outside the tensors the kernel was given."""
    ranges = []

    def on_launch(given, grid):
        ranges[:] = given

    def on_access(kind, lanes, itemsize):
        if not lanes.size or any(first <= lanes.min() and lanes.max() + itemsize <= end for first, end in ranges):
            return
        inside = np.zeros(lanes.shape, dtype=bool)
        for first, end in ranges:
            inside |= (lanes >= first) & (lanes + itemsize <= end)
        assert inside.all(), f"{(~inside).sum()} lanes of a {kind} lie outside every tensor of the launch"

    with _watch(on_access, on_launch):
        yield


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte and end of the memory a view can reach."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    first = tensor.data_ptr()
    return first, first + (reach + 1) * tensor.element_size() if tensor.numel() else first


def _itemsize(pointers) -> int:
    """Bytes of what a handle's pointers point to."""
    return max(pointers.get_element_ty().primitive_bitwidth, 8) // 8


@contextlib.contextmanager
def _watch(on_access, on_launch):
    """Call on_launch(extents of the tensors, grid) a launch, on_access(kind, addresses, bytes of one) an access."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    real = {name: getattr(builder, name) for name in (
        "create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")}  # fmt: skip
    real_call = executor.__call__

    def lanes(pointers, mask):
        pointers = np.asarray(pointers.data)
        return pointers[np.broadcast_to(np.asarray(mask.data, dtype=bool), pointers.shape)]

    def load(self, ptrs, mask, *rest, **named):
        on_access("load", lanes(ptrs, mask), _itemsize(ptrs))
        return real["create_masked_load"](self, ptrs, mask, *rest, **named)

    def store(self, ptrs, value, mask, *rest, **named):
        on_access("store", lanes(ptrs, mask), _itemsize(ptrs))
        return real["create_masked_store"](self, ptrs, value, mask, *rest, **named)

    def atomic_rmw(self, op, ptr, val, mask, *rest, **named):
        on_access("atomic", lanes(ptr, mask), _itemsize(ptr))
        return real["create_atomic_rmw"](self, op, ptr, val, mask, *rest, **named)

    def atomic_cas(self, ptr, *rest, **named):
        on_access("atomic", np.asarray(ptr.data).ravel(), _itemsize(ptr))
        return real["create_atomic_cas"](self, ptr, *rest, **named)

    def call(self, *args, **named):
        tensors = [x for x in (*args, *named.values()) if isinstance(x, Tensor)]
        on_launch([_extent(x) for x in tensors], self.grid)
        return real_call(self, *args, **named)

    builder.create_masked_load, builder.create_masked_store = load, store
    builder.create_atomic_rmw, builder.create_atomic_cas = atomic_rmw, atomic_cas
    executor.__call__ = call
    try:
        yield
    finally:
        executor.__call__ = real_call
        for name, method in real.items():
            setattr(builder, name, method)
