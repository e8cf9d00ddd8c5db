"""What is painted into a scene's first frame: objects, skies, waterfalls, water; and the pool of drawn textures.

Pictures are (b, 3, c, c) canvases whose first `size` rows and columns are the window; lengths are shares of `size`.
A brush gets canvas, texture, layout, window size and the scenes' own random numbers as a `Dice`; it returns a new
canvas.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError
from .fields import Layout, outline_distance, ramp
from .textures import canvases

COUNT = 160  # random numbers a scene


class Dice:
    """Uniform random numbers of a batch of scenes, drawn once and handed out column by column.

    Row k depends on generator k alone, so a scene is the same in whatever batch it is drawn.
    """

    def __init__(self, generators: list[torch.Generator]):
        self.numbers = torch.stack([torch.rand(COUNT, generator=generator) for generator in generators])
        self.used = 0

    def roll(self, low: float = 0.0, high: float = 1.0, count: int = 1) -> Tensor:
        """The next `count` columns as (b, count), or (b,) for one."""
        if self.used + count > self.numbers.shape[1]:
            raise ConfigError(f"a scene asks for more than its {self.numbers.shape[1]} random numbers; raise COUNT")
        values = self.numbers[:, self.used : self.used + count] * (high - low) + low
        self.used += count
        return values.squeeze(1) if count == 1 else values

    def part(self, rows: Tensor, columns: int) -> "Dice":
        """The next `columns` columns of some of the scenes, to be handed out on their own."""
        part = object.__new__(Dice)
        part.numbers, part.used = self.numbers[rows, self.used : self.used + columns], 0
        self.used += columns
        return part

    def whole(self, count: int) -> Tensor:
        """Whole numbers 0 to count - 1, (b,)."""
        return (self.roll() * count).long().clamp_max(count - 1)


class TexturePool:
    """Drawn periodic textures by number, each from a seed of its own; kept as bytes once drawn.

    side: px of a texture. count: how many different ones there are; scenes also shift, mirror and tint them.
    """

    GROUP = 4  # drawn at once

    def __init__(self, side: int, count: int = 512, seed: int = 0):
        self.side, self.count, self.seed = side, count, seed
        self._drawn: dict[int, Tensor] = {}

    def pick(self, index: Tensor) -> Tensor:
        """Textures (b, 3, side, side) float32 in [0, 1]."""
        return torch.stack([self._one(int(i) % self.count) for i in index]).float() / 255

    def _one(self, index: int) -> Tensor:
        if index not in self._drawn:
            first = index - index % self.GROUP
            generator = torch.Generator().manual_seed(self.seed * self.count + first + 77)
            drawn = (canvases(self.GROUP, self.side, generator) * 255).round().to(torch.uint8)
            self._drawn.update({first + k: drawn[k] for k in range(self.GROUP)})
        return self._drawn[index]


def varied(textures: Tensor, dice: Dice) -> Tensor:
    """Shift, mirror and re-colour textures, a row each."""
    b, _, side, _ = textures.shape
    step = torch.arange(side)
    rows, columns = (dice.roll(0, side, 2).long()[:, k : k + 1] + step for k in range(2))
    mirror, order = dice.roll() < 0.5, dice.whole(3)
    columns = torch.where(mirror[:, None], side - 1 - columns, columns) % side
    index = rows.remainder(side).unsqueeze(2) * side + columns.unsqueeze(1)  # (b, side, side)
    out = textures.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, 3, -1)).view_as(textures)
    turn = (torch.arange(3).unsqueeze(0) + order.unsqueeze(1)) % 3
    out = out.gather(1, turn.view(b, 3, 1, 1).expand_as(out))
    gain, lift = dice.roll(0.7, 1.2).view(-1, 1, 1, 1), dice.roll(-0.12, 0.12).view(-1, 1, 1, 1)
    return ((out - 0.5) * gain + 0.5 + lift).clamp(0, 1)


def places(canvas: Tensor, size: int) -> Tensor:
    """Where the canvas pixels lie in the window, in sides: (c, c, 2); the far half counts as left of and above it."""
    c = canvas.shape[-1]
    axis = (torch.arange(c, dtype=torch.float32) + 0.5) / size
    axis = torch.where(axis > (c / size + 1) / 2, axis - c / size, axis)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1)


def lay(canvas: Tensor, paint: Tensor, cover: Tensor) -> Tensor:
    """Paint over the canvas where cover (b, c, c) is 1."""
    return canvas + cover.unsqueeze(1) * (paint - canvas)


def paint_objects(canvas: Tensor, texture: Tensor, layout: Layout, size: int, dice: Dice) -> Tensor:
    """A shaded ball, box or egg at the layout's disc, brighter or darker than what lies behind it."""
    place = places(canvas, size).expand(len(canvas), -1, -1, -1)
    disc = layout.disc
    boxed, soft = dice.roll() < 0.35, dice.roll(0.6, 2.0).view(-1, 1, 1) / size
    x = (place[..., 0] - disc[:, 0].view(-1, 1, 1)) / disc[:, 2].view(-1, 1, 1)
    y = (place[..., 1] - disc[:, 1].view(-1, 1, 1)) / disc[:, 3].view(-1, 1, 1)
    box = (torch.maximum(x.abs(), y.abs()) - 0.88) * disc[:, 2:].amin(1).view(-1, 1, 1)
    distance = torch.where(boxed.view(-1, 1, 1), box, outline_distance(disc, place))
    cover = (0.5 - distance / soft).clamp(0, 1)
    behind = (canvas * cover.unsqueeze(1)).sum((2, 3)) / cover.sum((1, 2)).clamp_min(1e-3).unsqueeze(1)
    brighter = torch.where(behind.mean(1) < dice.roll(0.3, 0.7), 1.0, -1.0)
    colour = behind.mean(1, keepdim=True) + (brighter * dice.roll(0.25, 0.5)).unsqueeze(1)
    colour = colour + dice.roll(-0.35, 0.35, 3)
    height = torch.sqrt((1 - x * x - y * y).clamp_min(0))
    light = 0.75 + 0.5 * (0.6 * height - 0.5 * x * dice.roll(-1, 1).sign().view(-1, 1, 1) - 0.5 * y)
    shaded = dice.roll(0, 1).view(-1, 1, 1)
    light = 1 + shaded * (torch.where(boxed.view(-1, 1, 1), 1 - 0.15 * y, light) - 1)
    grain = dice.roll(0.0, 0.6).view(-1, 1, 1, 1) * (texture - texture.mean((2, 3), keepdim=True))
    stripes = torch.sin(6 * x + 4 * y * dice.roll(-1, 1).view(-1, 1, 1))
    stripes = stripes * dice.roll(-0.3, 0.2).clamp_min(0).view(-1, 1, 1)
    paint = (colour[:, :, None, None] + grain + stripes.unsqueeze(1)) * light.unsqueeze(1)
    return lay(canvas, paint.clamp(0, 1), cover)


