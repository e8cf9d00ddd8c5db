"""What optical flow says about a clip frame by frame: steps, distance from frame 1, evenness in time, local flicker.

cv2 is needed and imported late, by optical_flow. Clips come at the measured size (`shrink`); lengths are pixels of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..layers.warp import warp
from .colour import luma
from .optical_flow import DIRECT_BELOW, MEASURE_SIDE, dense_flow, textured_mask

MOVING_PX = 0.25  # a step longer than this, at a short side of 256 px, counts as motion
EDGE = 8  # px at the border that comparisons with moved neighbours leave out
BLOCKS = 4  # parts of a picture, along each side, in which flicker is looked for


@dataclass(frozen=True)
class MotionTrack:
    """How far a clip moves, in px of the frames that were measured; and how much it flickers besides.

    For `flicker` both neighbours are warped onto the inner frame and averaged; what is left of the brightness is
    averaged over BLOCKS x BLOCKS parts, and the root mean square taken over these. Dense inverse search compares
    patches with their mean removed, so that a change of brightness alone makes no flow. A picture that alternates by x
    in all or in part gives x times the root of that part of its area.
    """

    step_px: Tensor  # (t - 1,) median flow length from each frame to the next, over textured pixels
    distance_px: Tensor  # (t,) median flow length from frame 1 to each frame; 0 for frame 1
    flicker: Tensor  # (t - 2,) brightness of inner frames that their moved neighbours do not explain, 0 to 1 of white

    def moving_share(self, threshold_px: float) -> float:
        """Share of steps longer than threshold_px, 0 to 1."""
        return float((self.step_px > threshold_px).double().mean())


def shrink(frames: Tensor, side: int = MEASURE_SIDE) -> tuple[Tensor, float]:
    """Frames (t, h, w, c) with a short side of at most `side` px as float32 on the CPU, and measured px per px."""
    h, w = frames.shape[1:3]
    scale = min(1.0, side / min(h, w))
    if scale == 1.0:
        return frames.detach().float().cpu(), 1.0
    size = (round(h * scale), round(w * scale))
    small = [
        F.interpolate(part.detach().movedim(-1, 1).float(), size=size, mode="bilinear", antialias=True).cpu()
        for part in frames.split(8)
    ]
    return torch.cat(small).clamp(0, 1).movedim(1, -1).contiguous(), scale


def track_motion(frames: Tensor, *, on_step: Callable[[int], None] | None = None) -> MotionTrack:
    """Follow a clip from frame to frame by dense flow, forth and back.

    frames: (t, h, w, c), t >= 2, c 1 or 3, in [0, 1], sides at least 16 px. A flow counts as long as it is true both
    ways: what the way back does not undo is taken off its length, since blur, noise and focus make flow that differs
    forth and back. The way from frame 1 is composed of the steps, so that it stays true beyond the reach of one flow
    field; below 2 px it is measured at once. Textured pixels count as long as they are inside the picture.
    on_step(frame) is called after every frame; what it raises passes through.
    Raises ShapeError for other shapes, ConfigError without cv2.
    """
    _check(frames, 2)
    first_mask = textured_mask(frames[0])
    total, to_before, steps, distances, flickers = None, None, [], [0.0], []
    for index, (this, following) in enumerate(zip(frames[:-1], frames[1:])):
        forth, back = dense_flow(this, following), dense_flow(following, this)
        steps.append(min(_true_length(forth, back, this), _true_length(back, forth, following)))
        if to_before is not None:
            flickers.append(_left_over_brightness(frames[index - 1], this, following, to_before, forth))
        total = forth if total is None else total + _read_at(forth, total)
        distance = _median(total.norm(dim=-1), first_mask & _inside(total))
        distances.append(_direct(frames[0], following) if distance < DIRECT_BELOW else distance)
        to_before = back
        if on_step:
            on_step(index + 1)
    return MotionTrack(*(torch.tensor(curve, dtype=torch.float64) for curve in (steps, distances, flickers)))


def interpolation_errors(frames: Tensor, *, on_step: Callable[[int], None] | None = None) -> Tensor:
    """How badly each inner frame is foretold by its two neighbours, moved half way towards each other.

    frames: (t, h, w, 3), t >= 3, as in `track_motion`. The flow between the neighbours is halved, both are warped to
    the middle and averaged, and compared with the frame that is there; pixels that come from outside are left out.
    Even motion foretells the middle; stutter, wobble, flicker and things that appear do not.
    Returns (t - 2,) float64 mean squared errors of values in [0, 1]. Raises as `track_motion`.
    Source: the idea of "motion smoothness" in Huang et al. 2023, arXiv 2311.17982. Differs: plain flow takes the place
    of a trained interpolator.
    """
    _check(frames, 3)
    errors = []
    for index, (before, there, after) in enumerate(zip(frames[:-2], frames[1:-1], frames[2:])):
        to_before = (dense_flow(after, before) - dense_flow(before, after)) / 4
        to_before = _read_at(to_before, to_before)  # the flows stand on the neighbours' pixels, not on the middle's
        guess, seen = _neighbours_moved(before, after, to_before, -to_before)
        wrong = (guess - there) ** 2
        errors.append(float(wrong[seen].mean() if seen.any() else wrong.mean()))
        if on_step:
            on_step(index + 1)
    return torch.tensor(errors, dtype=torch.float64)


def _left_over_brightness(before: Tensor, there: Tensor, after: Tensor, to_before: Tensor, to_after: Tensor) -> float:
    """Brightness of a frame against its neighbours moved onto it, root mean square over BLOCKS x BLOCKS parts."""
    guess, seen = _neighbours_moved(before, after, to_before, to_after)
    left = torch.where(seen, luma(there) - luma(guess), 0.0)
    total, count = F.adaptive_avg_pool2d(torch.stack((left, seen.to(left))), BLOCKS).double()
    return float((total / count.clamp_min(1e-3)).square().mean().sqrt())


def _neighbours_moved(before: Tensor, after: Tensor, to_before: Tensor, to_after: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of two neighbours warped onto a frame by the flows from it (h, w, 3), and where both were inside (h, w)."""
    flows = torch.stack((to_before, to_after)).movedim(-1, 1)
    pictures = torch.stack((before, after)).movedim(-1, 1)
    moved = warp(pictures, flows, mode="bicubic").clamp(0, 1).mean(dim=0).movedim(0, -1)
    return moved, _inside(to_before, EDGE) & _inside(to_after, EDGE)


