"""Where points of a clip go: followed by our own tracker, or read from the text of another.

The tracker is pyramidal Lucas-Kanade on a grid of points of frame 1, in torch alone, so that its numbers do not depend
on what is installed. They are not comparable with those of learned trackers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..foreign_json import parse_json
from .colour import luma
from .motion_track import shrink

OWN, GIVEN = "our own tracker (Lucas-Kanade)", "given tracks"
GRID = 24  # points along each side of frame 1
WINDOW, SHARE = 21, 4  # px of a window; smaller pictures have windows of a SHARE-th of their short side
LEVELS, COARSEST = 4, 16  # sizes a picture is looked at in, halved each time, none below so many px
ROUNDS = 5  # refinements at a size
HOLD = 2e-5  # least mean square of brightness slopes, across the direction that has least of it: flat ground and
# straight edges hold no point
THERE_AND_BACK = 0.005  # of the diagonal: a point that does not come back to within this is lost
ALIKE = 0.6  # least correlation of a window with what it is found as
LEAST_SHARE = 0.5  # of a clip's frames that a point must be seen in
MAX_TRACKS, MAX_TEXT = 1024, 32 << 20  # of given ones


@dataclass(frozen=True)
class PointTracks:
    """Ways of points in px of a picture (height, width), and who followed them.

    places: (n, t, 2) float64, x to the right and y down. seen: (n, t) bool, True up to the frame where one is lost.
    """

    places: Tensor
    seen: Tensor
    height: int
    width: int
    by: str = OWN

    def __len__(self) -> int:
        return len(self.places)

    @property
    def diagonal(self) -> float:
        """Of the picture, px."""
        return (self.height**2 + self.width**2) ** 0.5

    @property
    def reach(self) -> Tensor:
        """(n,) px: how far each point was from where it began, at most."""
        away = (self.places - self.places[:, :1]).norm(dim=-1)
        return torch.where(self.seen, away, 0.0).amax(dim=1)

    def chosen(self, rows: Tensor) -> "PointTracks":
        """Those of (n,) bool or indices."""
        return PointTracks(self.places[rows], self.seen[rows], self.height, self.width, self.by)

    def at(self, times: Tensor) -> "PointTracks":
        """Places at frames (m,) that need not be whole, between two frames on the straight way."""
        before = times.floor().long().clamp(0, self.places.shape[1] - 1)
        after = (before + 1).clamp(max=self.places.shape[1] - 1)
        share = (times - before).unsqueeze(-1)
        places = self.places[:, before] * (1 - share) + self.places[:, after] * share
        seen = self.seen[:, before] & (self.seen[:, after] | (share.squeeze(-1) == 0))
        return PointTracks(places, seen, self.height, self.width, self.by)


def follow_points(
    frames: Tensor, *, grid: int = GRID, on_step: Callable[[int, int], None] | None = None
) -> PointTracks:
    """Follow a grid of points through a clip, from frame to frame.

    frames: (t, h, w, 3), t >= 2, in [0, 1], sides at least 16 px. Points that nothing holds are left out, and those
    that were lost before half of the clip: there may be none. A point is lost where it leaves the picture, where
    nothing holds it any more, where its surroundings have changed, and where the way back leads elsewhere.
    Returns places in px of the clip. Raises ShapeError. on_step(frame, frames) may raise to cancel.
    Source: Bouguet 2000, "Pyramidal implementation of the Lucas Kanade feature tracker"; Kalal et al. 2010 (there and
    back). Differs: windows are weighed by a Gaussian, and points are those of a grid.
    """
    if frames.ndim != 4 or len(frames) < 2 or min(frames.shape[1:3]) < COARSEST:
        raise ShapeError(
            f"frames are {tuple(frames.shape)}; (t, h, w, 3) with t >= 2 and sides of at least {COARSEST} px are needed"
        )
    small, scale = shrink(frames)
    h, w = small.shape[1:3]
    window = min(WINDOW, min(h, w) // SHARE) // 2 * 2 + 1
    y, x = ((torch.arange(grid) + 0.5) / grid * side - 0.5 for side in (h, w))
    here = torch.stack((x.repeat(grid), y.repeat_interleave(grid)), dim=-1)
    before = _pyramid(luma(small[0]))
    alive = _holds(before[0], here, window)
    places, seen = [here], [alive]
    limit = THERE_AND_BACK * (h * h + w * w) ** 0.5
    for index in range(1, len(small)):
        after = _pyramid(luma(small[index]))
        there = here.clone()
        rows = alive.nonzero().squeeze(1)
        if len(rows):
            there[rows] = _moved(before, after, here[rows], window)
            back = _moved(after, before, there[rows], window)
            alike = _alike(before[0], after[0], here[rows], there[rows], window) > ALIKE
            came_back = (back - here[rows]).norm(dim=-1) <= limit
            alive = alive.clone()
            alive[rows] = came_back & alike & _holds(after[0], there[rows], window) & _inside(after[0], there[rows])
        here, before = torch.where(alive.unsqueeze(-1), there, here), after
        places.append(here)
        seen.append(alive)
        if on_step:
            on_step(index, len(small) - 1)
    found = PointTracks((torch.stack(places, 1).double() + 0.5) / scale - 0.5, torch.stack(seen, 1), *frames.shape[1:3])
    return found.chosen(found.seen.double().mean(dim=1) >= LEAST_SHARE)


def read_tracks(text: str, num_frames: int, height: int, width: int, name: str = "tracks") -> PointTracks:
    """Tracks of another tracker: JSON, a list of tracks, each a list of {"x": px, "y": px}, a point for each frame.

    That is what the host's node for Wan and trackers for it write. Raises ConfigError with what is wrong.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT >> 20} MB")
        rows = parse_json(text)
        rows = [rows] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else rows
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_TRACKS:
            raise ValueError(f"a list of 1 to {MAX_TRACKS} tracks is needed")
        lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
        if lengths != {num_frames}:
            raise ValueError(f"each must have {num_frames} points, one for each frame, not {min(lengths)}")
        places = torch.tensor([[[_number(point, "x"), _number(point, "y")] for point in row] for row in rows],
                              dtype=torch.float64)  # fmt: skip
    except ValueError as error:
        raise ConfigError(
            f'{name} cannot be read: {error}; connect JSON such as [[{{"x": 1, "y": 2}}, …], …], or leave it empty'
        ) from error
    return PointTracks(places, torch.ones(places.shape[:2], dtype=torch.bool), height, width, GIVEN)


