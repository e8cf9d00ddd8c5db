"""What a video of one sprite shows, told from its pixels alone: ground, colour, shape, and where the sprite is.

Made for plain sprites without the looks that captions do not name. The ground is what most pixels are near; the
sprite is the largest piece of what is far from it.
"""

from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from ...errors import ShapeError
from .grounds import BASE
from .sprite_words import COLOURS, SHAPES
from .sprites import outline

FAR = 0.32  # of a pixel's colour from the ground's, for the sprite
MIDDLE = {**BASE, "snow": (0.83, 0.86, 0.90)}  # of what most pixels of a ground have
CLOUDED, WHITE = {"sky": 0.6}, 0.97  # how far a ground's colour goes towards white, all over
LEAST = 30  # pixels of a sprite; less is none


@dataclass(frozen=True)
class SeenSprite:
    """colour and shape are "" where no frame shows a sprite."""

    ground: str
    colour: str
    shape: str
    path: Tensor  # (t, 2): x and y of the middle, px; NaN in frames without a sprite
    area: Tensor  # (t,), px

    @property
    def moved(self) -> Tensor:
        """Way from the first frame to the last, (2,) px."""
        return self.path[-1] - self.path[0]


def see_sprite(video: Tensor) -> SeenSprite:
    """video (3, t, h, w) in [0, 1]. Raises ShapeError."""
    if video.ndim != 4 or video.shape[0] != 3:
        raise ShapeError(f"the video is {tuple(video.shape)}; (3, t, h, w) is needed")
    middle = video.flatten(1).median(1).values
    ground = min(MIDDLE, key=lambda name: float(_off(video, name, torch.tensor(MIDDLE[name])).clamp_max(FAR).mean()))
    pieces = [_largest(far) for far in (_off(video, ground, middle) > FAR)]
    mask = torch.stack(pieces)
    area = mask.sum((1, 2)).float()
    y, x = (torch.arange(size, dtype=torch.float32) + 0.5 for size in video.shape[2:])
    path = torch.stack(((mask * x).sum((1, 2)), (mask * y.unsqueeze(1)).sum((1, 2))), 1) / area.unsqueeze(1)
    if not mask.any():
        return SeenSprite(ground, "", "", path, area)
    colour = _nearest(video[:, mask].median(1).values, COLOURS)
    return SeenSprite(ground, colour, _shape(mask, path, area, y, x), path, area)


def _off(colours: Tensor, ground: str, middle: Tensor) -> Tensor:
    """How far colours (3, …) are from what a ground shows: its middle, or in the sky all from blue to a cloud."""
    base = torch.tensor(BASE[ground]) if ground in CLOUDED else middle
    way = CLOUDED.get(ground, 0.0) * (WHITE - base)
    from_base = colours - base.view(3, *[1] * (colours.ndim - 1))
    share = torch.tensordot(way, from_base, dims=1) / way.square().sum().clamp_min(1e-9)
    return (from_base - way.view(3, *[1] * (colours.ndim - 1)) * share.clamp(0, 1)).norm(dim=0)


def _largest(far: Tensor) -> Tensor:
    """The largest piece of a mask (h, w); nothing where that is too small."""
    labels, count = ndimage.label(far.numpy())
    if not count:
        return torch.zeros_like(far)
    sizes = torch.bincount(torch.from_numpy(labels).flatten().long())[1:]
    best = int(sizes.argmax())
    return torch.from_numpy(labels == best + 1) & bool(sizes[best] >= LEAST)


def _nearest(colour: Tensor, known: dict[str, tuple[float, ...]]) -> str:
    return min(known, key=lambda name: float((colour - torch.tensor(known[name])).norm()))


def _shape(mask: Tensor, path: Tensor, area: Tensor, y: Tensor, x: Tensor) -> str:
    """The shape whose upright drawing of the same area covers the masks best."""
    shown = area > 0
    mask, path, area = mask[shown], path[shown], area[shown]
    across = x - path[:, 0].view(-1, 1, 1)
    down = y.view(-1, 1) - path[:, 1].view(-1, 1, 1)
    overlaps = {}
    for shape in SHAPES:
        radius = (area / _unit_area(shape)).sqrt().view(-1, 1, 1)
        drawn = outline(shape, across / radius, down / radius) <= 0
        overlaps[shape] = float(((drawn & mask).sum((1, 2)) / (drawn | mask).sum((1, 2))).mean())
    return max(overlaps, key=overlaps.get)


def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1."""
    places = torch.linspace(-1.3, 1.3, 131)
    return float((outline(shape, *torch.meshgrid(places, places, indexing="xy")) <= 0).float().mean()) * 2.6**2
