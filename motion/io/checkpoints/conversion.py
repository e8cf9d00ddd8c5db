"""From a torch checkpoint to a .safetensors file under our names, with what the loaders want to know of it.

For the shell alone; see torch_checkpoint.py for what is never opened.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...models.linear_video.architecture import LINEAR_VIDEO
from ...models.sana_video.dims import SanaDims
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values
from ..files.weight_folder import pointing_to
from ..networks.families import detect_family
from ..networks.linear_video import checked_linear_video, save_linear_video
from ..networks.sana import row_of
from ..networks.sana_layouts import CLASSES, detect_sana, to_our_names
from ..networks.video_model import row_by_name
from .miva_conversion import import_miva
from .miva_names import is_published_miva
from .torch_checkpoint import TorchCheckpoint, open_checkpoint

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LICENCES = {
    "sana": "NVIDIA NSCL v2-custom, of the SANA weights this was made of; their model card decides",
    "sana_video": "NVIDIA Open Model License, of the SANA-Video weights this was made of; their model card decides",
}


@dataclass(frozen=True)
class Converted:
    """What `convert_checkpoint` wrote. half: the entry of the checkpoint it took; left_out: names it did not.

    notes: what a user should know of it, in sentences. is_adapter: that it is no model, but stands beside one.
    """

    path: Path
    title: str
    num_parameters: int
    half: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    is_adapter: bool = False


def convert_checkpoint(
    path: str | os.PathLike, output: str | os.PathLike, *, dtype: torch.dtype | None = None
) -> Converted:
    """Write the weights of a SANA, SANA-Video or MiraMo checkpoint, or a published MIVA adapter, as .safetensors.

    dtype: None keeps the type of the weights. The metadata carries sizes, licence and source. Raises CheckpointError
    and ConfigError; then nothing is written.
    """
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"dtype is {dtype}; float32, bfloat16 or float16 is needed")
    with pointing_to(row_by_name(path)):
        checkpoint = open_checkpoint(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
        if is_published_miva(shapes):
            return _convert_miva(checkpoint, output, dtype)
        convert = _convert_ours if detect_family(shapes, shapes) == LINEAR_VIDEO.name else _convert_sana
        title, count, dropped = convert(checkpoint, shapes, output, dtype)
    return Converted(Path(output), title, count, checkpoint.half, (*checkpoint.left_out, *dropped))


def diffusers_config(dims: SanaDims) -> dict:
    """The sizes as diffusers' config.json names them; heads cannot always be told from shapes."""
    video = dims.family == "sana_video"
    return {
        "_class_name": next(name for name, family in CLASSES.items() if family == dims.family),
        "in_channels": dims.in_channels,
        "out_channels": dims.in_channels,
        "patch_size": list(dims.patch_size) if video else dims.patch_size[1],
        "num_layers": dims.num_layers,
        "num_attention_heads": dims.num_attention_heads,
        "attention_head_dim": dims.attention_head_dim,
        "num_cross_attention_heads": dims.num_cross_attention_heads,
        "cross_attention_head_dim": dims.width // dims.num_cross_attention_heads,
        "cross_attention_dim": dims.width,
        "caption_channels": dims.caption_channels,
        "mlp_ratio": dims.hidden_width / dims.width,
        "qk_norm": "rms_norm_across_heads" if dims.qk_norm else None,
    }


def _convert_sana(checkpoint: TorchCheckpoint, shapes, output, dtype) -> tuple[str, int, tuple[str, ...]]:
    layout = detect_sana(checkpoint.path, shapes)
    row = row_of(layout.dims)
    state = _typed(checkpoint.path, to_our_names(layout, checkpoint.tensors), dtype)
    metadata = {
        "config": json.dumps(diffusers_config(layout.dims)), "license": LICENCES[layout.dims.family],
        "source": f"{row} ({checkpoint.path.name})", "converted": f"by motionblocks, from {layout.naming} names",
    }  # fmt: skip
    write_safetensors(output, state, metadata)
    return row, _count(state), layout.dropped


def _convert_ours(checkpoint: TorchCheckpoint, shapes, output, dtype) -> tuple[str, int, tuple[str, ...]]:
    file = checked_linear_video(checkpoint.path, shapes, {}, lambda: checkpoint.tensors)
    state = _typed(checkpoint.path, file.state_dict, dtype)
    about = {"source": checkpoint.path.name, "converted": "by motionblocks, from the MiraMo layout"}
    save_linear_video(output, file.spec, state, extra_metadata=about)
    return "MiraMo", _count(state), ()


def _convert_miva(checkpoint: TorchCheckpoint, output, dtype) -> Converted:
    made = import_miva(checkpoint.path, checkpoint.tensors)
    state = {name: tensor.contiguous() for name, tensor in _typed(checkpoint.path, made.tensors, dtype).items()}
    write_safetensors(output, state, {**made.metadata, "source": checkpoint.path.name})
    left_out = (*checkpoint.left_out, *made.left_out)
    return Converted(Path(output), made.title, _count(state), checkpoint.half, left_out, made.notes, is_adapter=True)


def _typed(path: Path, state: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The weights in the type wanted, finite in it. Raises CheckpointError naming the first that is not."""
    typed = {}
    for name, tensor in state.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{path}: weight {shown(name)} is {tensor.dtype}; float32, bf16 or fp16 is needed")
        check_values(name, tensor, path)
        typed[name] = tensor if dtype is None else tensor.to(dtype)
        if dtype is not None and not typed[name].isfinite().all():
            raise CheckpointError(f"{path}: weight {shown(name)} does not fit {dtype}; use bfloat16 or float32")
    return typed


def _count(state: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())
