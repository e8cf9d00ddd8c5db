"""How much a clip moves: multi-scale structural similarity of successive frames, its degree and its bucket.

Formulas: Wang, Simoncelli, Bovik 2003 (MS-SSIM, Eq. 7) with the constants of Wang et al. 2004 (SSIM, Eq. 13); degree
and buckets: MiraMo Eq. 13, degree = 1 - mean similarity, so that larger means more motion.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..layers.letterbox import fit_square

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
WINDOW_SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]
MAX_ASPECT = 16  # long side over short side
OVERSHOOT = 0.1  # resizing and decoding leave small overshoots; beyond this the values are not in [0, 1] at all
CHUNK_ELEMENTS = 1 << 24
TILE = 512  # the banded product costs time in proportion to it


@dataclass(frozen=True)
class DynamicsReport:
    """What `measure_dynamics` found in one clip."""

    degree: float  # 1 - mean MS-SSIM of successive frames, 0 = still, in [0, 1]
    bucket: int  # the slider position that stands for this degree
    mean_absolute_difference: float  # mean |next - this| of the values in [0, 1]
    flow_px: float | None  # mean over pairs of the median flow length, px of the frames per frame; None unmeasured
    way_percent: float | None = None  # way of the picture as a whole, % of its long side (camera_way); None unmeasured


def num_scales(height: int, width: int) -> int:
    """Scales that fit: 5 from 161 px on, 4 from 81, 3 from 41, 2 from 21, 1 from 11. Raises ShapeError below 11 px."""
    side = min(height, width)
    if side < WINDOW:
        raise ShapeError(f"frames are {height}x{width} px; MS-SSIM needs {WINDOW} px on each side; use larger frames")
    return sum(side > (WINDOW - 1) * 2**scale for scale in range(len(SCALE_WEIGHTS)))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of two batches of images.

    a, b: (b, c, h, w), floating point, in [0, 1]. Returns (b,) in [0, 1], 1 = equal; float32 (float64 for float64).
    Per channel, negatives clamped to 0, mean over channels; 11x11 Gaussian of sigma 1.5, no padding. Below 161 px fewer
    scales are used (`num_scales`) and their weights divided by their sum.
    Raises ShapeError for shapes that differ, integer or non-finite values, sides below 11 px.
    Source: Wang et al. 2003, Eq. 7. Differs: an odd last row or column is averaged over the pixels that exist.
    """
    return _similarity_in_parts(_pairs(a, b))[:, 0]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of two batches of images, at their own scale alone.

    a, b: (b, c, h, w), floating point, in [0, 1]. Returns (b,), 1 = equal; mean over channels and over where the whole
    11x11 Gaussian of sigma 1.5 fits. Raises ShapeError as `ms_ssim` does. Source: Wang et al. 2004, Eq. 13.
    """
    pairs = _pairs(a, b)
    num_scales(*pairs.shape[-2:])
    return torch.cat([_terms(part)[0].mean((1, 2)) for part in pairs.split(max(1, CHUNK_ELEMENTS // pairs[0].numel()))])


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """Two batches of images as (b, 2, c, h, w). Raises ShapeError."""
    if a.shape != b.shape or a.ndim != 4:
        raise ShapeError(
            f"images are {tuple(a.shape)} and {tuple(b.shape)}; two equal (b, c, h, w) are needed; resize or crop one"
        )
    frames = torch.stack((a, b), dim=1)
    _check_values(frames)
    return _as_float(frames)


def dynamics_degree(frames: Tensor, *, measure_size: int = 256) -> Tensor:
    """Dynamics degree of clips: 1 - mean MS-SSIM of successive frames.

    frames: (b, t, c, h, w), t >= 2, floating point in [0, 1]. They are resized so that the short side is measure_size
    px, because the degree of one and the same motion depends on the size. Returns (b,) in [0, 1], 0 = still.
    Raises ShapeError for fewer than 2 frames, NaN, values out of range, sides too small or longer than 16:1;
    ConfigError for measure_size outside 16..4096.
    Source: MiraMo Eq. 13.
    """
    _check_clips(frames)
    return (1 - _similarity_in_parts(_resize(frames, measure_size)).mean(dim=1)).clamp(0, 1)


def mean_absolute_difference(frames: Tensor) -> Tensor:
    """Mean |next frame - this frame|; the fastest measure, sensitive to noise and contrast.

    frames: (b, t, c, h, w), t >= 2, in [0, 1]. Returns (b,). Raises ShapeError as `dynamics_degree`.
    """
    _check_clips(frames)
    pairs = zip(frames.unbind(1), frames.unbind(1)[1:])
    steps = [(_as_float(following) - _as_float(this)).abs().flatten(1).mean(dim=1) for this, following in pairs]
    return torch.stack(steps, dim=1).mean(dim=1)


def degree_to_bucket(
    degree: Tensor | float, spec=None, *, num_buckets: int = 20, degree_min: float = 0.0, degree_max: float = 1.0
) -> Tensor:
    """Cut degrees into equal buckets: clip(floor(num_buckets · (D - min) / (max - min)), 0, num_buckets - 1).

    degree: any shape, or a number. spec: a DynamicsSpec, taken instead of the three keywords.
    Returns long of the shape of degree. Raises ConfigError for a non-finite degree or an empty range.
    Source: MiraMo Eq. 13 ("uniform" projection).
    """
    if spec is not None:
        num_buckets, degree_min, degree_max = spec.num_buckets, spec.degree_min, spec.degree_max
    if num_buckets < 1 or not -math.inf < degree_min < degree_max < math.inf:
        raise ConfigError(
            f"{num_buckets} buckets over degrees {degree_min}..{degree_max}; at least 1 bucket and min < max are needed"
        )
    degree = torch.as_tensor(degree)
    degree = degree.float() if degree.device.type == "mps" else degree.double()
    if not degree.isfinite().all():
        raise ConfigError("dynamics degree is NaN or infinite; measure it on finite frames")
    place = num_buckets * (degree - degree_min) / (degree_max - degree_min)
    return place.floor().clamp(0, num_buckets - 1).long()


def measure_dynamics(
    frames: Tensor, *, measure_size: int = 256, spec=None, letterbox: bool = False, with_flow: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> DynamicsReport:  # fmt: skip
    """Measure one clip as the node shows it: degree, bucket, mean absolute difference and optical flow.

    frames: (t, h, w, c), t >= 2, c 1 or 3, in [0, 1]. spec: a DynamicsSpec that gives buckets and measure_size.
    letterbox: measure the degree on a square of measure_size px with the whole picture in it, as the built-in models
    were trained, instead of at that short side. Flow is measured where cv2 is present, its median at measure_size and
    given in pixels of the frames, per frame. on_step(done, total), called while flow is measured, may raise to cancel.
    Raises ShapeError and ConfigError as `dynamics_degree`.
    """
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise ShapeError(
            f"frames are {tuple(frames.shape)}; (t, h, w, c) with c 1 or 3 is needed; blend alpha first"
        )
    measure_size = spec.measure_size if spec is not None else measure_size
    clip = frames.movedim(-1, 1).unsqueeze(0)
    degree = dynamics_degree(_letterboxed(clip, measure_size) if letterbox else clip, measure_size=measure_size)
    flow_px, way = _flow_figures(clip, measure_size, on_step) if with_flow else (None, None)
    return DynamicsReport(
        degree=float(degree),
        bucket=int(degree_to_bucket(degree, spec)),
        mean_absolute_difference=float(mean_absolute_difference(clip)),
        flow_px=flow_px,
        way_percent=way,
    )


def _letterboxed(clip: Tensor, measure_size: int) -> Tensor:
    """(1, t, c, h, w) in a square of measure_size px, the whole picture in its middle, mirrored where it ends."""
    _check_clips(clip)
    _check_resize(clip, measure_size)
    return fit_square(_as_float(clip[0]), measure_size).clamp(0, 1).unsqueeze(0)


def _flow_figures(clip: Tensor, measure_size: int, on_step) -> tuple[float | None, float | None]:
    """Median flow a frame and way of the whole picture; None both without cv2, or where a side is too small."""
    from .camera_way import camera_way
    from .optical_flow import MIN_SIDE, has_cv2

    if not has_cv2():
        return None, None
    way = None if min(clip.shape[-2:]) < MIN_SIDE else camera_way(clip[0].movedim(1, -1), on_step=on_step)
    return _flow_length(clip, measure_size), way


def _flow_length(clip: Tensor, measure_size: int) -> float:
    """Mean over successive pairs of the median flow length over textured pixels, px of the given frames."""
    from .optical_flow import median_length

    small = _resize(clip, measure_size)[0].movedim(1, -1)
    lengths = [median_length(this, following) for this, following in zip(small[:-1], small[1:])]
    return sum(lengths) / len(lengths) * min(clip.shape[-2:]) / measure_size


def _check_values(frames: Tensor) -> None:
    if not frames.is_floating_point():
        raise ShapeError(f"frames are {frames.dtype}; floating point in [0, 1] is needed; divide bytes by 255")
    if not frames.numel():
        raise ShapeError(f"frames are {tuple(frames.shape)}, which is empty; give at least one pixel in each")
    low, high = (float(value) for value in frames.detach().aminmax())
    if not (-OVERSHOOT <= low and high <= 1 + OVERSHOOT):  # also true for NaN
        raise ShapeError(f"frames hold values from {low} to {high}; finite values in [0, 1] are needed; rescale them")


def _check_clips(frames: Tensor) -> None:
    if frames.ndim != 5:
        raise ShapeError(f"frames are {tuple(frames.shape)}; (b, t, c, h, w) is needed; add the missing axes")
    if frames.shape[1] < 2:
        raise ShapeError(f"the clip has {frames.shape[1]} frames; motion needs at least 2; give a longer clip")
    _check_values(frames)


def _as_float(frames: Tensor) -> Tensor:
    return frames if frames.dtype == torch.float64 else frames.float()


def _resize(frames: Tensor, measure_size: int) -> Tensor:
    """Clips (b, t, c, h, w) as float, short side measure_size px, anti-aliased, aspect kept to the pixel."""
    _check_resize(frames, measure_size)
    b, t, c, h, w = frames.shape
    short = min(h, w)
    frames = _as_float(frames)
    if short == measure_size:
        return frames
    size = (max(1, round(h * measure_size / short)), max(1, round(w * measure_size / short)))
    flat = frames.reshape(b * t, c, h, w)
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(b, t, c, *size)


def _check_resize(frames: Tensor, measure_size: int) -> None:
    if not 16 <= measure_size <= 4096:
        raise ConfigError(f"measure_size is {measure_size}; it must be 16 to 4096 px; 256 is usual")
    h, w = frames.shape[-2:]
    if max(h, w) > MAX_ASPECT * min(h, w):
        raise ShapeError(f"frames are {h}x{w} px; the long side may be {MAX_ASPECT} times the short one; crop them")


def _similarity_in_parts(frames: Tensor) -> Tensor:
    """`_similarity` of a few clips or a few frames at a time, so that the maps stay in hundreds of megabytes."""
    steps = frames.shape[1] - 1
    num_clips = max(1, CHUNK_ELEMENTS // frames[0].numel())
    num_steps = max(1, CHUNK_ELEMENTS // frames[0, 0].numel()) if num_clips == 1 else steps
    parts = [
        torch.cat([_similarity(clips[:, at : at + num_steps + 1]) for at in range(0, steps, num_steps)], dim=1)
        for clips in frames.split(num_clips)
    ]
    return torch.cat(parts)


def _blur(images: Tensor) -> Tensor:
    """Gaussian window over the last two axes without padding: (..., h, w) -> (..., h - 10, w - 10)."""
    return _blur_rows(_blur_rows(images).mT).mT


def _blur_rows(images: Tensor) -> Tensor:
    """Window along the last axis as a product with a banded matrix, in tiles; a filter takes several times as long."""
    size = images.shape[-1] - WINDOW + 1
    num_tiles = -(-size // TILE)
    tile = -(-size // num_tiles)
    if num_tiles == 1:
        return images @ _band(images, tile)
    padded = F.pad(images, (0, num_tiles * tile - size))
    tiles = padded.unfold(-1, tile + WINDOW - 1, tile)
    return (tiles @ _band(images, tile)).flatten(-2)[..., :size]


def _band(like: Tensor, tile: int) -> Tensor:
    """The window as a banded matrix (tile + 10, tile)."""
    place = torch.arange(WINDOW, dtype=torch.float64) - (WINDOW - 1) / 2
    window = torch.exp(-(place**2) / (2 * WINDOW_SIGMA**2))
    offset = torch.arange(tile + WINDOW - 1).unsqueeze(1) - torch.arange(tile)
    inside = (offset >= 0) & (offset < WINDOW)
    return torch.where(inside, window[offset.clamp(0, WINDOW - 1)] / window.sum(), 0.0).to(like)


def _terms(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean luminance·contrast·structure and mean contrast·structure of successive frames, each (b, t - 1, c)."""
    mean, square = _blur(frames), _blur(frames * frames)
    cross = _blur(frames[:, :-1] * frames[:, 1:])
    variance = square - mean * mean
    mean_a, mean_b = mean[:, :-1], mean[:, 1:]
    structure = (2 * (cross - mean_a * mean_b) + C2) / (variance[:, :-1] + variance[:, 1:] + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    return (luminance * structure).mean(dim=(-2, -1)), structure.mean(dim=(-2, -1))


def _similarity(frames: Tensor) -> Tensor:
    """MS-SSIM of successive frames: (b, t, c, h, w) -> (b, t - 1)."""
    b, t, c, h, w = frames.shape
    scales = num_scales(h, w)
    weights = SCALE_WEIGHTS[:scales]
    total = sum(weights) if scales < len(SCALE_WEIGHTS) else 1.0  # the published five are used as they are
    product = frames.new_ones(b, t - 1, c)
    for scale, weight in enumerate(weights):
        full, structure = _terms(frames)
        term = full if scale == scales - 1 else structure
        product = product * term.clamp_min(0) ** (weight / total)
        if scale < scales - 1:
            frames = F.avg_pool2d(frames.flatten(0, 1), 2, ceil_mode=True).unflatten(0, (b, t))
    return product.mean(dim=-1)
