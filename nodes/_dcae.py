"""DC-AE f32c32 behind the VAE socket: the host's own port of the network, a video's frames one chunk after another.

Latents stay as the encoder gives them; SANA's factor 0.41407 belongs to the model's latent format, not to the VAE.
Tiling, the retry in tiles when memory runs out, cropping and offloading are the host's.
"""

import logging

import comfy.model_management as memory
import comfy.model_patcher
import torch
from einops import rearrange
from torch import Tensor, nn

from ..motion.io.vae_file import VAEFile
from ..motion.models.latent_spaces import SPACES
from . import _host
from ._vae import no_weights_expected
from ._video_vae import SpaceVAE, network_shapes

SPACE = SPACES["dcae"]
CHUNK = 2**20  # pixels worked on at once: a frame of 1024x1024, four of 512x512
# Live values a pixel of the chunk at the network's peak: 643 and 577, counted on the meta device at 512 and 1024 px; a
# quarter more for what convolutions work in.
ENCODE_VALUES, DECODE_VALUES = 800, 720
DTYPES = (torch.bfloat16, torch.float32)  # the weights overflow in float16


class FrameFolded(nn.Module):
    """A picture autoencoder on videos: frames are rows of a batch, so many at a time that memory stays bounded."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def encode(self, pixels: Tensor) -> Tensor:
        """(b, 3, t, h, w) or (b, 3, h, w) in [-1, 1] -> (b, 32, t, h/32, w/32), or without t."""
        return self._each_chunk(self.network.encode, pixels, pixels.shape[-2] * pixels.shape[-1])

    def decode(self, latents: Tensor, **_options) -> Tensor:
        """(b, 32, t, h, w) or (b, 32, h, w) -> (b, 3, t, 32·h, 32·w) in about [-1, 1], or without t."""
        cell = SPACE.spatial_ratio**2
        return self._each_chunk(self.network.decode, latents, latents.shape[-2] * latents.shape[-1] * cell)

    def _each_chunk(self, function, values: Tensor, pixels: int) -> Tensor:
        frames = values if values.ndim == 4 else rearrange(values, "b c t h w -> (b t) c h w")
        parts = frames.split(frames_at_once(pixels))
        bar, done = _host.progress_bar(len(parts)), []
        for part in parts:
            _host.throw_if_cancelled()
            done.append(function(part))
            bar.update(1)
        result = torch.cat(done) if len(done) > 1 else done[0]
        return result if values.ndim == 4 else rearrange(result, "(b t) c h w -> b c t h w", t=values.shape[2])


def frames_at_once(pixels: int) -> int:
    """How many frames of so many pixels are worked on together."""
    return max(1, CHUNK // max(pixels, 1))


class DCAEVAE(SpaceVAE):
    """DC-AE f32c32 of the host; IMAGE (t, h, w, 3) is one video of t frames."""

    latent_space = SPACE

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        """network: AutoencoderDC with its weights, in dtype."""
        with no_weights_expected():
            super().__init__(sd={})  # sets every default attribute of this host version
        ratio = SPACE.spatial_ratio
        self.first_stage_model = FrameFolded(network).eval()
        self.latent_channels, self.latent_dim, self.output_channels, self.not_video = SPACE.channels, 3, 3, False
        self.upscale_ratio = self.downscale_ratio = (lambda frames: frames, ratio, ratio)
        self.upscale_index_formula = self.downscale_index_formula = (1, ratio, ratio)
        self.working_dtypes, self.vae_dtype, self.size = list(DTYPES), dtype, None
        self.memory_used_encode = lambda shape, kind: _bytes(shape, kind, 1, ENCODE_VALUES)
        self.memory_used_decode = lambda shape, kind: _bytes(shape, kind, ratio, DECODE_VALUES)
        self.device, self.output_device = _host.vae_device(), _host.output_device()
        self.patcher = _patcher(self.first_stage_model, self.device)


def _bytes(shape, dtype: torch.dtype, ratio: int, values: int) -> int:
    """Memory of a call: the chunk in the network, and all frames going in and coming out."""
    frames = shape[2] if len(shape) == 5 else 1
    pixels = shape[-2] * shape[-1] * ratio**2
    chunk = min(frames, frames_at_once(pixels)) * pixels * values
    return (chunk + 6 * frames * pixels) * memory.dtype_size(dtype)


def _patcher(network: nn.Module, device: torch.device):
    """The host's patcher, whose class is read now, since the host's start-up may rebind it."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(network, load_device=device, offload_device=memory.vae_offload_device())


def dcae_vae(file: VAEFile, dtype: torch.dtype | None = None) -> DCAEVAE:
    """The VAE of an opened DC-AE file. Raises CheckpointError for weights that are not those of its config."""
    from comfy.ldm.ace.vae.autoencoder_dc import AutoencoderDC

    with torch.device("meta"):
        network = AutoencoderDC(**file.config, scaling_factor=1.0)
    file.check_shapes(network_shapes(network))
    dtype = dtype or chosen_dtype()
    state = {name: tensor.to(dtype) for name, tensor in file.read().items()}
    network.to(dtype)
    if hasattr(memory, "archive_model_dtypes"):
        memory.archive_model_dtypes(network)
    vae = DCAEVAE(network, dtype)
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False)
    logging.info("MotionBlocks: DC-AE on %s in %s", vae.device, dtype)
    return vae


def chosen_dtype() -> torch.dtype:
    """What the host's settings and device ask for, but never float16."""
    dtype = memory.vae_dtype(_host.vae_device(), list(DTYPES))
    return dtype if dtype in DTYPES else torch.float32
