"""Procedural clips of every motion word, at any size: pictures, true backward flow, object masks, captions.

A scene is a large periodic canvas with an object, a sky, a waterfall or water painted into it. Frame 0 is an unsampled
window of the canvas; frame n is the canvas read along the flow of the scene's words, on the same grid and with the
same spline that the codec plays a flow with. So the flow is the truth, not an estimate, and rain and snow are all that
it does not explain. Nothing is photographed; the words only say what was done to the scene.
"""

from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from ...errors import ConfigError
from ...layers.letterbox import Letterbox
from ...layers.warp import resample_flow
from . import paint
from .fields import AXES, OBJECT_WORDS, PICTURE_WORDS, REGION_WORDS, Layout, grid_places, motion_field, object_weight
from .paint import Dice, TexturePool
from .textures import sample_periodic
from .weather import KINDS, ParticlePool, Weather

CELL = 4  # px of a flow cell
WORDS = (*AXES, "still", *OBJECT_WORDS, *REGION_WORDS, *PICTURE_WORDS, *KINDS)
SHARES = {"camera": 0.18, "object": 0.42, "region": 0.12, "picture": 0.06, "weather": 0.18, "still": 0.04}
PAIR_SHARE = 0.3  # camera words that get a second one
GROUPS = {"camera": tuple(AXES), "object": OBJECT_WORDS, "region": REGION_WORDS, "picture": PICTURE_WORDS,
          "weather": KINDS, "still": ("still",)}


