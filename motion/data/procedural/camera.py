"""Procedural clips for training and scoring: drawn textures under a moving camera, with their true backward flow.

A scene is a large periodic canvas (new content enters at the borders without end) seen through a square window, and
in a share of scenes a nearer object or a receding ground that moves faster. Everything is drawn; no photograph is used.
The motion of a clip is labelled with names of `motion.text.vocabulary`; the labels only say what was done to the
scene. Frame 0 is an unsampled crop, so warping it by the true flow reproduces a frame wherever content stays in view.
"""

from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from .fields import AXES
from .textures import canvases, sample_periodic

SIZE = 64  # window, px
CANVAS = 128  # period of the canvas, px
GRID = 16  # cells of the flow grid a side
FULL_SPEED = {"pan": 1.6, "zoom": 0.05, "rotate": 0.058}  # px, log-scale, radians; each a frame
DIRECTED = tuple(AXES)
SINGLES = (*DIRECTED, "still")
STILL_SHARE, PAIR_SHARE = 0.1, 0.2  # of the captions drawn


@dataclass(frozen=True)
class Scenes:
    """A batch of b scenes; all tensors have b rows. Build with `draw_scenes`, look at with `render`."""

    canvas: Tensor  # (b, 3, CANVAS, CANVAS) far layer
    near: Tensor  # (b, 3, CANVAS, CANVAS) texture of the nearer object
    rate: Tensor  # (b, 4) per frame: pan x, pan y (px), log-scale, radians
    blob: Tensor  # (b, 5) nearer object: centre x, y, half axes (px), nearness; nearness 1 = none
    ground: Tensor  # (b, 2) horizon row (px) and extra nearness of the ground at the bottom; 0 = none
    captions: list[str] = field(default_factory=list)

    def render(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the scenes at given frame indices.

        frames: (b, t) integers. Returns pictures (b, 3, t, SIZE, SIZE) in [0, 1] and backward flow
        (b, t, 2, GRID, GRID) in px: frame_n(x) = frame_0(x + flow_n(x)).
        """
        b, t = frames.shape
        shift, log_scale, angle = self._camera(frames)
        far = self._place(shift, log_scale, angle, torch.ones(b), self.ground)
        picture = sample_periodic(self.canvas, far)
        flow = far - _identity()
        rows = (self.blob[:, 4] > 1).nonzero().squeeze(1)
        if len(rows):
            near = self._place(shift, log_scale, angle, self.blob[:, 4], None)[rows]
            cover = self._cover(near, rows)  # (r, t, SIZE, SIZE)
            seen = sample_periodic(self.near[rows], near)
            picture[rows] = picture[rows] + cover.unsqueeze(1) * (seen - picture[rows])
            flow[rows] += cover.unsqueeze(-1) * (near - far[rows])
        grid = rearrange(flow, "b t (h p) (w q) c -> b t c h w p q", h=GRID, w=GRID).mean((-1, -2))
        return picture.clamp(0, 1), grid

    def stopped(self, rows: Tensor) -> "Scenes":
        """The same scenes, captions kept, with the rows of a boolean mask (b,) standing still."""
        keep = (~rows).to(self.rate).unsqueeze(1)
        return replace(self, rate=self.rate * keep)

    def _camera(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Window shift (b, t, 2) px, log-scale (b, t), angle (b, t) at the frames, all 0 at frame 0."""
        straight = self.rate.unsqueeze(1) * frames.to(torch.float32).unsqueeze(-1)
        return straight[..., :2], straight[..., 2], straight[..., 3]

    def _place(self, shift, log_scale, angle, nearness, ground) -> Tensor:
        """Where each window pixel (b, t, y, x) looks, in window pixels of frame 0: (b, t, SIZE, SIZE, 2)."""
        centred = _identity() - (SIZE - 1) / 2
        near = nearness.view(-1, 1)
        scale = torch.exp(log_scale * near)
        cos, sin = (fn(angle)[..., None, None] * scale[..., None, None] for fn in (torch.cos, torch.sin))
        x = cos * centred[..., 0] - sin * centred[..., 1] + (SIZE - 1) / 2
        y = sin * centred[..., 0] + cos * centred[..., 1] + (SIZE - 1) / 2
        push = near.unsqueeze(-1)[..., None]
        if ground is not None:
            row = torch.arange(SIZE, dtype=torch.float32)
            depth = ((row - ground[:, :1]) / (SIZE - ground[:, :1])).clamp_min(0) * ground[:, 1:]
            push = push + depth[:, None, :, None]
        x = x + shift[..., 0, None, None] * push
        y = y + shift[..., 1, None, None] * near.view(-1, 1, 1, 1)
        return torch.stack((x, y), -1)

    def _cover(self, near: Tensor, rows: Tensor) -> Tensor:
        """How much of each pixel (r, t, y, x) the nearer object hides, 0 to 1, edge about 1.5 px wide."""
        blob = self.blob[rows].view(-1, 5, 1, 1, 1)
        distance = torch.sqrt(
            ((near[..., 0] - blob[:, 0]) / blob[:, 2]) ** 2 + ((near[..., 1] - blob[:, 1]) / blob[:, 3]) ** 2
        )
        return ((1 - distance) * torch.minimum(blob[:, 2], blob[:, 3]) / 1.5 + 0.5).clamp(0, 1)


def draw_scenes(num_scenes: int, generator: torch.Generator, *, motions: list[str] | None = None) -> Scenes:
    """Draw random scenes with random motions, or with the given caption each.

    Captions are names of the motion vocabulary, two joined by ", ". Deterministic in the generator's state.
    """
    captions = list(motions) if motions is not None else [_draw_caption(generator) for _ in range(num_scenes)]
    speed = 0.08 + 0.92 * torch.rand(num_scenes, generator=generator) ** 1.3
    rate = torch.zeros(num_scenes, 4)
    for row, caption in enumerate(captions):
        names = caption.split(", ")
        for name in names:
            _add_motion(rate[row], name, float(speed[row]) * (1.0 if len(names) == 1 else 0.7))
    canvas = canvases(num_scenes, CANVAS, generator)
    near = 1 - canvas.roll(1, 0)
    boxed = torch.rand(num_scenes, generator=generator) < 0.25
    canvas[boxed] = _letterboxed(canvas[boxed], generator)
    layered = ~boxed
    blob = _draw_blobs(num_scenes, layered, generator)
    ground = _draw_grounds(num_scenes, layered & (rate[:, 1:].abs().sum(1) == 0), generator)
    _paint_ground(canvas, near.roll((1, 32), (0, 3)), ground)
    return Scenes(canvas, near, rate, blob, ground, captions)


def _identity() -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(SIZE, dtype=torch.float32),) * 2, indexing="ij")
    return torch.stack((x, y), -1)