def _read_at(field: Tensor, flow: Tensor) -> Tensor:
    """A field (h, w, 2) read at x + flow(x)."""
    return warp(field.movedim(-1, 0).unsqueeze(0), flow.movedim(-1, 0).unsqueeze(0))[0].movedim(0, -1)


def _inside(flow: Tensor, edge: int = 0) -> Tensor:
    """(h, w) bool: where x + flow(x) lies inside the picture, at least edge px from its border."""
    h, w, _ = flow.shape
    edge = min(edge, h // 8, w // 8)
    y, x = flow[..., 1] + torch.arange(h).unsqueeze(1), flow[..., 0] + torch.arange(w)
    return (y >= edge) & (y <= h - 1 - edge) & (x >= edge) & (x <= w - 1 - edge)


def _direct(first: Tensor, following: Tensor) -> float:
    """Length of a short way, measured at once."""
    forth, back = dense_flow(first, following), dense_flow(following, first)
    return min(_true_length(forth, back, first), _true_length(back, forth, following))


def _true_length(flow: Tensor, way_back: Tensor, picture: Tensor) -> float:
    """Median over textured pixels of the flow's length, less what the way back leaves open."""
    left_open = (flow + _read_at(way_back, flow)).norm(dim=-1)
    return _median((flow.norm(dim=-1) - left_open).clamp_min(0), textured_mask(picture) & _inside(flow))


def _median(lengths: Tensor, mask: Tensor) -> float:
    return float((lengths[mask] if mask.any() else lengths).median())


def _check(frames: Tensor, least: int) -> None:
    if frames.ndim != 4 or frames.shape[0] < least:
        raise ShapeError(
            f"frames are {tuple(frames.shape)}; (t, h, w, c) with t >= {least} is needed; give a longer clip"
        )
