"""Files of the VAE of motionblocks-wan: written whole, read back strictly."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ...models.small_vae import SmallVAE, SmallVAEConfig
from ...records import check_fields
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values, read_safetensors
from ..networks.linear_video import compare_shapes

KIND, CONFIG = "kind", "config"  # metadata entries
SMALL_VAE = "motionblocks_small_vae"


def save_small_vae(path: str | os.PathLike, vae: SmallVAE, metadata: Mapping[str, str] | None = None) -> None:
    """Save a VAE as float16, its scale as float32. Raises CheckpointError for weights that are not finite."""
    kept = ("mean", "deviation")
    tensors = {name: value.detach().to(torch.float32 if name in kept else torch.float16).contiguous()
               for name, value in vae.state_dict().items()}  # fmt: skip
    for name, tensor in tensors.items():
        check_values(name, tensor, Path(path))
    own = {KIND: SMALL_VAE, CONFIG: json.dumps(asdict(vae.config))}
    write_safetensors(path, tensors, {**(metadata or {}), **own})


def read_small_vae(path: str | os.PathLike) -> SmallVAE:
    """A VAE in float32. Raises CheckpointError for other files and damaged ones."""
    tensors, metadata = read_safetensors(path)
    if metadata.get(KIND) != SMALL_VAE:
        raise CheckpointError(f"{path}: this is not the VAE of motionblocks-wan; get the pack again")
    try:
        config = SmallVAEConfig(**check_fields(SmallVAEConfig, parse_json(metadata.get(CONFIG, ""))))
    except ValueError as error:
        raise CheckpointError(f"{path}: its {CONFIG} is not usable: {shown(str(error), 200)}; get it again") from error
    vae = SmallVAE(config)
    compare_shapes(Path(path), {name: tuple(tensor.shape) for name, tensor in tensors.items()},
                   {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()})  # fmt: skip
    vae.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return vae.eval()
