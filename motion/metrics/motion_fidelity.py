"""How far a clip moves like another: tracks compared by the directions they go in, as papers on motion transfer do."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .point_tracks import PointTracks

STILL = 0.0005  # of the diagonal, a frame: less is no motion
MOVING = 0.02  # of the diagonal: a point that never was farther from where it began does not count as moving
LEAST = 4  # tracks that a clip must have


@dataclass(frozen=True)
class MotionFidelity:
    """Numbers of two clips; None where there is nothing to compare, and `missing` says why."""

    all_tracks: float | None  # -1 to 1: 1 where for every track there is one that goes the same way
    moving_tracks: float | None  # the same of tracks that go farther than MOVING; 0 where the clip has none
    tracks: tuple[int, int]  # of the source and of the clip
    moving: tuple[int, int]  # how many of these go farther
    missing: str = ""


def motion_fidelity(source: PointTracks, made: PointTracks, *, by_share: bool = True) -> MotionFidelity:
    """Mean of how well each track's best partner in the other clip goes with it, both ways.

    MF = (mean over b of max over a corr(a, b) + mean over a of max over b corr(a, b)) / 2, where corr is the mean over
    steps of the cosine between both ways; a step below 0.05 % of the diagonal is none: two that stand agree, one that
    stands and one that goes count 0. by_share: a clip of another length is compared over the same share of its time;
    False: frame by frame, up to the end of the shorter.
    Source: Yatim et al. 2023, arXiv 2311.17009, Eq. 7, as Follow-Your-Motion, arXiv 2506.05207, uses it.
    """
    counts = (len(source), len(made))
    moving = tuple(tracks.reach > MOVING * tracks.diagonal for tracks in (source, made))
    numbers = tuple(int(rows.sum()) for rows in moving)
    few = [name for name, count in zip(("source", "clip"), counts) if count < LEAST]
    if few:
        why = f"fewer than {LEAST} points of the {' and the '.join(few)} could be followed"
        return MotionFidelity(None, None, counts, numbers, f"{why}: too flat, or changing too fast")
    a, b = (_steps(tracks, times) for tracks, times in zip((source, made), _times(source, made, by_share)))
    table = _correlations(a, b)
    if not numbers[0]:
        return MotionFidelity(_both_ways(table), None, counts, numbers, "nothing in the source moves far enough")
    both = _both_ways(table[moving[0]][:, moving[1]]) if numbers[1] else 0.0
    return MotionFidelity(_both_ways(table), both, counts, numbers)


def _both_ways(table: Tensor) -> float:
    """Of correlations (a, b)."""
    return float(table.amax(0).mean() + table.amax(1).mean()) / 2


def _times(source: PointTracks, made: PointTracks, by_share: bool) -> list[Tensor]:
    """Frames at which both are compared."""
    lengths = [tracks.places.shape[1] for tracks in (source, made)]
    count = min(lengths)
    ends = [length - 1 if by_share else count - 1 for length in lengths]
    return [torch.linspace(0, end, count, dtype=torch.float64) for end in ends]


def _steps(tracks: PointTracks, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (n, t - 1, 2) of length 1, or 0 where a point stands; which stand; which are seen at both ends."""
    found = tracks.at(times)
    step = found.places.diff(dim=1)
    length = step.norm(dim=-1)
    stands = length < STILL * tracks.diagonal
    direction = torch.where(stands.unsqueeze(-1), 0.0, step / length.clamp_min(1e-12).unsqueeze(-1))
    return direction, stands, found.seen[:, 1:] & found.seen[:, :-1]


def _correlations(a, b) -> Tensor:
    """(n, m) mean over the steps that both are seen in; step by step, so that long clips need no more memory."""
    (way_a, stands_a, seen_a), (way_b, stands_b, seen_b) = a, b
    total = torch.zeros(len(way_a), len(way_b), dtype=torch.float64)
    count = torch.zeros_like(total)
    for step in range(way_a.shape[1]):
        both = (seen_a[:, step, None] & seen_b[None, :, step]).double()
        alike = way_a[:, step] @ way_b[:, step].T + (stands_a[:, step, None] & stands_b[None, :, step]).double()
        total += both * alike
        count += both
    return total / count.clamp_min(1)
