"""What a clip of poses holds, in figures and as a contact sheet: people, gaps, jitter, lengths of limbs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError
from ..metrics.contact_sheet import SheetRow, draw_contact_sheet
from .keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, Poses
from .renderer import draw_people
from .retarget import lengths_seen
from .smoothing import jitter

_LIMBS = {  # of the spans of `lengths_seen`: (left, right), or one
    "upper arms": (4, 2), "forearms": (5, 3), "thighs": (10, 7), "shins": (11, 8), "shoulders": (17,), "trunk": (20,),
}  # fmt: skip
_PARTS = {"face": FACE, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
_SHORT = 0.85  # of the other side's length: said to be uneven


@dataclass(frozen=True)
class PersonReport:
    """One person of a clip.

    frames: how many show somebody; first and last: of these, counted from 0. gaps: how often a body point is missing
    between two frames that have it; longest_gap: in frames. jitter: px. shares: of the frames with this person that
    show a part. lengths: px, as seen from the side, NaN where unknown; left before right.
    """

    frames: int
    first: int
    last: int
    gaps: int
    longest_gap: int
    jitter: float
    shares: dict[str, float]
    lengths: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class PoseReport:
    """A clip of poses: its people, and in how many frames there is nobody."""

    num_frames: int
    width: int
    height: int
    people: tuple[PersonReport, ...]
    empty_frames: int


def report_on(poses: Poses) -> PoseReport:
    """Measure a clip of poses."""
    people = tuple(_person(poses, k) for k in range(poses.points.shape[1]))
    empty = int((~poses.present.any(1)).sum())
    return PoseReport(len(poses.points), poses.width, poses.height, people, empty)


def describe(report: PoseReport, before: PoseReport | None = None) -> str:
    """The report as lines of text. before: of the same people before they were cleaned, for gaps and jitter."""
    people = report.people
    lines = [f"{report.num_frames} frames, {report.width}x{report.height} px, {_people(len(people))}"]
    if report.empty_frames:
        lines.append(f"nobody in {report.empty_frames} of {report.num_frames} frames")
    earlier = before.people if before is not None and len(before.people) == len(people) else ()
    if before is not None and not earlier:
        lines.append(f"before: {_people(len(before.people))}, so nobody can be compared")
    for k, person in enumerate(people):
        old = earlier[k] if earlier else None
        lines += [f"person {k}: in {person.frames} frames, {person.first} to {person.last}"]
        gaps = f"{person.gaps} gaps of body points, the longest {person.longest_gap} frames"
        shake = f"jitter {person.jitter:.2f} px"
        if old is not None:
            gaps += f" (before: {old.gaps}, {old.longest_gap})"
            shake = f"jitter {old.jitter:.2f} px before, {person.jitter:.2f} after"
        lines += [f"  {shake}; {gaps}"]
        lines += ["  " + ", ".join(f"{name} in {100 * share:.0f} %" for name, share in person.shares.items())]
        lines += ["  " + ", ".join(_length(name, sides) for name, sides in person.lengths.items())]
    return "\n".join(lines)


def pose_sheet(
    rows: Sequence[tuple[str, Poses]], *, columns: int = 6, cell: int = 256, on_step=None
) -> Tensor:  # fmt: skip
    """A contact sheet (1, h, w, 3) in [0, 1], a row of evenly spaced frames for each labelled clip (1 to 4).

    Every frame is drawn at the size of its cell. Raises ConfigError as `draw_contact_sheet` does, ShapeError for poses
    without frames.
    """
    if not all(len(poses.points) for _, poses in rows):
        raise ShapeError("the poses have no frames; nothing can be drawn of them")
    shown = [SheetRow(label, DrawnPoses(poses, cell), _remark(poses)) for label, poses in rows]
    return draw_contact_sheet(shown, num_columns=columns, cell=cell, on_step=on_step)


class DrawnPoses:
    """Frames (t, h, w, 3) of a clip, the longer side of `side` px or the canvas's, each drawn when it is asked for."""

    def __init__(self, poses: Poses, side: int):
        scale = min(1.0, side / max(poses.width, poses.height))
        height, width = max(1, round(poses.height * scale)), max(1, round(poses.width * scale))
        self.shape = (len(poses.points), height, width, 3)
        self._points, self._present = poses.points * (scale, scale, 1), poses.present

    def __getitem__(self, frame: int) -> Tensor:
        people = [torch.from_numpy(points) for points in self._points[frame][self._present[frame]]]
        return draw_people(people, *self.shape[1:3]).movedim(0, -1)


def _person(poses: Poses, k: int) -> PersonReport:
    points = poses.points[:, k]
    seen = np.flatnonzero(poses.present[:, k])
    count, longest = _gaps(points[:, BODY, 2] > 0)
    shares = {name: float((points[seen, part, 2] > 0).any(-1).mean()) if len(seen) else 0.0
              for name, part in _PARTS.items()}  # fmt: skip
    spans = lengths_seen(points)
    lengths = {name: tuple(float(spans[side]) for side in sides) for name, sides in _LIMBS.items()}
    shake = jitter(Poses(poses.points[:, k : k + 1], poses.width, poses.height))
    first, last = (int(seen[0]), int(seen[-1])) if len(seen) else (0, 0)
    return PersonReport(len(seen), first, last, count, longest, shake, shares, lengths)


def _gaps(there: np.ndarray) -> tuple[int, int]:
    """How many runs of missing frames lie between frames that are there, of (t, n), and the longest."""
    count, longest = 0, 0
    for column in there.T:
        apart = np.diff(np.flatnonzero(column)) - 1
        count += int((apart > 0).sum())
        longest = max(longest, int(apart.max(initial=0)))
    return count, longest


def _length(name: str, sides: tuple[float, ...]) -> str:
    known = [f"{side:.0f}" if np.isfinite(side) else "?" for side in sides]
    uneven = len(sides) == 2 and np.isfinite(sides).all() and min(sides) < _SHORT * max(sides)
    return f"{name} {'/'.join(known)} px" + (" (uneven)" if uneven else "")


def _people(count: int) -> str:
    return "nobody" if count == 0 else "1 person" if count == 1 else f"{count} people"


def _remark(poses: Poses) -> str:
    return f"{_people(poses.points.shape[1])}, {poses.width}x{poses.height} px"