def _pick(options, generator: torch.Generator):
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def _draw_caption(generator: torch.Generator) -> str:
    """One motion, a pair of two different kinds, or still, with the shares above."""
    u = float(torch.rand((), generator=generator))
    if u < STILL_SHARE:
        return "still"
    if u > STILL_SHARE + PAIR_SHARE:
        return _pick(DIRECTED, generator)
    first = _pick(DIRECTED, generator)
    second = _pick([name for name in DIRECTED if AXES[name][0] != AXES[first][0]], generator)
    return ", ".join(sorted((first, second), key=SINGLES.index))


def _add_motion(rate: Tensor, name: str, speed: float) -> None:
    """Add one motion to the row rate (4,) of a scene being drawn."""
    if name in AXES:
        axis, sign = AXES[name]
        rate[axis] += sign * speed * FULL_SPEED[name.split()[0]]


def _letterboxed(canvas: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror the window about two parallel lines, as a wide or tall photo looks after letterboxing."""
    out = canvas.clone()
    for row in range(len(canvas)):
        margin = int(torch.randint(4, 18, (1,), generator=generator))
        inner = SIZE - 2 * margin
        index = torch.arange(SIZE) - margin
        index = torch.remainder(index, 2 * inner)
        index = torch.where(index >= inner, 2 * inner - 1 - index, index) + margin
        if torch.rand((), generator=generator) < 0.5:
            out[row, :, :SIZE, :SIZE] = canvas[row][:, index, :SIZE]
        else:
            out[row, :, :SIZE, :SIZE] = canvas[row][:, :SIZE, index]
    return out


def _draw_blobs(num_scenes: int, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """A nearer ellipse (head and shoulders size) in about a quarter of the scenes."""
    u = torch.rand(num_scenes, 6, generator=generator)
    low, span = torch.tensor([16.0, 20.0, 8.0, 9.0, 1.25]), torch.tensor([32.0, 30.0, 12.0, 15.0, 0.5])
    blob = low + span * u[:, :5]
    blob[~(allowed & (u[:, 5] < 0.35)), 4] = 1.0
    return blob


def _draw_grounds(num_scenes: int, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """A horizon and a ground that comes nearer towards the bottom, in about half of the allowed scenes."""
    u = torch.rand(num_scenes, 3, generator=generator)
    ground = torch.stack((SIZE * (0.3 + 0.4 * u[:, 0]), 0.3 + 0.7 * u[:, 1]), 1)
    ground[~(allowed & (u[:, 2] < 0.5)), 1] = 0.0
    return ground


def _paint_ground(canvas: Tensor, texture: Tensor, ground: Tensor) -> None:
    """Replace what lies below the horizon by another texture, in place, on canvases this module made itself."""
    row = torch.arange(CANVAS, dtype=torch.float32).view(1, 1, -1, 1)
    below = (row >= ground[:, 0].view(-1, 1, 1, 1)) & (row < SIZE + 16) & (ground[:, 1] > 0).view(-1, 1, 1, 1)
    canvas.copy_(torch.where(below, texture * 0.8, canvas))
