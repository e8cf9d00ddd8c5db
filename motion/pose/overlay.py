"""Skeletons over the photo they are to fit, and skeletons that came as pictures, brought to a size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .body18 import LIMB_LIGHT

FILLS = ("pad", "crop")


def lay_over(picture: Tensor, skeleton: Tensor) -> Tensor:
    """A drawn skeleton (h, w, 3) on a picture (h, w, 3), both in [0, 1]; its edges stay smooth. Raises ShapeError."""
    if picture.shape != skeleton.shape:
        raise ShapeError(
            f"a picture of {tuple(picture.shape)} under a skeleton of {tuple(skeleton.shape)}; one size is needed"
        )
    cover = (skeleton.amax(-1, keepdim=True) / LIMB_LIGHT).clamp(max=1)  # limbs are the darkest that is drawn
    return picture * (1 - cover) + skeleton


def fit_pictures(frames: Tensor, width: int, height: int, fill: str = "pad") -> Tensor:
    """Skeleton pictures (t, h, w, 3) brought to width x height px, in proportion.

    fill: pad shows them whole with black beside them, crop fills the size and cuts what is beyond it. Larger pictures
    are averaged down, smaller ones enlarged by whole pixels, so that no colour is made up beside the old ones. The
    input is not changed. Raises ConfigError, ShapeError.
    """
    if fill not in FILLS:
        raise ConfigError(f"no fill {fill!r}; known: {', '.join(FILLS)}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
        raise ShapeError(f"skeleton pictures are {tuple(frames.shape)}; (frames, height, width, 3) is needed")
    if width < 1 or height < 1:
        raise ShapeError(f"skeletons of {width}x{height} px: both sides need 1 px or more")
    h, w = frames.shape[1:3]
    if (h, w) == (height, width):
        return frames
    scale = (min if fill == "pad" else max)(width / w, height / h)
    size = max(1, round(h * scale)), max(1, round(w * scale))
    values = frames.movedim(-1, 1)
    if size != (h, w):
        values = F.interpolate(values, size=size, mode="area" if scale < 1 else "nearest-exact")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    values = F.pad(values, (left, width - size[1] - left, top, height - size[0] - top))
    return values.movedim(1, -1).contiguous()


def spread(num_frames: int, most: int) -> list[int]:
    """Up to `most` frames of a clip, evenly spaced, its first and last among them."""
    count = min(num_frames, most)
    return torch.linspace(0, num_frames - 1, count).round().long().unique().tolist()
