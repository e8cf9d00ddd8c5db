"""The Wan 2.1 VAE as a network of our own, from the host's file or diffusers' AutoencoderKLWan."""

import os

import torch

from ...errors import CheckpointError, ConfigError
from ...models.latent_spaces import SPACES
from ...models.wan.vae import WanVAE
from ..files.kind import shown
from ..files.weight_folder import pointing_to
from ..networks.linear_video import check_compute, fill_module
from .recognise import VAEFile, open_vae

SPACE = SPACES["wan21"]


def read_wan_vae(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, device=None) -> WanVAE:
    """Read a .safetensors file or diffusers folder whole; its width is told by the shapes.

    dtype: of the weights in memory, and so of the work. Raises CheckpointError for other files and for weights that are
    missing, unknown or misshapen, ConfigError for a type the device cannot compute in.
    """
    device = torch.device(device or "cpu")
    check_compute(dtype, device)
    file, vae = open_wan_vae(path)
    with pointing_to(file.space.row or "VAEs"):
        return fill_module(vae, file.read(), dtype=dtype, device=device)


def open_wan_vae(path: str | os.PathLike) -> tuple[VAEFile, WanVAE]:
    """Check a file or folder by headers alone: it, and its network without memory. Raises CheckpointError."""
    file = open_vae(path)
    with pointing_to(file.space.row or "VAEs"):
        vae = _network(file)
        file.check_shapes({name: tuple(weight.shape) for name, weight in vae.state_dict().items()})
        for name, place in file.places.items():
            stored = file.source.headers[file.source.places[place]].tensors[place].dtype
            if not stored.is_floating_point:
                raise CheckpointError(f"{path}: weight {shown(name)} is {stored}; floating point is needed")
    return file, vae


def _network(file: VAEFile) -> WanVAE:
    """The network of this file, without memory. Raises CheckpointError for VAEs of another kind, and for odd widths."""
    if file.space != SPACE:
        raise CheckpointError(
            f"{file.source.path}: this is the {file.space.title}; the {SPACE.title} is needed: choose the file or "
            f"folder of row {SPACE.row} in docs/models.md"
        )
    try:
        return WanVAE(file.config["dim"], device="meta")
    except ConfigError as error:
        raise CheckpointError(f"{file.source.path}: {error}; get the file again") from error
