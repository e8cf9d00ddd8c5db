"""Clips of one camera move over still photos: a window that glides, grows, shrinks or turns inside the picture.

Nothing beyond a photo's edge is ever shown, so nothing is mirrored or made up: what a pan brings in was photographed.
Labels are in film usage, as in motion/metrics/optical_flow.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...choices import CAMERA_MOVES
from ...errors import ConfigError, ShapeError
from ...io.media.video import check_fps
from ...limits import MAX_CLIP_FRAMES, MAX_SIDE
from ..clips import Clip, ClipCollection, digest

PANS = {"pan left": (-1, 0), "pan right": (1, 0), "pan up": (0, -1), "pan down": (0, 1)}  # ways of the window
MAX_CLIPS = 10_000
LEAST_AMOUNT, MAX_AMOUNT = 0.01, 0.5  # 0.5: a pan by half the picture, a zoom by two thirds, a turn by 29 degrees
MAX_VARY = 0.9
LEAST_SIDE = 32  # px of a clip's short side
MAX_ENLARGED = 1.5  # times, before it is said
ROOM = (0.75, 1.0)  # of the largest window that fits, drawn for each clip
CELLS = 16  # of the flow grid, over the square that holds the clip
RULE = 1  # raised when the windows of a seed change; part of every fingerprint


@dataclass(frozen=True)
class Glide:
    """How a window goes over a photo: from its start it is shifted, grown and turned, evenly over the clip.

    centre: of the start, (x, y) px of the photo. size: of the start, (width, height) px of the photo. shift: of the
    whole clip, px of the photo; grow: its log-scale; turn: radians, clockwise on the screen.
    """

    centre: tuple[float, float]
    size: tuple[float, float]
    shift: tuple[float, float]
    grow: float
    turn: float

    def at(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """At shares (t,) of the clip: A (t, 2, 2) and b (t, 2), float64.

        What lies x px off the window's middle lies at centre + A x + b in the photo.
        """
        shares = shares.double()
        scale, angle = (self.grow * shares).exp(), self.turn * shares
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)
        return torch.stack(rows, -2), shares.unsqueeze(1) * torch.tensor(self.shift, dtype=torch.float64)

    def span(self, shares: Tensor) -> Tensor:
        """What the window covers at these shares, from the start's centre: ((left, top), (right, bottom)) px."""
        matrix, shift = self.at(shares)
        reach = matrix.abs() @ (torch.tensor(self.size, dtype=torch.float64) / 2)
        return torch.stack(((shift - reach).amin(0), (shift + reach).amax(0)))


def camera_clips(
    photos: Tensor, move: str, num_clips: int = 100, *, num_frames: int = 16, fps: float = 8.0, amount: float = 0.25,
    vary: float = 0.3, side: int = 256, seed: int = 0,
) -> ClipCollection:  # fmt: skip
    """Clips of one move over photos (n, 3, h, w) in [0, 1], dealt out in turn; nothing is drawn before it is read.

    amount: of the whole clip: a pan's way as a share of the picture's side along it, a zoom's log-scale, a turn in
    radians. vary: each clip moves by up to this share more or less. side: short side of the clips, px; the long one
    follows the photos. Each clip is another window of its photo, at random, and clip k is the same however many there
    are. The photos are kept, not copied. Raises ConfigError and ShapeError.
    """
    if photos.ndim != 4 or photos.shape[1] != 3 or not len(photos):
        raise ShapeError(f"photos are {tuple(photos.shape)}; (n, 3, h, w) is needed; give at least one photo")
    if move not in CAMERA_MOVES:
        raise ConfigError(f"move is {move[:60]!r}; it must be one of: {', '.join(CAMERA_MOVES)}")
    for name, value, low, high in (
        ("num_clips", num_clips, 1, MAX_CLIPS), ("num_frames", num_frames, 2, MAX_CLIP_FRAMES),
        ("amount", amount, LEAST_AMOUNT, MAX_AMOUNT), ("vary", vary, 0.0, MAX_VARY),
        ("side", side, LEAST_SIDE, MAX_SIDE),
    ):  # fmt: skip
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must be {low:g} to {high:g}")
    height, width = photos.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise ShapeError(f"photos are {width}x{height} px; at least {LEAST_SIDE} px a side are needed; enlarge them")
    size = tuple(round(length * side / min(height, width)) for length in (height, width))
    if max(size) > MAX_SIDE:
        raise ConfigError(f"clips would be {size[1]}x{size[0]} px; sides go up to {MAX_SIDE}; use a smaller side")
    marks = [digest("photo", str((height, width)), photo.float().cpu().contiguous().numpy().tobytes())
             for photo in photos]  # fmt: skip
    shares, clips, coarsest = torch.linspace(0, 1, num_frames), [], 1.0
    for index in range(num_clips):
        glide = _draw_glide((height, width), move, amount, vary, shares, _dice(seed, index))
        told = str((RULE, move, amount, vary, num_frames, size, seed, index))
        row = index % len(photos)
        view = _View(photos[row], glide, shares, size)
        clips.append(Clip(f"{index:04d} {move}", move, num_frames, check_fps(fps), *size,
                          digest("camera", told, marks[row]), view.read, view.flow))  # fmt: skip
        coarsest = max(coarsest, view.enlarged)
    notes = [f"{move} inside {len(photos)} photo{'s' if len(photos) > 1 else ''}, with its true flow"]
    if coarsest > MAX_ENLARGED:
        notes.append(
            f"photos are enlarged up to {coarsest:.1f} times, so clips are soft; larger photos, a smaller amount or a "
            "smaller side help"
        )
    return ClipCollection(tuple(clips), fps=fps, notes=tuple(notes))


