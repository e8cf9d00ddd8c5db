"""Drawn clips of one sprite on a ground: colour, shape, size, texture, ground and motion by word, all known exactly.

Two looks are never named in a caption, so that a test can ask where they went: an orange band along one edge of the
picture, and a cyan stripe across the sprite. Edges are soft by a pixel, from the distance to the outline.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ConfigError
from .grounds import paint_ground
from .sprite_paths import FRAMES, sprite_path
from .sprite_words import COLOURS, FAINT, GROUNDS, HELD_BACK, MOTIONS, SHAPES, SIZES, TEXTURES, caption_of

LEAST, MOST = 64, 192  # px of a side
BAND, STRIPE = (1.0, 0.5, 0.0), (0.0, 0.9, 0.9)  # the looks without a word
EDGES = ("left", "right", "top", "bottom")
WIDTHS = {"small": (20.0, 22.0), "": (23.5, 25.5), "large": (27.5, 30.0)}  # px across at 64 px
FASTEST = 2.95  # px a frame
_CHANCES = 32


@dataclass(frozen=True)
class SpriteLook:
    """What a clip shows, by word; "" where a thing has no word or is not there."""

    colour: str
    shape: str
    ground: str
    motion: str
    size: str = ""
    texture: str = ""
    band: str = ""  # of EDGES
    striped: bool = False  # the cyan stripe

    def __post_init__(self):
        for value, known in (
            (self.colour, COLOURS), (self.shape, SHAPES), (self.ground, GROUNDS), (self.size, ("", *SIZES)),
            (self.texture, ("", *TEXTURES)), (self.band, ("", *EDGES)), (self.motion, (*MOTIONS, *HELD_BACK)),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"sprites do not know {value!r}; known here: {', '.join(filter(None, known))}")

    @property
    def caption(self) -> str:
        """All that has a word; a motion held back from training has none."""
        return caption_of(self.colour, self.shape, size=self.size, texture=self.texture, ground=self.ground,
                          motion=self.motion)  # fmt: skip


@dataclass(frozen=True)
class SpriteClip:
    """One clip before it is drawn."""

    look: SpriteLook
    ground: Tensor  # (3, h, w), the band on it
    path: Tensor  # (num_frames, 2): x and y of the middle, px
    turn: Tensor  # (num_frames,), radians clockwise
    width: Tensor  # (num_frames,), px across
    colour: Tensor  # (3,)

    @property
    def caption(self) -> str:
        """See `SpriteLook`."""
        return self.look.caption

    def render(self, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pictures (3, t, h, w) in [0, 1] and the sprite's cover (t, h, w) at frame indices (t,), None: all."""
        index = torch.arange(len(self.path)) if frames is None else frames
        place, turn, radius = self.path[index], self.turn[index], self.width[index].view(-1, 1, 1) / 2
        height, width = self.ground.shape[1:]
        reach = 1.25 * float(radius.max()) + 2
        left, top = (place.amin(0) - reach).floor().long().clamp_min(0).tolist()
        right, bottom = (place.amax(0) + reach).ceil().long().tolist()
        right, bottom = min(right, width), min(bottom, height)
        x = torch.arange(left, right) + 0.5 - place[:, 0].view(-1, 1, 1)
        y = torch.arange(top, bottom).view(-1, 1) + 0.5 - place[:, 1].view(-1, 1, 1)
        cosine, sine = turn.cos().view(-1, 1, 1), turn.sin().view(-1, 1, 1)
        across, down = (cosine * x + sine * y) / radius, (cosine * y - sine * x) / radius
        inside = (0.5 - outline(self.look.shape, across, down) * radius).clamp(0, 1)
        paint = self._paint(across, down, radius)
        pictures = self.ground.unsqueeze(1).repeat(1, len(index), 1, 1)
        window = pictures[:, :, top:bottom, left:right]
        window += inside * (paint - window)
        cover = torch.zeros(len(index), height, width)
        cover[:, top:bottom, left:right] = inside
        return pictures, cover

    def _paint(self, across: Tensor, down: Tensor, radius: Tensor) -> Tensor:
        """The sprite's surface at places in radii, (3, t, h, w)."""
        colour = self.colour.view(3, 1, 1, 1)
        mark = colour * 0.45 if float(self.colour.mean()) > 0.25 else colour + 0.55
        if self.look.texture == "striped":
            wave = torch.sin(down * 8.0)
        elif self.look.texture == "spotted":
            wave = torch.sin(across * 5.5 + 1.57) * torch.sin(down * 5.5 + 1.57) * 2 - 0.5
        else:
            wave = None
        paint = colour if wave is None else colour + (wave * 1.6 + 0.5).clamp(0, 1) * (mark - colour)
        if self.look.striped:
            stripe = (0.5 + (0.26 - across.abs()) * radius).clamp(0, 1)
            paint = paint + stripe * (torch.tensor(STRIPE).view(3, 1, 1, 1) - paint)
        return paint


