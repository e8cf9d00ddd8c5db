"""IMAGE and LATENT of the host to library tensors and back; nothing else converts.

IMAGE is (t, h, w, c) in [0, 1]; the library's frames are (b, 3, t, h, w). Inputs belong to the host's cache: they are
never written into.
"""

import torch
from torch import Tensor

from ...motion.errors import ShapeError

OVERSHOOT = 0.1  # resizing filters leave small overshoots, which are clamped; beyond this the values are not [0, 1]


def rgb_frames(image: Tensor, name: str = "image") -> Tensor:
    """An IMAGE as float32 RGB (t, h, w, 3) in [0, 1].

    Grey is repeated to three channels, alpha is blended over white, overshoots up to 0.1 are clamped. Raises ShapeError
    for no frames, other channel counts, integers, NaN or infinity, and values clearly outside [0, 1].
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.numel():
        seen = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ShapeError(f"{name} is {seen}; a non-empty IMAGE (frames, height, width, channels) is needed")
    channels = image.shape[-1]
    if channels not in (1, 3, 4):
        raise ShapeError(f"{name} has {channels} channels; 1 (grey), 3 (RGB) or 4 (RGBA) are needed; convert it first")
    if not image.is_floating_point():
        raise ShapeError(f"{name} holds {image.dtype}; floating point in [0, 1] is needed; divide bytes by 255")
    image = image.float()
    _check_values(image, name)
    if channels == 1:
        image = image.expand(*image.shape[:-1], 3)
    if channels == 4:
        alpha = image[..., 3:].clamp(0, 1)
        image = image[..., :3] * alpha + (1 - alpha)
    return image.clamp(0, 1)


def _check_values(image: Tensor, name: str) -> None:
    if not image.isfinite().all():
        raise ShapeError(f"{name} holds NaN or infinite pixels; check the node that made it")
    low, high = (float(value) for value in image.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ShapeError(f"{name} holds values from {low:.3g} to {high:.3g}; 0 to 1 are needed; rescale it first")


def start_photo(image: Tensor, name: str = "start_image") -> Tensor:
    """One photo (1, h, w, 3) float32 in [0, 1] from an IMAGE of exactly one frame. Raises ShapeError."""
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] > 1:
        raise ShapeError(
            f"{name} holds {image.shape[0]} images; exactly 1 is needed; pick one with the core node ImageFromBatch"
        )
    return rgb_frames(image, name)


def region_mask(mask, height: int, width: int) -> Tensor:
    """A MASK of one picture as (height, width) float32 in [0, 1]; another size of the same shape is resized.

    Raises ShapeError for what is no such mask, and for one in which nothing is marked.
    """
    is_one = isinstance(mask, Tensor) and mask.numel() and (mask.ndim == 2 or (mask.ndim == 3 and len(mask) == 1))
    if not is_one:
        seen = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ShapeError(f"region is {seen}; the MASK of one picture (1, height, width) is needed")
    values = mask.reshape(mask.shape[-2:]).float()
    if not values.isfinite().all() or not values.any():
        raise ShapeError(
            "region is empty, so nothing may move (Load Image gives an empty mask where none was drawn); draw one in "
            "the mask editor, or disconnect it"
        )
    h, w = values.shape
    if abs(h * width - w * height) > max(h, w, height, width):
        raise ShapeError(f"region is {w}x{h} px, the photo {width}x{height}; a mask of the same shape is needed")
    if (h, w) != (height, width):
        size = (height, width)
        values = torch.nn.functional.interpolate(values[None, None], size, mode="bilinear", antialias=True)[0, 0]
    return values.clamp(0, 1)


def to_video(frames: Tensor) -> Tensor:
    """IMAGE (t, h, w, 3), or one already batched (b, t, h, w, 3), as library frames (b, 3, t, h, w)."""
    batched = frames.unsqueeze(0) if frames.ndim == 4 else frames
    return batched.movedim(-1, 1)


def moving_frames(video, name: str) -> Tensor:
    """A video of at least 2 frames as RGB (t, h, w, 3). Raises ShapeError."""
    clip = rgb_frames(video, name)
    if clip.shape[0] < 2:
        raise ShapeError(f"{name} holds {clip.shape[0]} image; at least 2 are needed to see motion; give a video")
    return clip


def to_image(video: Tensor) -> Tensor:
    """Library frames (b, 3, t, h, w) as the host's batch of videos (b, t, h, w, 3)."""
    return video.movedim(1, -1)


def latent_samples(latent: dict, name: str = "latent") -> Tensor:
    """The tensor of a LATENT, unscaled: (b, c, t, h, w) or (b, c, h, w). Raises ShapeError."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if getattr(samples, "is_nested", False):
        raise ShapeError(f"{name} packs several streams (video with audio); one plain latent is needed: separate it")
    if not isinstance(samples, Tensor) or samples.ndim not in (4, 5) or not samples.numel():
        seen = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ShapeError(f"{name} is {seen}; a picture or video latent (4 or 5 axes) is needed; use a latent node")
    if not samples.isfinite().all():
        raise ShapeError(f"{name} holds NaN or infinity; check the node that made it")
    return samples


def first_frame(samples: Tensor) -> Tensor:
    """Frame 0 of a latent, axes kept: (b, c, 1, h, w) or (b, c, h, w)."""
    return samples[:, :, :1] if samples.ndim == 5 else samples


def picture(rows: Tensor, size: int = 256) -> Tensor:
    """A small map (h, w, 3) in [0, 1] as a preview IMAGE (1, H, W, 3), enlarged by whole factors to about size px."""
    factor = max(1, size // max(rows.shape[:2]))
    large = rows.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    return large.unsqueeze(0).to(torch.float32)
