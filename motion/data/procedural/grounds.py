"""What lies behind sprites and puppets: plain textures with the name of a place, no two pictures alike."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .sprite_words import GROUNDS

BASE = {
    "sand": (0.84, 0.74, 0.54), "grass": (0.38, 0.56, 0.27), "snow": (0.90, 0.93, 0.97), "night": (0.08, 0.09, 0.22),
    "sky": (0.50, 0.73, 0.92), "bricks": (0.58, 0.33, 0.26),
}  # fmt: skip
CHANCES = 6  # numbers in [0, 1] that `paint_ground` takes beside its generator


def paint_ground(name: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A picture (3, h, w) in [0, 1] of one of GROUNDS."""
    assert name in GROUNDS, name
    shade, a, b, c, d, e = torch.rand(CHANCES, generator=generator).tolist()
    base = torch.tensor(BASE[name]).view(3, 1, 1) * (0.94 + 0.1 * shade)
    if name == "sand":
        change = 0.10 * (_clouds(height, width, 8, generator) - 0.5)
        wave = torch.sin(_rows(height, width, 0.15 + 0.25 * a) * (0.35 + 0.2 * b) + 6.3 * c + 10 * change)
        return (base + change + 0.035 * wave).clamp(0, 1)
    if name == "grass":
        streaks = _clouds(height, width, 4, generator, tall=3)
        return (base * (0.8 + 0.4 * streaks)).clamp(0, 1)
    if name == "snow":
        return (base - 0.14 * _clouds(height, width, 16, generator)).clamp(0, 1)
    if name == "sky":
        cloud = ((_clouds(height, width, 16, generator) - 0.45) * 2.5).clamp(0, 0.6)
        return (base + cloud * (0.97 - base)).clamp(0, 1)
    if name == "night":
        y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
        stars = torch.rand(round(height * width / 500), 3, generator=generator)
        place = stars[:, :2] * torch.tensor([float(width), float(height)])
        distance = (x - place[:, :1, None]).square() + (y - place[:, 1:2, None]).square()
        light = ((0.4 + 0.6 * stars[:, 2:, None]) * torch.exp(-distance / 1.8)).amax(0)
        return (base + light * (0.95 - base)).clamp(0, 1)
    high, wide = 8 + 3 * a, 15 + 5 * b
    y, x = torch.arange(height).float() / high + c, torch.arange(width).float() / wide + d
    row = y.floor()
    joint = 1.0 * ((y - row) * high < 1.6).view(-1, 1).expand(height, width)
    along = x.view(1, -1) + 0.5 * (row % 2).view(-1, 1)
    joint = torch.maximum(joint, 1.0 * ((along - along.floor()) * wide < 1.6))
    each = torch.sin(37.0 * row.view(-1, 1) + 91.0 * along.floor() + 50 * e)
    return (base * (1 + 0.08 * each) + 0.10 * joint).clamp(0, 1)


def _clouds(height: int, width: int, cell: int, generator: torch.Generator, *, tall: int = 1) -> Tensor:
    """Smooth noise (1, h, w) in [0, 1] with lumps of `cell` px, `tall` times as high."""
    rough = torch.rand(1, 1, height // (cell * tall) + 3, width // cell + 3, generator=generator)
    smooth = F.interpolate(rough, scale_factor=(cell * tall, cell), mode="bilinear")
    return smooth[0, :, :height, :width]


def _rows(height: int, width: int, slope: float) -> Tensor:
    return torch.arange(height).float().view(-1, 1) + slope * torch.arange(width).float()
