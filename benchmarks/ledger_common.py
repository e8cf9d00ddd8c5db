"""Count what a model moves through memory on the meta device: bytes of every operation that is no GEMM, launches, peak.

A torch operation reads each of its tensors once and writes its results once. A GEMM (mm, addmm, linear, 1x1
convolution; not bmm) is a launch without bytes: cuBLAS moves the same whoever calls it. Views move nothing. An
operator of the pack books two sums: `bytes` counts its tensors once, as a memory with a cache for what neighbours
share sees it; `declared` what all programs load and store, which interpreted tests compare with counted accesses.
"""

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GEMMS = {"mm", "addmm", "linear", "_addmm_activation", "addmm_"}
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "sym_size"}


def stored_bytes(x: Tensor) -> int:
    """Bytes of the distinct elements a view shows: a dimension expanded by a stride of 0 counts once."""
    elements = 1
    for size, stride in zip(x.shape, x.stride()):
        elements *= size if stride or size == 0 else 1
    return elements * x.element_size()


class Ledger(TorchDispatchMode):
    """While active, books every operation; `operators` gives the declared bytes of the pack's operators by name."""

    def __init__(self, operators: dict[str, Callable[..., int]] | None = None):
        super().__init__()
        self.operators = {} if operators is None else operators
        self.bytes = self.declared = self.launches = self.live = self.peak = 0
        self.by_name: Counter[str] = Counter()
        self.at_peak: list[tuple[str, int]] = []  # (made by, bytes) of what lived then
        self._known: dict[int, tuple[str, int]] = {}

    def hold(self, *tensors: Tensor, name: str = "given") -> None:
        """Count the storages of these tensors as live from now on, until they die."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known[key] = (name, storage.nbytes())
                self.live += storage.nbytes()
                weakref.finalize(storage, self._release, key)
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, list(self._known.values())

    def _release(self, key: int) -> None:
        self.live -= self._known.pop(key, ("", 0))[1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in given:  # weights and other tensors made before: not live on the block's account
            self._known.setdefault(x.untyped_storage()._cdata, ("before", 0))
        self._book(func, args, kwargs, given, results)
        self.hold(*results, name=func._schema.name)
        return out

    def _book(self, func, args, kwargs, given: list[Tensor], results: list[Tensor]) -> None:
        name = func._schema.name.split("::")[1]
        if name in FREE or not results:
            return
        if func.namespace == "motionblocks":
            moved, launches = sum(map(stored_bytes, [*given, *results])), 1
            self.declared += self.operators[name](*args)
        elif name in GEMMS or (name == "convolution" and args[1].shape[2:].numel() == 1 and args[8] == 1):
            moved, launches = 0, 1
        else:
            written, read = self._traffic(func, args, kwargs, given, results)
            moved, launches = written + read, int(written > 0)
        self.bytes += moved
        self.declared += moved if func.namespace != "motionblocks" else 0
        self.launches += launches
        self.by_name[name] += moved

    def _traffic(self, func, args, kwargs, given, results) -> tuple[int, int]:
        """Bytes written and read. A result that shares memory with an argument is a view, or written in place."""
        only_written = func._schema.name in ("aten::copy_", "aten::fill_", "aten::zero_")
        sources = {x.untyped_storage()._cdata for x in given}
        fresh = [x for x in results if x.untyped_storage()._cdata not in sources]
        in_place = []
        for place, value in zip(func._schema.arguments, args):
            if place.alias_info is not None and place.alias_info.is_write and isinstance(value, Tensor):
                in_place.append(value)
        in_place += [value for name, value in kwargs.items() if name == "out" and isinstance(value, Tensor)]
        written = sum(map(stored_bytes, [*fresh, *in_place]))
        if not written:
            return 0, 0
        skipped = {id(x) for x in in_place} if only_written or "out" in kwargs else set()
        seen, read = set(), 0
        for x in given:
            key = (x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape), x.stride())
            if id(x) not in skipped and key not in seen:
                seen.add(key)
                read += stored_bytes(x)
        return written, read


def pack_operators() -> dict[str, Callable[..., int]]:
    """Declared bytes of each forward operator, from the arguments it is registered with."""
    from pack.kernels.gate_norm_modulate import gate_norm_modulate_bytes
    from pack.kernels.glu_depthwise import glu_depthwise_bytes
    from pack.kernels.spatial_linear_attention import spatial_linear_attention_bytes
    from pack.kernels.spatial_state import read_spatial_state_bytes, spatial_linear_state_bytes
    from pack.kernels.temporal_cosine_attention import temporal_cosine_attention_bytes

    def glue(x, y, gate, gate_table, shift, shift_table, scale, scale_table, bias, eps):
        tables = [table is not None for table in (gate_table, shift_table, scale_table)]
        assert all(tables) or not any(tables) or (gate is None and all(tables[1:])) or (shift is None and tables[0])
        return gate_norm_modulate_bytes(
            *x.shape, itemsize=x.element_size(), y=y is not None, gate=gate is not None, norm=shift is not None,
            bias=bias is not None, tables=any(tables),
        )

    return {
        "spatial_linear_attention": lambda q, k, v, eps, keep: spatial_linear_attention_bytes(
            *v.shape, v.element_size(), keep=keep),
        "spatial_linear_attention_with_state": lambda q, k, v, eps: spatial_linear_attention_bytes(
            *v.shape, v.element_size(), keep=True),
        "spatial_linear_state": lambda k, v: spatial_linear_state_bytes(*v.shape, v.element_size()),
        "read_spatial_state": lambda q, sums, eps: read_spatial_state_bytes(*q.shape, q.element_size()),
        "temporal_cosine_attention": lambda q, k, v, cos, sin, algorithm: temporal_cosine_attention_bytes(
            *v.shape, itemsize=v.element_size(), algorithm=algorithm),
        "glu_depthwise": lambda u, weight, bias, height, width: glu_depthwise_bytes(
            u.shape[0], (height, width), u.shape[2] // 2, u.element_size(), biased=bias is not None),
        "gate_norm_modulate": glue,
    }  # fmt: skip


def meta_ledger(call: Callable[[], Tensor], *held: Tensor, operators=None) -> Ledger:
    """Run `call` on the meta device without gradients and return its ledger; `held` are live from the start."""
    ledger = Ledger(operators)
    ledger.hold(*held)
    with torch.no_grad(), ledger:
        call()
    return ledger
