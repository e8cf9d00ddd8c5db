"""VAEs of public video models behind the VAE socket: DC-AE on the host's port, Wan 2.1 and LTX-2 as it has them."""

import inspect
import json

import torch
from torch import Tensor, nn

from ...motion.errors import CheckpointError
from ...motion.io.vaes.ltx2_names import UNREAD
from ...motion.io.vaes.recognise import VAEFile, open_vae
from ..host import devices
from ..models.limits import check_weights_fit
from .base import SpaceVAE, network_shapes
from .framewise import dcae_vae, svd_vae

WAN_WIDTH = 96  # of the published weights; older hosts build no other


def load_video_vae(path: str, dtype: torch.dtype | None = None) -> tuple[SpaceVAE, VAEFile]:
    """VAE from a file or diffusers folder, and what it was read from. dtype: None leaves the choice to the host.

    Raises CheckpointError for other files, ConfigError for a type this device cannot compute in.
    """
    check_dtype(dtype)
    with torch.inference_mode(False):
        file = open_vae(path)
        check_weights_fit(path, 2 * file.source.num_bytes)  # as read, and as the host copies them
        vae = {"dcae": dcae_vae, "svd": svd_vae}.get(file.space.kind, _host_vae)(file, dtype)
    vae.latent_space = file.space
    return vae, file


def check_dtype(dtype: torch.dtype | None) -> None:
    """Refuse a type that the VAE's device does not compute in. Raises ConfigError."""
    from ...motion.io.networks.linear_video import check_compute

    if dtype is not None:
        check_compute(dtype, devices.vae_device())


def _host_vae(file: VAEFile, dtype: torch.dtype | None) -> SpaceVAE:
    """The host's own VAE; its loader would leave what is missing random, so names and shapes are compared first."""
    make = {"wan21": _wan_network, "ltx2": _ltx2_network}[file.space.kind]
    with torch.device("meta"):
        network = make(file)
    file.check_shapes(network_shapes(network), UNREAD)
    state = file.read()
    if file.space.kind == "ltx2":
        return SpaceVAE(sd=_with_unread(state), dtype=dtype, metadata={"config": json.dumps({"vae": file.config})})
    return SpaceVAE(sd=state, dtype=dtype)


def _wan_network(file: VAEFile) -> nn.Module:
    from comfy.ldm.wan.vae import WanVAE

    sizes = {"z_dim": file.space.channels, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    return WanVAE(dim=_wan_width(file), **sizes, temperal_downsample=[False, True, True], dropout=0.0)


def _wan_width(file: VAEFile) -> int:
    """Width of the file; hosts before `conv_out_channels` build every Wan VAE 96 wide. Raises CheckpointError."""
    from comfy.ldm.wan.vae import WanVAE

    width = file.config["dim"]
    if width != WAN_WIDTH and "conv_out_channels" not in inspect.signature(WanVAE.__init__).parameters:
        raise CheckpointError(
            f"{file.source.path}: a Wan VAE of width {width}; this ComfyUI knows width {WAN_WIDTH} only: update "
            f"ComfyUI, or get the usual file (docs/models.md, row {file.space.row})"
        )
    return width


def _ltx2_network(file: VAEFile) -> nn.Module:
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    try:
        return VideoVAE(config=file.config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{file.source.path}: this ComfyUI cannot build the VAE that the file's config describes "
            f"({str(error)[:120]}); update ComfyUI, or get LTX-2.0's VAE (docs/models.md, row {file.space.row})"
        ) from error


def _with_unread(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The host logs a warning for statistics that are absent; nothing reads them."""
    like = state["per_channel_statistics.mean-of-means"]
    return {name: torch.zeros_like(like) for name in UNREAD} | state