def paint_ground(canvas: Tensor, texture: Tensor, layout: Layout, size: int, dice: Dice) -> Tensor:
    """Another texture below the horizon of the ground."""
    below = places(canvas, size)[..., 1] >= layout.ground[:, :1].unsqueeze(2)
    return lay(canvas, texture * dice.roll(0.7, 0.95).view(-1, 1, 1, 1), below.float())


def paint_sky(canvas: Tensor, texture: Tensor, layout: Layout, size: int, dice: Dice) -> Tensor:
    """A bright, soft sky with clouds above the skyline; what is below becomes darker."""
    c = canvas.shape[-1]
    line = F.interpolate(layout.skyline.unsqueeze(1), size=size, mode="nearest")[:, 0]
    line = torch.cat((line, line.flip(1)), 1)[:, :c]
    above = places(canvas, size)[..., 1].unsqueeze(0) - line.unsqueeze(1)
    cover = (0.5 - above * size / 1.5).clamp(0, 1)
    coarse = F.avg_pool2d(texture.mean(1, keepdim=True), 8)
    cloud = F.interpolate(F.pad(coarse, (1, 1, 1, 1), mode="circular"), scale_factor=8, mode="bilinear")
    cloud = cloud[..., 8:-8, 8:-8]
    cloud = (cloud - cloud.mean((2, 3), keepdim=True)) / cloud.std((2, 3), keepdim=True).clamp_min(0.02)
    top = torch.stack((dice.roll(0.3, 0.7), dice.roll(0.5, 0.8), dice.roll(0.65, 1.0)), 1)[:, :, None, None]
    top = torch.where((dice.roll() < 0.25).view(-1, 1, 1, 1), top.mean(1, keepdim=True), top)
    paint = top + 0.15 * places(canvas, size)[..., 1] + dice.roll(0.06, 0.2).view(-1, 1, 1, 1) * cloud
    darker = 1 - dice.roll(0.1, 0.5).view(-1, 1, 1, 1)
    return lay(canvas * darker, paint.clamp(0, 1), cover)