def _dice(seed: int, index: int) -> list[float]:
    """Four uniform numbers of a clip."""
    generator = torch.Generator().manual_seed(int(digest("camera", str(seed), str(index), length=15), 16))
    return torch.rand(4, generator=generator, dtype=torch.float64).tolist()


def _draw_glide(
    photo: tuple[int, int], move: str, amount: float, vary: float, shares: Tensor, dice: list[float]
) -> Glide:
    """A window of the photo's shape that stays inside it, somewhere, a little smaller than it could be."""
    height, width = photo
    amount = amount * (1 + vary * (2 * dice[0] - 1))
    kind, way = move.split()
    across, down = (amount * part for part in PANS.get(move, (0, 0)))
    grow = {"in": -amount, "out": amount}[way] if kind == "zoom" else 0.0
    turn = {"left": amount, "right": -amount}[way] if kind == "rotate" else 0.0  # the picture turns against the window
    whole = Glide((0.0, 0.0), (width, height), (across * width, down * height), grow, turn)
    low, high = whole.span(shares)
    sides = torch.tensor([width, height], dtype=torch.float64)
    share = min(1.0, float((sides / (high - low)).min())) * (ROOM[0] + (ROOM[1] - ROOM[0]) * dice[1])
    free = sides - share * (high - low)
    centre = free * torch.tensor(dice[2:], dtype=torch.float64) - share * low
    return Glide(tuple(centre.tolist()), (share * width, share * height),
                 (share * whole.shift[0], share * whole.shift[1]), grow, turn)  # fmt: skip


@dataclass(frozen=True)
class _View:
    """Reads frames of a clip and their flow."""

    photo: Tensor  # (3, h, w)
    glide: Glide
    shares: Tensor
    size: tuple[int, int]  # height, width of the clip, px

    @property
    def enlarged(self) -> float:
        """Px of the clip to a px of the photo where its window is smallest."""
        return self.size[1] / self.glide.size[0] * max(1.0, math.exp(-self.glide.grow))

    def read(self, indices: Sequence[int]) -> Tensor:
        """See `Clip.read`. A photo much larger than the clip is made smaller first, so that nothing flickers."""
        matrix, shift = self.glide.at(self.shares[list(indices)])
        height, width = self.photo.shape[-2:]
        shrink = min(1.0, self.size[1] / self.glide.size[0] * math.exp(-self.glide.grow / 2))
        small = self.photo.float().cpu().unsqueeze(0)
        if shrink < 1:
            size = (max(2, round(height * shrink)), max(2, round(width * shrink)))
            small = F.interpolate(small, size=size, mode="bilinear", antialias=True)
        places = self._off_middle([(torch.arange(side) + 0.5) / side - 0.5 for side in self.size], self.glide.size)
        places = torch.einsum("tij,hwj->thwi", matrix, places) + shift[:, None, None]
        places = (places + torch.tensor(self.glide.centre, dtype=torch.float64)) / torch.tensor([width, height])
        small = small.expand(len(places), -1, -1, -1)
        return F.grid_sample(small, (2 * places - 1).float(), mode="bicubic", padding_mode="border",
                             align_corners=False).clamp(0, 1)  # fmt: skip

    def flow(self, indices: Sequence[int]) -> Tensor:
        """See `Clip.flow`: x + g(x) of the first frame shows what x shows, A_1 (x + g) + b_1 = A x + b."""
        matrix, shift = self.glide.at(self.shares[list(indices)])
        axis = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
        places = self._off_middle([axis, axis], (max(self.glide.size),) * 2)
        found = torch.einsum("tij,hwj->thwi", matrix, places) + (shift - shift[:1])[:, None, None]
        back = torch.einsum("ij,thwj->thwi", matrix[0].inverse(), found) - places
        return (back * (self.size[1] / self.glide.size[0])).movedim(-1, 1).float()

    @staticmethod
    def _off_middle(axes: list[Tensor], sides: tuple[float, float]) -> Tensor:
        """Places (h, w, 2) in px of the photo from the window's middle; axes: of rows and columns, in sides."""
        y, x = torch.meshgrid(axes[0].double() * sides[1], axes[1].double() * sides[0], indexing="ij")
        return torch.stack((x, y), -1)
