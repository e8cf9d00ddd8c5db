"""The latent spaces our models work in: channels, pixels per cell, and which sizes and frame counts each can hold.

One table for loaders, latent nodes and messages; the rules are the VAEs' own, with the patch of the network that works
on their latents (Wan 2.1: cells of 8 px, patches of 2).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError, ShapeError

MAX_FRAMES = 1024
# Per channel, of the Wan 2.1 VAE's latents of natural videos; its published config states them.
WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_DEVIATION = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class LatentSpace:
    """One space. title: what a message calls its VAE. row: its row in docs/models.md, "" where it has none."""

    kind: str
    title: str
    row: str
    channels: int
    spatial_ratio: int  # px per latent cell
    temporal_ratio: int  # frames per latent frame; the first frame has a latent of its own
    multiple: int  # px, what both sides must divide by
    scale_factor: float = 1.0  # scaled latents = (unscaled - mean) / deviation · scale_factor
    mean: tuple[float, ...] = ()  # per channel; none: 0
    deviation: tuple[float, ...] = ()  # per channel; none: 1

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents (…, c, t, h, w) of the VAE as networks see them."""
        if self.mean:
            latents = (latents - self._channels(self.mean, latents)) / self._channels(self.deviation, latents)
        return latents * self.scale_factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """The way back of `scaled`."""
        latents = latents / self.scale_factor
        if self.mean:
            latents = latents * self._channels(self.deviation, latents) + self._channels(self.mean, latents)
        return latents

    def holds(self, num_frames: int) -> bool:
        """Whether a video of so many frames fits whole latent frames."""
        return num_frames >= 1 and (num_frames - 1) % self.temporal_ratio == 0

    def _channels(self, values: tuple[float, ...], latents: Tensor) -> Tensor:
        return latents.new_tensor(values).view(-1, 1, 1, 1)

    def check_size(self, width: int, height: int, what: str) -> None:
        """Refuse sides that would be cropped without a word. Raises ShapeError naming the two nearest sizes."""
        check_multiple(width, height, self.multiple, what, self.title, self.where)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video. Raises ConfigError naming the nearest counts."""
        return latent_frames(num_frames, self.temporal_ratio, self.title, self.where)

    def frames(self, latent_frames: int) -> int:
        """Frames of a video that whole latent frames hold, the way back of `latent_frames`."""
        return (latent_frames - 1) * self.temporal_ratio + 1

    @property
    def where(self) -> str:
        """The end of a message that points to its row, "" where it has none."""
        return f" (docs/models.md, row {self.row})" if self.row else ""


SPACES = {
    space.kind: space
    for space in (
        LatentSpace("dcae", "DC-AE f32c32", "DC-AE", 32, 32, 1, 32),
        LatentSpace(
            "wan21", "Wan 2.1 VAE", "Wan 2.1 VAE", 16, 8, 4, 16, mean=WAN21_MEAN, deviation=WAN21_DEVIATION
        ),
        LatentSpace("ltx2", "LTX-2 VAE", "LTX-2 VAE", 128, 32, 8, 32),
        LatentSpace("svd", "Stable Video Diffusion VAE", "SVD VAE", 4, 8, 1, 16),
        LatentSpace("builtin", "built-in VAE", "", 200, 8, 1, 1),
    )
}


def latent_frames(num_frames: int, stride: int, title: str = "this VAE", where: str = "") -> int:
    """Latent frames of a VAE that takes stride·k + 1 frames. Raises ConfigError naming the nearest counts."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or not 1 <= num_frames <= MAX_FRAMES:
        raise ConfigError(f"num_frames is {str(num_frames)[:60]}; it must be 1 to {MAX_FRAMES}")
    if (num_frames - 1) % stride:
        low = (num_frames - 1) // stride * stride + 1
        near = f"{low} or {low + stride}" if low > 1 else f"{low + stride}"
        raise ConfigError(f"num_frames is {num_frames}; {title} needs {stride}k + 1; use {near}{where}")
    return (num_frames - 1) // stride + 1


def check_multiple(width: int, height: int, multiple: int, what: str, title: str = "this VAE", where: str = "") -> None:
    """Refuse sides in px that do not divide by `multiple`. Raises ShapeError naming the two nearest sizes."""
    if width % multiple or height % multiple or not width or not height:
        smaller = [max(side // multiple, 1) * multiple for side in (width, height)]
        larger = [math.ceil(side / multiple) * multiple for side in (width, height)]
        raise ShapeError(
            f"{what} is {width}x{height} px; {title} needs multiples of {multiple}; scale it to "
            f"{smaller[0]}x{smaller[1]} or {larger[0]}x{larger[1]} with the core node Upscale Image (ImageScale){where}"
        )