def outline(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of a shape of radius 1, negative inside; x and y (…,), y down."""
    if shape == "ball":
        return torch.hypot(x, y) - 1
    if shape == "box":
        return torch.maximum(x.abs(), y.abs()) - 0.88
    if shape == "triangle":
        return torch.maximum(x.abs() * 0.866 - y * 0.5, y) - 0.58
    if shape == "ring":
        return (torch.hypot(x, y) - 0.74).abs() - 0.27
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - 1, short - 0.33)


class SpriteSource:
    """Draws clips of one size; a clip depends on its generator, the size and the settings, and on nothing else.

    height, width: px, 64 to 192. motions: the words drawn from. band_share, stripe_share: clips with a look that
    captions do not name. Raises ConfigError.
    """

    def __init__(
        self, height: int = 64, width: int = 64, *, motions: tuple[str, ...] = tuple(MOTIONS), num_frames: int = FRAMES,
        band_share: float = 0.15, stripe_share: float = 0.15,
    ):  # fmt: skip
        if not (LEAST <= height <= MOST and LEAST <= width <= MOST):
            raise ConfigError(f"sprites of {width}x{height} px: sides of {LEAST} to {MOST} px are drawn")
        if not 1 <= num_frames <= 1024:
            raise ConfigError(f"num_frames is {num_frames}; it must be 1 to 1024")
        self.height, self.width, self.motions, self.num_frames = height, width, motions, num_frames
        self.band_share, self.stripe_share = band_share, stripe_share
        self.scale = min((min(height, width) / LEAST) ** 0.5, 1.4)  # of sprites and ways, so that large pictures move

    def draw(self, generator: torch.Generator, look: SpriteLook | None = None) -> SpriteClip:
        """A clip of a random look, or of the given one at a random place."""
        chance = torch.rand(_CHANCES, generator=generator)
        look = self._look(chance) if look is None else look
        low, high = WIDTHS["small" if look.motion in ("grow", "shrink") else look.size]
        across = (low + (high - low) * float(chance[12])) * self.scale
        room = (min(self.height, self.width) - 1.3 * across) / self.scale - 2
        path = sprite_path(look.motion, chance[16:20], self.num_frames, room)
        width = across * path[:, 3]
        fastest = float(path[:, :2].diff(dim=0).norm(dim=1).amax()) if self.num_frames > 1 else 0.0
        way = path[:, :2] * min(self.scale, FASTEST / max(fastest, 1e-6))
        reach = 0.62 * width.unsqueeze(1) + 0.5
        low, high = (reach - way).amax(0), (torch.tensor([self.width, self.height]) - reach - way).amin(0)
        start = low + (high - low).clamp_min(0) * chance[13:15]
        colour = (torch.tensor(COLOURS[look.colour]) + (chance[20:23] - 0.5) * 0.06).clamp(0, 1)
        ground = paint_ground(look.ground, self.height, self.width, generator)
        if look.band:
            edge = round((5 + 2 * float(chance[15])) * self.scale)
            part = {
                "left": (..., slice(0, edge)),
                "right": (..., slice(-edge, None)),
                "top": (slice(None), slice(0, edge)),
                "bottom": (slice(None), slice(-edge, None)),
            }[look.band]
            ground[part] = torch.tensor(BAND).view(3, 1, 1)
        return SpriteClip(look, ground, start + way, path[:, 2], width, colour)

    def _look(self, chance: Tensor) -> SpriteLook:
        motion, colour, ground = (_pick(known, chance[k]) for k, known in enumerate((self.motions, COLOURS, GROUNDS)))
        if (colour, ground) in FAINT:
            clear = [name for name in GROUNDS if (colour, name) not in FAINT]
            ground = _pick(clear, chance[3])
        shapes = [name for name in SHAPES if motion != "spin" or name not in ("ball", "ring")]
        size = _pick(("", *SIZES), chance[5]) if motion not in ("grow", "shrink") else ""
        texture = _pick(TEXTURES, chance[7]) if float(chance[6]) < 0.3 else ""
        band = _pick(EDGES, chance[9]) if float(chance[8]) < self.band_share else ""
        return SpriteLook(colour, _pick(shapes, chance[4]), ground, motion, size, texture, band,
                          float(chance[10]) < self.stripe_share)  # fmt: skip


def _pick(known, chance: Tensor) -> str:
    names = tuple(known)
    return names[min(int(float(chance) * len(names)), len(names) - 1)]
