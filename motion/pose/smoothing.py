"""Poses made steady: gaps closed, jitter smoothed without lag, another frame rate.

A point is replaced by the value at its own frame of the parabola that fits its neighbours best, weighted by confidence.
Away from the ends, with equal confidences, that is the filter of Savitzky and Golay (1964), of order 2 or 3 alike: it
is symmetric, so nothing lags.
"""

import math

import numpy as np

from ..errors import ConfigError
from ..limits import MAX_FPS
from .identity import diagonals
from .keypoints import BODY, MAX_FRAMES, MIN_CONFIDENCE, Poses

MAX_GAP = 4  # frames
ONE_EURO_CUTOFF = 1.0  # Hz, of a point that rests
ONE_EURO_BETA = 1.5  # Hz for each body height a second
_SPEED_CUTOFF = 1.0  # Hz
_GUESSED = 0.5  # confidence of a point filled in, times the lesser of its two neighbours'


def window(fps: float) -> int:
    """Frames that one fit spans: 5 below 20 fps, 7 up to 36, then what lasts as long as 7 at 30."""
    if fps < 20:
        return 5
    return 2 * max(3, round(3 * fps / 30)) + 1


def smooth(poses: Poses, fps: float) -> Poses:
    """Poses without jitter: 20 to 39 % of a white noise's second difference is left, swings of 2.5 Hz keep 93 %.

    Confidences, missing points, frames and people stay as they are. A point with fewer than two others in its window
    stays where it is. Raises ConfigError for a frame rate outside 1 to 240.
    """
    _check_fps(fps)
    half = window(fps) // 2
    points = poses.points
    if not len(points):
        return poses
    weights = np.pad(points[..., 2], ((half, half), (0, 0), (0, 0)))
    places = np.pad(points[..., :2], ((half, half), (0, 0), (0, 0), (0, 0)))
    powers = np.zeros((5, *points.shape[:-1]))
    sums = np.zeros((3, *points.shape[:-1], 2))
    for offset in range(-half, half + 1):
        near = slice(half + offset, half + offset + len(points))
        step = offset / half  # in -1..1, so that the fit is well scaled
        for power in range(5):
            powers[power] += weights[near] * step**power
        weighted = weights[near][..., None] * places[near]
        for power in range(3):
            sums[power] += weighted * step**power
    s0, s1, s2, s3, s4 = powers
    first, second, third = s2 * s4 - s3 * s3, s2 * s3 - s1 * s4, s1 * s3 - s2 * s2  # cofactors of the normal matrix
    whole = s0 * first + s1 * second + s2 * third
    fits = (points[..., 2] > 0) & (whole > 1e-9 * np.maximum(s0, 1e-9) ** 3)
    fitted = sum(part[..., None] * total for part, total in zip((first, second, third), sums, strict=True))
    fitted /= np.where(fits, whole, 1.0)[..., None]
    smoothed = points.copy()
    smoothed[..., :2] = np.where(fits[..., None], fitted, points[..., :2])
    return Poses(smoothed, poses.width, poses.height)


def smooth_one_euro(poses: Poses, fps: float, *, cutoff: float = ONE_EURO_CUTOFF, beta: float = ONE_EURO_BETA) -> Poses:
    """The One-Euro filter (Casiez et al., 2012), for live use: it looks back only, and lags.

    cutoff: Hz, of a point at rest; beta: Hz that the cutoff rises for each body height a second. A body height is the
    median diagonal of the person's box. A point that was missing starts anew. Raises ConfigError.
    """
    _check_fps(fps)
    if not (math.isfinite(cutoff) and cutoff > 0 and math.isfinite(beta) and beta >= 0):
        raise ConfigError(f"cutoff is {cutoff} Hz and beta {beta}; cutoff above 0 and beta of 0 or more are needed")
    points = poses.points.copy()
    heights = body_heights(poses)[:, None, None]
    before, speed = points[:1, ..., :2].copy(), np.zeros_like(points[:1, ..., :2])
    share_of_speed = _share(_SPEED_CUTOFF, fps)
    for t in range(1, len(points)):
        known = (points[t - 1, :, :, 2:] > 0) & (points[t, :, :, 2:] > 0)
        step = (points[t, :, :, :2] - before[0]) * fps / heights
        speed[0] = np.where(known, speed[0] + share_of_speed * (step - speed[0]), 0.0)
        share = _share(cutoff + beta * np.linalg.norm(speed[0], axis=-1, keepdims=True), fps)
        before[0] = np.where(known, before[0] + share * (points[t, :, :, :2] - before[0]), points[t, :, :, :2])
        points[t, :, :, :2] = before[0]
    return Poses(points, poses.width, poses.height)


