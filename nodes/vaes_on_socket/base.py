"""What our VAEs on the host's socket share: each knows its latent space, and refuses what belongs to another."""

import comfy.sd
from torch import Tensor, nn

from ...motion.errors import ShapeError
from ...motion.models.latent_spaces import LatentSpace


class SpaceVAE(comfy.sd.VAE):
    """A VAE of the host that knows its latent space and says so when it is given latents of another."""

    latent_space: LatentSpace

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """IMAGE (t, h, w, 3), one video -> (1, c, t', h', w'). Raises ShapeError and ConfigError."""
        self.check_pixels(pixel_samples)
        return super().encode(pixel_samples)

    def encode_tiled(self, pixel_samples: Tensor, *arguments, **keywords) -> Tensor:
        """As `encode`, tile by tile."""
        self.check_pixels(pixel_samples)
        return super().encode_tiled(pixel_samples, *arguments, **keywords)

    def check_pixels(self, pixels: Tensor) -> None:
        """Refuse sides and frame counts that the host would cut without a word. Raises ShapeError and ConfigError."""
        frames, height, width = pixels.shape[-4:-1]
        self.latent_space.check_size(width, height, "the picture" if frames == 1 else "the video")
        if self.latent_space.temporal_ratio > 1:
            self.latent_space.latent_frames(frames)

    def decode(self, samples_in: Tensor, *arguments, **keywords) -> Tensor:
        """(b, c, t, h, w) -> (b, t, h, w, 3); of one frame (b, c, h, w) -> (b, h, w, 3). Raises ShapeError."""
        return self._decoded(super().decode, samples_in, *arguments, **keywords)

    def decode_tiled(self, samples: Tensor, *arguments, **keywords) -> Tensor:
        """As `decode`, tile by tile."""
        return self._decoded(super().decode_tiled, samples, *arguments, **keywords)

    def _decoded(self, decode, samples: Tensor, *arguments, **keywords) -> Tensor:
        self.check_latents(samples)
        if samples.ndim == 5:
            return decode(samples, *arguments, **keywords)
        return decode(samples.unsqueeze(2), *arguments, **keywords)[:, 0]

    def check_latents(self, samples: Tensor) -> None:
        """Refuse latents of another space. Raises ShapeError."""
        space = self.latent_space
        if samples.ndim not in (4, 5) or samples.shape[1] != space.channels:
            raise ShapeError(
                f"the latent is {tuple(samples.shape)}; {space.title} decodes (b, {space.channels}, t, h, w); decode "
                f"with the VAE that belongs to the model{space.where}"
            )


def network_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight; layers that newer hosts fill only when weights arrive are counted by size."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight is None:
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
            if getattr(layer, "comfy_need_lazy_init_bias", False):
                shapes[f"{name}.bias"] = (layer.out_features,)
    return shapes
