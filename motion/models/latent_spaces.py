"""The latent spaces our models work in: channels, pixels per cell, and which sizes and frame counts each can hold.

One table for loaders, latent nodes and messages; the rules are the VAEs' own, with the patch of the network that works
on their latents (Wan 2.1: cells of 8 px, patches of 2).
"""

import math
from dataclasses import dataclass

from ..errors import ConfigError, ShapeError

MAX_FRAMES = 1024


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

    def check_size(self, width: int, height: int, what: str) -> None:
        """Refuse sides that would be cropped without a word. Raises ShapeError naming the two nearest sizes."""
        check_multiple(width, height, self.multiple, what, self.title, self.where)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video. Raises ConfigError naming the nearest counts."""
        return latent_frames(num_frames, self.temporal_ratio, self.title, self.where)

    @property
    def where(self) -> str:
        """The end of a message that points to its row, "" where it has none."""
        return f" (docs/models.md, row {self.row})" if self.row else ""


SPACES = {
    space.kind: space
    for space in (
        LatentSpace("dcae", "DC-AE f32c32", "DC-AE", 32, 32, 1, 32),
        LatentSpace("wan21", "Wan 2.1 VAE", "Wan 2.1 VAE", 16, 8, 4, 16),
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