def paint_fall(canvas: Tensor, texture: Tensor, layout: Layout, size: int, dice: Dice) -> Tensor:
    """A pale band of upright streaks."""
    left, top, right, bottom = (layout.fall[:, k].view(-1, 1, 1) for k in range(4))
    x, y = places(canvas, size).unbind(-1)
    wave = 0.02 * torch.sin(9 * y + 6.28 * dice.roll().view(-1, 1, 1))
    inside = torch.minimum(torch.minimum(x + wave - left, right - x - wave), torch.minimum(y - top, bottom - y))
    cover = (inside * size / 3 + 0.5).clamp(0, 1) * dice.roll(0.75, 1.0).view(-1, 1, 1)
    streaks = F.avg_pool2d(F.pad(texture.mean(1, keepdim=True), (0, 0, 6, 6), mode="circular"), (13, 1), stride=1)
    streaks = (streaks - streaks.mean((2, 3), keepdim=True)) / streaks.std((2, 3), keepdim=True).clamp_min(0.02)
    tint = torch.stack((dice.roll(0.55, 0.85), dice.roll(0.6, 0.88), dice.roll(0.65, 0.92)), 1)[:, :, None, None]
    return lay(canvas, (tint + 0.13 * streaks).clamp(0, 1), cover)


def paint_water(canvas: Tensor, _texture: Tensor, layout: Layout, size: int, dice: Dice) -> Tensor:
    """Below the shore what is above it, upside down, darker and bluish, with level streaks."""
    c = canvas.shape[-1]
    y = places(canvas, size)[:, 0, 1]
    shore = layout.shore.view(-1, 1)
    source = ((2 * shore - y) * size).floor().long() % c
    mirrored = canvas.gather(2, source.view(len(canvas), 1, c, 1).expand_as(canvas))
    streaks = 0.05 * torch.sin(y * 90 + 3 * torch.sin(y * 17) + 6.28 * dice.roll().view(-1, 1))[:, None, :, None]
    tint = torch.stack((dice.roll(0.45, 0.75), dice.roll(0.6, 0.8), dice.roll(0.7, 0.95)), 1)[:, :, None, None]
    cover = ramp((y - shore) * size / 2 + 0.5)
    return lay(canvas, (mirrored * tint + streaks).clamp(0, 1), cover.unsqueeze(2).expand(-1, -1, c))


def letterboxed(canvas: Tensor, _texture: Tensor, _layout: Layout, size: int, dice: Dice) -> Tensor:
    """Mirror the window about two parallel lines, as a wide or tall photo looks after letterboxing."""
    margin = (dice.roll(0.06, 0.28) * size).long()
    inner = (size - 2 * margin).unsqueeze(1)
    upright = dice.roll() < 0.5
    index = torch.remainder(torch.arange(size) - margin.unsqueeze(1), 2 * inner)
    index = torch.where(index >= inner, 2 * inner - 1 - index, index) + margin.unsqueeze(1)
    straight = torch.arange(size).expand_as(index)
    rows, columns = torch.where(upright[:, None], index, straight), torch.where(upright[:, None], straight, index)
    flat = (rows.unsqueeze(2) * canvas.shape[-1] + columns.unsqueeze(1)).flatten(1)
    window = canvas.flatten(2).gather(2, flat.unsqueeze(1).expand(-1, 3, -1)).view(len(canvas), 3, size, size)
    out = canvas.clone()
    out[:, :, :size, :size] = window
    return out
