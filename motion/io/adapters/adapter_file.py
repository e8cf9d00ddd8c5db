"""Adapter files: what kind one is, its layers whoever wrote it, and saving ours."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...adapters.base_sample import notes_beside
from ...adapters.lora import LoRA, LoRAMatrices, able_layers
from ...adapters.miva import MIVA
from ...adapters.protocol import Adapter
from ...errors import CheckpointError
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values, read_header, read_safetensors
from ..networks.families import detect_family
from ..networks.linear_video import refuse_pickle_name
from .lora_names import NAMING, modules_of, other_kind, parts_by_layer
from .lora_scale import DeclaredScale, declared_scale
from .miva_file import MIVAFile, miva_metadata, read_miva

FORMAT_VERSION = 1
KINDS = (LoRA.kind, MIVA.kind)
LISTED = 5


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as its file holds it; it has met no network yet.

    layers: by the name the file gives, without its root; kohya's names have lost their dots. notes: what a user should
    know of it, in sentences.
    """

    kind: str
    layers: dict[str, LoRAMatrices]
    metadata: dict[str, str]
    notes: tuple[str, ...]
    source: str

    def build(self, module: nn.Module) -> LoRA:
        """The adapter for `module`. Raises CheckpointError when it is one of another model."""
        given: dict[str, LoRAMatrices] = {}
        for layer, names in modules_of(self.layers, able_layers(module)).items():
            name = names[0] if names else layer
            if len(names) > 1:
                raise CheckpointError(
                    f"{self.source}: layer {shown(layer)} may be {' or '.join(names[:LISTED])} of this model; save it "
                    "anew with the dots in its layers' names"
                )
            if name in given:
                raise CheckpointError(f"{self.source}: two of its layers are {name}; get the file again")
            given[name] = self.layers[layer]
        return LoRA.of_layers(module, given, self.source)

    def notes_on(self, module: nn.Module) -> tuple[str, ...]:
        """What a user should know of it beside this module: that it was trained beside another one."""
        return notes_beside(self.metadata, module, "the LoRA")


def read_adapter(path: str | os.PathLike) -> AdapterFile | MIVAFile:
    """Read an adapter: ours by its metadata, or a LoRA in the names of kohya's scripts, PEFT or diffusers.

    Ranks and alphas may differ from layer to layer; `lora_scale.py` says what a missing alpha means.
    Raises CheckpointError with file, value, need and way out, by its kind for adapters that are no plain LoRA.
    """
    path = Path(path)
    refuse_pickle_name(path)
    header = read_header(path)
    _check_version(path, header.metadata)
    if header.metadata.get("family") == MIVA.kind:
        return read_miva(path)
    layers, odd = parts_by_layer(header.tensors)
    if odd or not layers:
        raise CheckpointError(f"{path}: {_why_not(header.shapes, odd)}")
    tensors, metadata = read_safetensors(path)
    silent = any("alpha" not in parts for parts in layers.values())
    scale = declared_scale(path, metadata) if silent else DeclaredScale()
    matrices = {layer: _matrices(path, layer, {part: tensors[name] for part, name in parts.items()}, scale)
                for layer, parts in layers.items()}  # fmt: skip
    return AdapterFile(LoRA.kind, matrices, metadata, _notes(scale) if silent else (), str(path))


def load_adapter(path: str | os.PathLike, module: nn.Module) -> Adapter:
    """Read an adapter and build it for `module`. Raises CheckpointError for other files, and for other models."""
    return read_adapter(path).build(module)


def save_adapter(
    path: str | os.PathLike, adapter: Adapter, metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Save an adapter, whole or not at all; a LoRA under names that the host's own loaders know.

    metadata: texts beside our own. dtype: number type of all but single numbers, where not the adapter's own.
    Raises CheckpointError for values that are not finite or that dtype cannot hold, or a disk that refuses.
    """
    tensors = {name: _stored(name, value, dtype, Path(path)) for name, value in adapter.tensors().items()}
    own = {"format_version": str(FORMAT_VERSION), "family": adapter.kind}
    if isinstance(adapter, MIVA):
        own |= miva_metadata(adapter)
    write_safetensors(path, tensors, {**(metadata or {}), **own})


def _stored(name: str, value: Tensor, dtype: torch.dtype | None, path: Path) -> Tensor:
    """A tensor as its file keeps it. Raises CheckpointError."""
    check_values(name, value, path)
    if dtype is None or value.ndim == 0:
        return value
    kept = value.to(dtype)
    if not kept.isfinite().all():
        raise CheckpointError(
            f"{path}: tensor {shown(name)} reaches {float(value.abs().max()):.3g}, more than {dtype} holds "
            f"({torch.finfo(dtype).max:.3g}); save the adapter as bf16"
        )
    return kept


def _check_version(path: Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get("format_version", "1")
    if metadata.get("family") in KINDS and (not version.isdecimal() or int(version[:6]) > FORMAT_VERSION):
        raise CheckpointError(f"{path}: made by version {shown(version)}, this pack reads up to {FORMAT_VERSION}; "
                              "update the pack")  # fmt: skip


def _why_not(shapes: Mapping[str, tuple[int, ...]], odd: list[str]) -> str:
    """What a file without a plain LoRA in it is, what is needed, and a way out."""
    kind = other_kind(shapes)
    if kind:
        return (f"{kind}; plain LoRAs are read here, two matrices a layer; make one of it with the tool that trained "
                "it, or use it in ComfyUI, whose LoRA loaders know more kinds")  # fmt: skip
    what = detect_family(shapes, shapes) or "not a model known here"
    listed = ", ".join(shown(name) for name in sorted(odd)[:LISTED]) or "all of them"
    return (f"{what}; a LoRA is needed, with the tensors {NAMING}; missing their other half or unknown here: {listed}; "
            "choose the LoRA's file, or get it again")  # fmt: skip


def _matrices(path: Path, layer: str, parts: dict[str, Tensor], scale: DeclaredScale) -> LoRAMatrices:
    down, up, alpha = parts["down"], parts["up"], parts.get("alpha")
    if down.ndim not in (2, 4) or up.ndim != down.ndim or not len(down) or up.shape[1] != len(down):
        sizes = f"{tuple(down.shape)}, {tuple(up.shape)}"
        raise CheckpointError(f"{path}: layer {shown(layer)} is {sizes}; (rank, inside) and (outside, rank) are "
                              "needed, or those of a 2-D convolution; get the file again")  # fmt: skip
    if not down.is_floating_point() or not up.is_floating_point():
        raise CheckpointError(f"{path}: layer {shown(layer)} is {down.dtype}, {up.dtype}; floating point is needed; "
                              "get the file again")  # fmt: skip
    if alpha is not None and alpha.numel() != 1:
        raise CheckpointError(f"{path}: layer {shown(layer)} has {alpha.numel()} alphas; one is needed; get the file "
                              "again")  # fmt: skip
    given = scale.alpha_of(layer, len(down)) if alpha is None else float(alpha)
    return LoRAMatrices(down, up, given)


def _notes(scale: DeclaredScale) -> tuple[str, ...]:
    """What a user should know where layers came without an alpha of their own."""
    if not scale.source:
        return ("the LoRA does not say its alpha; alpha = rank is used, as other loaders do; if it acts too strongly "
                "or weakly, change its strength",)  # fmt: skip
    rooted = ", divided by the root of the rank (rs-LoRA)" if scale.root_of_rank else ""
    return (f"the LoRA's alpha comes from its {scale.source}{rooted}; ComfyUI's own loaders do not read it and use "
            "alpha = rank",)  # fmt: skip