def fill_gaps(poses: Poses, most: int = MAX_GAP) -> Poses:
    """Points that are missing for up to `most` frames, on straight lines between before and after; longer gaps stay.

    A point filled in has half the confidence of its less sure neighbour, but enough to be read from a file again.
    Raises ConfigError for `most` below 0.
    """
    if most < 0:
        raise ConfigError(f"gaps of {most} frames cannot be filled; 0 fills none")
    points, there = poses.points, poses.points[..., 2] > 0
    frames = np.arange(len(points))[:, None, None]
    before = np.maximum.accumulate(np.where(there, frames, -1), 0)
    after = np.minimum.accumulate(np.where(there, frames, len(points))[::-1], 0)[::-1]
    fill = ~there & (before >= 0) & (after < len(points)) & (after - before - 1 <= most)
    at = np.nonzero(fill)
    first, last = points[before[at], at[1], at[2]], points[after[at], at[1], at[2]]
    share = ((at[0] - before[at]) / (after[at] - before[at]))[:, None]
    filled = points.copy()
    filled[at[0], at[1], at[2], :2] = first[:, :2] + share * (last[:, :2] - first[:, :2])
    sure = np.minimum(first[:, 2], last[:, 2])
    filled[at[0], at[1], at[2], 2] = np.maximum(_GUESSED * sure, np.minimum(sure, MIN_CONFIDENCE))
    return Poses(filled, poses.width, poses.height)


def resample(poses: Poses, fps: float, new_fps: float) -> Poses:
    """The same seconds at another frame rate; the first frame stays, and the same rate changes nothing.

    Between two frames that both have a point it lies on the cubic through them and their neighbours (Catmull and Rom,
    1974); next to a frame without it, it takes the place in the frame that is nearer in time, or is missing with it.
    Raises ConfigError for rates outside 1 to 240, or more than 10,000 frames.
    """
    _check_fps(fps)
    _check_fps(new_fps)
    points = poses.points
    if fps == new_fps or len(points) < 2:
        return poses
    count = math.floor((len(points) - 1) / fps * new_fps + 1e-9) + 1
    if count > MAX_FRAMES:
        raise ConfigError(f"{len(points)} frames at {fps:g} fps are {count} at {new_fps:g}; at most {MAX_FRAMES} go")
    at = np.arange(count) * (fps / new_fps)
    left = np.minimum(at.astype(int), len(points) - 2)
    share = (at - left)[:, None, None, None]
    a, b = points[left], points[left + 1]
    outer_a, outer_b = points[np.maximum(left - 1, 0)], points[np.minimum(left + 2, len(points) - 1)]
    first_known = (outer_a[..., 2:] > 0) & (left > 0)[:, None, None, None]
    last_known = (outer_b[..., 2:] > 0) & (left < len(points) - 2)[:, None, None, None]
    pa, pb = a[..., :2], b[..., :2]
    slope_a = np.where(first_known, (pb - outer_a[..., :2]) / 2, pb - pa)
    slope_b = np.where(last_known, (outer_b[..., :2] - pa) / 2, pb - pa)
    cubic = (
        pa + share * slope_a + share**2 * (3 * (pb - pa) - 2 * slope_a - slope_b)
        + share**3 * (2 * (pa - pb) + slope_a + slope_b)
    )  # fmt: skip
    nearer = np.where(share <= 0.5, a, b)
    both = (a[..., 2:] > 0) & (b[..., 2:] > 0)
    sure = np.minimum(a[..., 2:], b[..., 2:])
    on_frame = (share <= 1e-9) | (share >= 1 - 1e-9)
    between = np.concatenate((cubic, sure), -1)
    return Poses(np.where(both & ~on_frame, between, nearer), poses.width, poses.height)


def body_heights(poses: Poses) -> np.ndarray:
    """Median diagonal of each person's body over the frames that show it, px, at least 1: (num_people,)."""
    found = diagonals(poses.points[:, :, BODY])
    return np.array([max(float(np.median(column[column > 0])), 1.0) if (column > 0).any() else 1.0
                     for column in found.T])  # fmt: skip


def jitter(poses: Poses) -> float:
    """Mean length of the second difference of body points over three frames that all have them, px."""
    points = poses.points[:, :, BODY]
    sure = points[..., 2] > 0
    both = sure[2:] & sure[1:-1] & sure[:-2]
    bend = np.linalg.norm(points[2:, ..., :2] - 2 * points[1:-1, ..., :2] + points[:-2, ..., :2], axis=-1)
    return float(bend[both].mean()) if both.any() else 0.0


def _share(cutoff, fps: float):
    """How far a first-order low pass of a cutoff in Hz goes to its input in one frame."""
    turn = 2 * math.pi * cutoff / fps
    return turn / (turn + 1)


def _check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and 1 <= fps <= MAX_FPS):
        raise ConfigError(f"the frame rate is {fps}; 1 to {MAX_FPS:g} frames a second are needed")
