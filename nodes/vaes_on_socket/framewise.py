"""VAEs that work on single pictures or short runs of them, for videos of any length: frames in chunks.

Tiling, the retry in tiles when memory runs out and offloading are the host's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management as memory
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...motion.io.vaes.recognise import VAEFile
from ...motion.models.latent_spaces import LatentSpace
from ..host import devices, progress
from .base import SpaceVAE, network_shapes
from .builtin import no_weights_expected

CHUNK = 2**20  # pixels worked on at once: a frame of 1024x1024, four of 512x512
DTYPES = (torch.bfloat16, torch.float32)  # these VAEs overflow in float16


@dataclass(frozen=True)
class Load:
    """What a network asks for. values: live ones a pixel at its peak. run: frames it decodes together, None = any."""

    encode_values: int
    decode_values: int
    run: int | None = None

    def frames_at_once(self, pixels: int, decodes: bool) -> int:
        """How many frames of so many pixels go through the network together."""
        if decodes and self.run is not None:
            return self.run
        return max(1, CHUNK // max(pixels, 1))


class FrameFolded(nn.Module):
    """A picture autoencoder on videos: frames are rows of a batch, so many at a time that memory stays bounded."""

    def __init__(self, network: nn.Module, space: LatentSpace, load: Load):
        super().__init__()
        self.network, self.space, self.load = network, space, load

    def encode(self, pixels: Tensor) -> Tensor:
        """(b, 3, t, h, w) in [-1, 1] -> (b, c, t, h/r, w/r)."""
        chunk = self.load.frames_at_once(pixels.shape[-2] * pixels.shape[-1], decodes=False)
        return self._each_chunk(self.network.encode, pixels, chunk)

    def decode(self, latents: Tensor, **_options) -> Tensor:
        """(b, c, t, h, w) -> (b, 3, t, r·h, r·w) in about [-1, 1]."""
        pixels = latents.shape[-2] * latents.shape[-1] * self.space.spatial_ratio**2
        return self._each_chunk(self.network.decode, latents, self.load.frames_at_once(pixels, decodes=True))

    def _each_chunk(self, function: Callable[[Tensor], Tensor], videos: Tensor, chunk: int) -> Tensor:
        parts = [part for video in videos for part in video.movedim(1, 0).split(chunk)]
        bar, done = progress.progress_bar(len(parts)), []
        for part in parts:
            progress.throw_if_cancelled()
            done.append(function(part))
            bar.update(1)
        frames = torch.cat(done) if len(done) > 1 else done[0]
        return frames.unflatten(0, (videos.shape[0], videos.shape[2])).movedim(2, 1)


class FrameVAE(SpaceVAE):
    """Such a network behind the VAE socket; IMAGE (t, h, w, 3) is one video of t frames."""

    def __init__(self, network: nn.Module, space: LatentSpace, load: Load, dtype: torch.dtype):
        with no_weights_expected():
            super().__init__(sd={})  # sets every default attribute of this host version
        ratio = space.spatial_ratio
        self.latent_space = space
        self.first_stage_model = FrameFolded(network, space, load).eval()
        self.latent_channels, self.latent_dim, self.output_channels, self.not_video = space.channels, 3, 3, False
        self.upscale_ratio = self.downscale_ratio = (lambda frames: frames, ratio, ratio)
        self.upscale_index_formula = self.downscale_index_formula = (1, ratio, ratio)
        self.working_dtypes, self.vae_dtype, self.size = list(DTYPES), dtype, None
        self.memory_used_encode = lambda shape, kind: _bytes(shape, kind, 1, load, decodes=False)
        self.memory_used_decode = lambda shape, kind: _bytes(shape, kind, ratio, load, decodes=True)
        self.device, self.output_device = devices.vae_device(), devices.output_device()
        self.patcher = _patcher(self.first_stage_model, self.device)

    def get_sd(self) -> dict[str, Tensor]:
        """Weights by the host's names, so that what VAE Save writes can be loaded again."""
        return self.first_stage_model.network.state_dict()


def _bytes(shape, dtype: torch.dtype, ratio: int, load: Load, *, decodes: bool) -> int:
    """Memory of a call: the chunk in the network, and all frames going in and coming out."""
    frames = shape[2] if len(shape) == 5 else 1
    pixels = shape[-2] * shape[-1] * ratio**2
    values = load.decode_values if decodes else load.encode_values
    chunk = min(frames, load.frames_at_once(pixels, decodes)) * pixels * values
    return (chunk + 6 * frames * pixels) * memory.dtype_size(dtype)


def _patcher(network: nn.Module, device: torch.device):
    """The host's patcher, whose class is read now, since the host's start-up may rebind it."""
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(network, load_device=device, offload_device=memory.vae_offload_device())


def frame_vae(file: VAEFile, network: nn.Module, load: Load, dtype: torch.dtype | None) -> FrameVAE:
    """The VAE of an opened file around a network made on the meta device.

    Raises CheckpointError for weights that are not those of its config.
    """
    file.check_shapes(network_shapes(network))
    dtype = dtype or chosen_dtype()
    state = {name: tensor.to(dtype) for name, tensor in file.read().items()}
    network.to(dtype)
    if hasattr(memory, "archive_model_dtypes"):
        memory.archive_model_dtypes(network)
    vae = FrameVAE(network, file.space, load, dtype)
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False)
    return vae


def chosen_dtype() -> torch.dtype:
    """What the host's settings and device ask for, but never float16."""
    dtype = memory.vae_dtype(devices.vae_device(), list(DTYPES))
    return dtype if dtype in DTYPES else torch.float32


def dcae_vae(file: VAEFile, dtype: torch.dtype | None = None) -> FrameVAE:
    """DC-AE f32c32 on the host's own port of the network. Raises CheckpointError.

    Latents stay as the encoder gives them; SANA's factor 0.41407 belongs to the model's latent format.
    """
    from comfy.ldm.ace.vae.autoencoder_dc import AutoencoderDC

    with torch.device("meta"):
        network = AutoencoderDC(**file.config, scaling_factor=1.0)
    # 643 and 577 values a pixel of what is alive at once, counted on the meta device; a quarter more for convolutions.
    return frame_vae(file, network, Load(encode_values=800, decode_values=720), dtype)


def svd_vae(file: VAEFile, dtype: torch.dtype | None = None) -> FrameVAE:
    """Stable Video Diffusion's VAE: pictures are encoded alone, 14 frames decoded together. Raises CheckpointError."""
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    sizes = file.config | {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3}
    sizes |= {"attn_resolutions": [], "dropout": 0.0}
    parts = {
        "regularizer_config": {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        "encoder_config": {"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": sizes},
        "decoder_config": {
            "target": "comfy.ldm.modules.temporal_ae.VideoDecoder",
            "params": sizes | {"video_kernel_size": [3, 1, 1], "alpha": 0.0},
        },
    }
    with torch.device("meta"):
        network = AutoencodingEngine(**parts)
    # 387 and 904 values, counted as above; 14 frames, as its own pipeline decodes them.
    return frame_vae(file, network, Load(encode_values=480, decode_values=1130, run=14), dtype)
