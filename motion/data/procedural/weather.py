"""Rain and snow in front of a picture: layers of drawn particles that fall through the window, nearer ones faster."""

import copy

import torch
from torch import Tensor

from .paint import Dice

KINDS = ("rain", "snow")
NUM_LAYERS = 2  # far and near
FALL = {"rain": 0.21, "snow": 0.028}  # sides a frame, far layer
DRIFT = {"rain": 0.010, "snow": 0.010}
OPACITY = {"rain": 0.75, "snow": 0.9}


class ParticlePool:
    """Periodic layers of opacity in [0, 1], drawn once from a seed.

    side: px of the period, twice the window. Lengths follow the window, so that 64 px and 128 px look alike.
    """

    def __init__(self, side: int, count: int = 16, seed: int = 0):
        self.side, self.count = side, count
        generator = torch.Generator().manual_seed(seed + 4242)
        self.layers = {kind: [torch.stack([self._draw(kind, 1 + 0.7 * layer, generator) for _ in range(count)])
                              for layer in range(NUM_LAYERS)] for kind in KINDS}

    def _draw(self, kind: str, near: float, generator: torch.Generator) -> Tensor:
        """One layer of streaks or flakes (side, side); nearer ones are larger and fewer."""
        unit, side = self.side / 256 * near, self.side
        across, down, size, strength = torch.rand(int(260 / near**2), 4, generator=generator).T
        reach = int((13 if kind == "rain" else 8) * unit) + 2
        offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
        columns, rows = ((place * side).floor().unsqueeze(1) + offset for place in (across, down))
        dx, dy = columns - (across * side).unsqueeze(1), rows - (down * side).unsqueeze(1)
        if kind == "rain":
            upright = (1 - (dy / ((8 + 5 * size) * unit).unsqueeze(1)).abs()).clamp_min(0)
            sideways = torch.exp(-0.5 * (dx / (1.0 * unit)) ** 2)
        else:
            width = ((1.4 + 1.0 * size) * unit).unsqueeze(1)
            upright, sideways = torch.exp(-0.5 * (dy / width) ** 2), torch.exp(-0.5 * (dx / width) ** 2)
        spots = upright.unsqueeze(2) * sideways.unsqueeze(1) * (0.55 + 0.45 * strength).view(-1, 1, 1)
        index = (rows.long() % side).unsqueeze(2) * side + (columns.long() % side).unsqueeze(1)
        layer = torch.zeros(side * side).scatter_reduce(0, index.flatten(), spots.flatten(), "amax")
        return layer.view(side, side)


class Weather:
    """Particles of one kind in front of b scenes; speed (b,) in [0, 1] says how many there are."""

    def __init__(self, kind: str, speed: Tensor, pool: ParticlePool, dice: Dice, rows: Tensor):
        self.kind, self.pool, self.speed = kind, pool, speed
        self.which = [dice.whole(pool.count)[rows] for _ in range(NUM_LAYERS)]
        self.start = [dice.roll(0, pool.side, 2)[rows] for _ in range(NUM_LAYERS)]
        self.lean = dice.roll(-1, 1)[rows]

    def at_speed(self, speed: Tensor) -> "Weather":
        """The same particles, as many as another speed says."""
        other = copy.copy(self)
        other.speed = speed
        return other

    def cover(self, frames: Tensor, size: int) -> Tensor:
        """How much of each pixel the particles hide: frames (b, t) -> (b, t, size, size). Thin at low speed.

        Frame 0 has none: it is the clear photo that is animated.
        """
        b, t = frames.shape
        side, step, out = self.pool.side, torch.arange(size), None
        for layer in range(NUM_LAYERS):
            near = 1 + 0.7 * layer
            down = self.start[layer][:, 1:] - FALL[self.kind] * near * size * frames
            wind = DRIFT[self.kind] * near * size * self.lean.unsqueeze(1)
            across = self.start[layer][:, :1] - wind * frames
            if self.kind == "snow":
                across = across + 0.015 * size * torch.sin(0.7 * frames + self.start[layer][:, :1])
            rows = (down.long().unsqueeze(2) + step) % side
            columns = (across.long().unsqueeze(2) + step) % side
            picked = self.pool.layers[self.kind][layer][self.which[layer]].flatten(1)  # (b, side²)
            index = (rows.unsqueeze(3) * side + columns.unsqueeze(2)).view(b, -1)
            seen = picked.gather(1, index).view(b, t, size, size)
            out = seen if out is None else torch.maximum(out, seen)
        density = ((0.35 + 0.65 * self.speed) * (self.speed > 0)).unsqueeze(1) * (frames > 0)
        return out * (density * OPACITY[self.kind])[:, :, None, None]
