"""LoRA files: three tensors a layer, under the names that the host's own LoRA loaders look for."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...adapters.lora import LoRA
from ...errors import CheckpointError
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values, read_safetensors
from ..networks.families import detect_family
from ..networks.linear_video import refuse_pickle_name

FORMAT_VERSION = 1
FAMILY = "lora"
PREFIX = "diffusion_model."
PARTS = ("lora_down.weight", "lora_up.weight", "alpha")
Layers = dict[str, tuple[Tensor, Tensor, float]]  # by layer: down, up, alpha


def save_lora(path: str | os.PathLike, lora: LoRA, metadata: Mapping[str, str] | None = None) -> None:
    """Save a LoRA, whole or not at all, under names that the host's own LoRA loaders know.

    metadata: texts beside our own. Raises CheckpointError for values that are not finite or a disk that refuses.
    """
    write_lora(path, {name: (layer.down, layer.up, lora.alpha) for name, layer in lora.layers.items()}, metadata or {})


def load_lora(path: str | os.PathLike, module: nn.Module) -> LoRA:
    """Build a LoRA for `module` from a file saved by `save_lora`.

    Raises CheckpointError for files that are no LoRA, or one of another model.
    """
    return LoRA.of_layers(module, read_lora(path)[0], str(path))


def lora_tensors(layers: Layers) -> dict[str, Tensor]:
    """A LoRA's tensors under the names of its file."""
    tensors = {}
    for name, (down, up, alpha) in layers.items():
        values = (down.detach(), up.detach(), torch.tensor(float(alpha)))
        tensors |= {f"{PREFIX}{name}.{part}": value for part, value in zip(PARTS, values)}
    return tensors


def write_lora(path: str | os.PathLike, layers: Layers, metadata: Mapping[str, str]) -> None:
    """Write a LoRA, whole or not at all. Raises CheckpointError for values that are not finite."""
    tensors = lora_tensors(layers)
    for name, value in tensors.items():
        check_values(name, value, Path(path))
    own = {"format_version": str(FORMAT_VERSION), "family": FAMILY}
    write_safetensors(path, tensors, {**metadata, **own})


def read_lora(path: str | os.PathLike) -> tuple[Layers, dict[str, str]]:
    """Read a LoRA as layers and metadata. Raises CheckpointError with file, value, need and way out."""
    path = Path(path)
    refuse_pickle_name(path)
    tensors, metadata = read_safetensors(path)
    version = metadata.get("format_version", "1")
    if metadata.get("family") == FAMILY and (not version.isdecimal() or int(version[:6]) > FORMAT_VERSION):
        raise CheckpointError(f"{path}: made by version {shown(version)}, this pack reads up to {FORMAT_VERSION}; "
                              "update the pack")  # fmt: skip
    down_name = f".{PARTS[0]}"
    names = [name[len(PREFIX) : -len(down_name)] for name in tensors
             if name.startswith(PREFIX) and name.endswith(down_name)]  # fmt: skip
    known = {f"{PREFIX}{name}.{part}" for name in names for part in PARTS}
    odd = sorted(known ^ set(tensors))
    if not names or odd:
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        what = detect_family(shapes, shapes) or "not a model known here"
        raise CheckpointError(
            f"{path}: {what}; a LoRA with the tensors {PREFIX}<layer>.{{{','.join(PARTS)}}} is needed, such as this "
            f"pack trains; missing or unknown here: {', '.join(shown(name) for name in odd[:5]) or 'all of them'}"
        )
    layers = {}
    for name in names:
        down, up, alpha = (tensors[f"{PREFIX}{name}.{part}"] for part in PARTS)
        if down.ndim not in (2, 4) or up.ndim != down.ndim or alpha.numel() != 1 or not down.shape[0]:
            sizes = f"{tuple(down.shape)}, {tuple(up.shape)}"
            raise CheckpointError(f"{path}: layer {shown(name)} is {sizes}; get the file again")
        if not down.is_floating_point() or not up.is_floating_point():
            raise CheckpointError(f"{path}: layer {shown(name)} is {down.dtype}, {up.dtype}; floating point is needed")
        layers[name] = (down, up, float(alpha))
    return layers, metadata
