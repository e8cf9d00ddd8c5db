"""The VAE of motionblocks-wan behind the VAE socket: to the host it is one more VAE of Wan 2.1's latents.

It is so small that a video goes through whole; there is nothing to tile.
"""

import comfy.model_management as memory
import torch
from torch import Tensor

from ...motion.models.latent_spaces import SPACES
from ...motion.models.small_vae import SmallVAE
from ..host import devices
from .base import SpaceVAE
from .builtin import no_weights_expected

VALUES = 14  # live numbers a pixel at the peak of decoding: what goes in, cells, two hidden layers and what comes out


class SmallMotionVAE(SpaceVAE):
    """IMAGE (t, h, w, 3), t = 4k + 1 -> latents (1, 16, k + 1, h/8, w/8), in Wan's mean and deviation, and back."""

    latent_space = SPACES["wan21"]

    def __init__(self, network: SmallVAE):
        with no_weights_expected():
            super().__init__(sd={})  # sets every default attribute of this host version
        space = self.latent_space
        ratio, group = space.spatial_ratio, space.temporal_ratio
        self.first_stage_model = network.requires_grad_(False)
        self.latent_channels, self.latent_dim, self.output_channels, self.not_video = space.channels, 3, 3, False
        self.upscale_ratio = (lambda frames: max(0, frames * group - group + 1), ratio, ratio)
        self.downscale_ratio = (lambda frames: max(0, (frames + group - 1) // group), ratio, ratio)
        self.upscale_index_formula = self.downscale_index_formula = (group, ratio, ratio)
        self.working_dtypes, self.vae_dtype, self.size = [torch.float32], torch.float32, None
        self.memory_used_encode = lambda shape, dtype: VALUES * _pixels(shape, 1, 1) * memory.dtype_size(dtype)
        self.memory_used_decode = lambda shape, dtype: VALUES * _pixels(shape, group, ratio) * memory.dtype_size(dtype)
        self.device, self.output_device = devices.vae_device(), devices.output_device()
        self.patcher = devices.new_patcher(network, disable_dynamic=True)

    def encode_tiled(self, pixel_samples: Tensor, *_unused, **_options) -> Tensor:
        """As `encode`."""
        return self.encode(pixel_samples)

    def decode_tiled(self, samples: Tensor, *_unused, **_options) -> Tensor:
        """As `decode`."""
        return self.decode(samples)

    def get_sd(self) -> dict[str, Tensor]:
        """Weights by the names of their file."""
        return self.first_stage_model.state_dict()


def _pixels(shape, group: int, ratio: int) -> int:
    frames = shape[2] * group if len(shape) == 5 else 1
    return frames * shape[-2] * shape[-1] * ratio**2