def _number(point, name: str) -> float:
    value = point.get(name) if isinstance(point, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ValueError(f"a point without a number {name}")
    return float(value)


def _pyramid(grey: Tensor) -> list[Tensor]:
    """(1 + 2, h, w) of a picture (h, w) at each size, largest first: brightness, slopes along x and y."""
    levels = []
    smooth = grey.new_tensor((1.0, 4.0, 6.0, 4.0, 1.0)) / 16
    kernel = (smooth.unsqueeze(0) * smooth.unsqueeze(1))[None, None]
    picture = grey[None, None]
    while True:
        padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")[0, 0]
        slopes = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        levels.append(torch.stack((picture[0, 0], *slopes)))
        if len(levels) == LEVELS or min(picture.shape[2:]) < 2 * COARSEST:
            return levels
        picture = F.conv2d(F.pad(picture, (2, 2, 2, 2), mode="replicate"), kernel)[..., ::2, ::2]


def _moved(a: list[Tensor], b: list[Tensor], points: Tensor, window: int) -> Tensor:
    """Where points (n, 2) of a picture are found in another, by their pyramids."""
    shift = torch.zeros_like(points)
    offsets, weight = _window(window)
    for level in reversed(range(len(a))):
        at = (points / 2**level).unsqueeze(1) + offsets  # every second row and column stays where it was
        here, gx, gy = _read(a[level], at)
        squares, inside = torch.stack((gx * gx, gx * gy, gy * gy), dim=1), weight * _inside(a[level], at)
        for _ in range(ROUNDS):
            moved = at + shift.unsqueeze(1)
            counted = inside * _inside(b[level], moved)
            wrong = (here - _read(b[level][:1], moved)[0]) * counted
            pull = torch.stack(((wrong * gx).sum(1), (wrong * gy).sum(1)), dim=-1)
            xx, xy, yy = (squares @ counted.unsqueeze(-1)).squeeze(-1).unbind(-1)
            xx, yy = xx + HOLD / 10, yy + HOLD / 10
            step = torch.stack((yy * pull[:, 0] - xy * pull[:, 1], xx * pull[:, 1] - xy * pull[:, 0]), dim=-1)
            step = step / (xx * yy - xy * xy).unsqueeze(-1)
            shift = shift + step.clamp(-window / 2, window / 2)
        if level:
            shift = shift * 2
    return points + shift


def _alike(a: Tensor, b: Tensor, here: Tensor, there: Tensor, window: int) -> Tensor:
    """(n,) correlation of brightness about points of two pictures, whatever their contrast."""
    offsets, weight = _window(window)
    parts = [_read(level[:1], points.unsqueeze(1) + offsets)[0] for level, points in ((a, here), (b, there))]
    one, other = (part - (part * weight).sum(1, keepdim=True) for part in parts)
    norms = ((one * one * weight).sum(1) * (other * other * weight).sum(1)).sqrt()
    return (one * other * weight).sum(1) / norms.clamp_min(1e-9)


def _inside(level: Tensor, at: Tensor) -> Tensor:
    """Which places (n, pixels, 2) lie in a picture (c, h, w); the border's repeats would pull."""
    h, w = level.shape[1:]
    x, y = at.unbind(-1)
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def _holds(level: Tensor, points: Tensor, window: int) -> Tensor:
    """(n,) bool: whether a window about each point has slopes in more than one direction."""
    offsets, weight = _window(window)
    _, gx, gy = _read(level, points.unsqueeze(1) + offsets)
    return torch.linalg.eigvalsh(_normal(gx, gy, weight))[:, 0] >= HOLD


def _window(size: int) -> tuple[Tensor, Tensor]:
    """Offsets (size², 2) of a window's pixels from its middle, and their weights, which come to 1."""
    line = torch.arange(size) - (size - 1) / 2
    offsets = torch.stack((line.repeat(size), line.repeat_interleave(size)), dim=-1)
    weight = torch.exp(-offsets.square().sum(-1) / (2 * (size / 4) ** 2))
    return offsets, weight / weight.sum()


def _normal(gx: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    """(n, 2, 2) weighed means of products of slopes (n, pixels)."""
    xx, xy, yy = ((a * b * weight).sum(1) for a, b in ((gx, gx), (gx, gy), (gy, gy)))
    return torch.stack((torch.stack((xx, xy), -1), torch.stack((xy, yy), -1)), -2)


def _read(maps: Tensor, at: Tensor) -> Tensor:
    """(c, n, pixels) of maps (c, h, w) at places (n, pixels, 2) px; the border goes on outside."""
    h, w = maps.shape[1:]
    grid = (at + 0.5) * 2 / at.new_tensor((w, h)) - 1
    return F.grid_sample(maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