class SceneSource:
    """Draws scenes of one size; holds the textures and particles they are made of.

    size: side of the window, px, a multiple of 16. num_textures: different textures before they repeat, mirrored,
    shifted and tinted otherwise. Deterministic: a scene depends on its generator, the size and the source's seed.
    """

    def __init__(self, size: int = 128, *, num_textures: int = 512, seed: int = 0, words: tuple[str, ...] = WORDS):
        if size < 32 or size % 16:
            raise ConfigError(f"size is {size}; scenes need a multiple of 16, at least 32 px")
        _check_words(words)
        self.size, self.words = size, words
        self.textures = TexturePool(3 * size // 2, num_textures, seed)
        self.particles = ParticlePool(2 * size, seed=seed)

    def draw(self, generators: list[torch.Generator], *, captions: list[str] | None = None) -> "SceneBatch":
        """One scene a generator, with random words or the given caption each. Raises ConfigError for other words."""
        dice = Dice(generators)
        chance = dice.roll(0, 1, 6)
        if captions is None:
            captions = [draw_caption(row, self.words) for row in chance.tolist()]
        words = [_check_words(caption.split(", ")) for caption in captions]
        speed = 0.08 + 0.92 * dice.roll() ** 1.2
        layout = _draw_layout(dice, self.size // CELL)
        has = {group: torch.tensor([any(word in GROUPS.get(group, (group,)) for word in row) for row in words])
               for group in ("object", "clouds", "waterfall", "ripple", "camera", "weather")}
        layout = replace(layout, ground=layout.ground * has["camera"].unsqueeze(1))
        canvas = self._paint(layout, has, dice)
        weather = {}
        for kind in KINDS:
            rows = torch.tensor([kind in row for row in words])
            weather[kind] = rows, Weather(kind, speed[rows], self.particles, dice, rows)
        return SceneBatch(self.size, canvas, layout, speed, captions, weather)

    def _paint(self, layout: Layout, has: dict[str, Tensor], dice: Dice) -> Tensor:
        """Canvases (b, 3, 1.5·size, 1.5·size) with what the words need, and at times with what they do not."""
        size = self.size
        canvas = paint.varied(self.textures.pick(dice.whole(self.textures.count)), dice)
        other = self.textures.pick(dice.whole(self.textures.count))
        extra = {group: dice.roll() < share for group, share in
                 (("clouds", 0.2), ("ripple", 0.12), ("waterfall", 0.07), ("object", 0.45))}
        plain = ~(has["clouds"] | has["waterfall"] | has["ripple"])
        wanted = {group: (has[group] | (extra[group] & plain)) for group in extra}
        grounded = layout.ground[:, 1] > 0
        boxed = (dice.roll() < 0.2) & plain & ~has["object"] & ~grounded
        for brush, rows in (
            (paint.paint_ground, grounded), (paint.paint_sky, wanted["clouds"]),
            (paint.paint_fall, wanted["waterfall"]), (paint.paint_water, wanted["ripple"]),
            (paint.letterboxed, boxed), (paint.paint_objects, wanted["object"]),
        ):  # fmt: skip
            part = dice.part(rows, 12)
            if rows.any():
                canvas[rows] = brush(canvas[rows], other[rows], layout.rows(rows), size, part)
        return canvas


@dataclass(frozen=True)
class SceneBatch:
    """A batch of b scenes; made by `SceneSource.draw`."""

    size: int
    canvas: Tensor  # (b, 3, 1.5·size, 1.5·size)
    layout: Layout
    speed: Tensor  # (b,) share of each word's full speed
    captions: list[str]
    weather: dict[str, tuple[Tensor, Weather]] = field(default_factory=dict)

    def at_speed(self, speed: Tensor) -> "SceneBatch":
        """The same scenes at other speeds (b,), 0 to 1; 0 = nothing moves or falls."""
        weather = {kind: (rows, weather.at_speed(speed[rows])) for kind, (rows, weather) in self.weather.items()}
        return replace(self, speed=speed, weather=weather)

    def flow(self, frames: Tensor) -> Tensor:
        """Backward flow in px at frame indices (b, t): (b, t, 2, size/4, size/4)."""
        cells = self.size // CELL
        total = torch.zeros(*frames.shape, cells, cells, 2)
        for word in WORDS:
            rows = torch.tensor([word in caption.split(", ") for caption in self.captions])
            if rows.any() and word not in ("still", *KINDS):
                single = torch.tensor(["," not in caption for caption in self.captions])[rows]
                speed = self.speed[rows] * torch.where(single, 1.0, 0.75)
                total[rows] += motion_field(word, frames[rows], speed, self.layout.rows(rows), cells)
        return rearrange(total * self.size, "b t h w c -> b t c h w")

    def render(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the scenes at frame indices (b, t): pictures (b, 3, t, size, size) in [0, 1], and `flow`."""
        b, t = frames.shape
        flow = self.flow(frames)
        dense = resample_flow(flow.flatten(0, 1), Letterbox(self.size, self.size, self.size))
        axis = torch.arange(self.size, dtype=torch.float32)
        place = torch.stack((dense[:, 0] + axis, dense[:, 1] + axis.unsqueeze(1)), -1)
        pictures = sample_periodic(self.canvas, place.unflatten(0, (b, t)))
        for rows, weather in self.weather.values():
            if rows.any():
                cover = weather.cover(frames[rows], self.size).unsqueeze(1)
                pictures[rows] = pictures[rows] + cover * (0.95 - pictures[rows])
        return pictures.clamp(0, 1), flow

    def moving(self, frames: Tensor) -> Tensor:
        """Where something moves at all, as a share of each flow cell: (b, t, size/4, size/4) of 0 or 1."""
        return (self.flow(frames).abs().amax(2) > 0.002 * self.size).float()

    def object_mask(self) -> Tensor:
        """Where the object is in frame 0, 0 to 1: (b, size/4, size/4); for scenes whose words move an object."""
        places = grid_places(self.size // CELL).expand(len(self.captions), 1, -1, -1, -1)
        has = torch.tensor([any(word in OBJECT_WORDS for word in caption.split(", ")) for caption in self.captions])
        return object_weight(self.layout.disc, places, 0.01)[:, 0] * has.view(-1, 1, 1)


def draw_caption(chance: list[float], words: tuple[str, ...] = WORDS) -> str:
    """A caption from six uniform numbers: one word, or a camera word with a second one."""
    groups = {group: [word for word in members if word in words] for group, members in GROUPS.items()}
    shares = {group: SHARES[group] for group, members in groups.items() if members}
    mark, chosen = chance[0] * sum(shares.values()), next(iter(shares))
    for group, share in shares.items():
        if mark < share:
            chosen = group
            break
        mark -= share
    first = _choose(groups[chosen], chance[1])
    if chosen != "camera" or chance[2] > PAIR_SHARE:
        return first
    others = [word for word in groups["camera"] if AXES[word][0] != AXES[first][0]]
    if chance[3] < 0.5:
        others = [word for group in ("object", "region", "weather") for word in groups.get(group, ())] or others
    return ", ".join(sorted({first, _choose(others, chance[4])}, key=WORDS.index)) if others else first


def _choose(options: list[str], chance: float) -> str:
    return options[min(int(chance * len(options)), len(options) - 1)]


def _check_words(words) -> list[str]:
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ConfigError(f"motions {unknown[:5]} are not known; scenes can be drawn for: {', '.join(WORDS)}")
    return list(words)


def _draw_layout(dice: Dice, cells: int) -> Layout:
    """Random places of everything a scene may have."""
    radius = dice.roll(0.10, 0.20)
    long = torch.exp(dice.roll(-0.35, 0.35))
    disc = torch.stack((dice.roll(0.25, 0.75), dice.roll(0.25, 0.75), radius * long, radius / long), 1)
    line = dice.roll(0.35, 0.68).unsqueeze(1)
    axis = torch.arange(cells) / cells
    wave = torch.sin(axis * dice.roll(2, 9).unsqueeze(1) + 6.28 * dice.roll().unsqueeze(1))
    line = line + dice.roll(0.0, 0.06).unsqueeze(1) * wave
    for _ in range(3):  # towers and trees
        left, wide, high = dice.roll(-0.1, 0.95), dice.roll(0.05, 0.2), dice.roll(0.0, 0.3)
        inside = (axis >= left.unsqueeze(1)) & (axis < (left + wide).unsqueeze(1))
        line = line - inside * high.unsqueeze(1)
    middle, wide, top = dice.roll(0.25, 0.75), dice.roll(0.08, 0.2), dice.roll(-0.1, 0.25)
    fall = torch.stack((middle - wide, top, middle + wide, dice.roll(0.7, 1.05)), 1)
    shore = dice.roll(0.35, 0.65)
    ground = torch.stack((dice.roll(0.3, 0.7), dice.roll(0.3, 1.0) * (dice.roll() < 0.3)), 1)
    return Layout(disc, line.clamp_min(0.08), fall, shore, ground)
