"""Where a sprite is in every frame, how far it has turned and how large it is, by motion word.

Lengths are px of a picture of 64 px a side, time is in frames. Nothing moves 3 px a frame or more, and what comes back
takes 8 frames or more: a codec that puts four frames into one latent cannot hold more.
"""

import math

import torch
from torch import Tensor

from ...errors import ConfigError
from .sprite_words import HELD_BACK, MOTIONS

FRAMES = 17  # that one-way motions fill
_WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


def sprite_path(motion: str, chance: Tensor, num_frames: int = FRAMES, room: float = math.inf) -> Tensor:
    """x and y from where it begins in px (down is positive), turn in radians (clockwise), size: (num_frames, 4).

    chance: (4,) in [0, 1], what this clip does of its own. room: px, the widest that a path may be. Raises ConfigError
    for a word that names no motion.
    """
    if motion not in MOTIONS and motion not in HELD_BACK:
        raise ConfigError(f"no motion of sprites is called {motion!r}; known: {', '.join((*MOTIONS, *HELD_BACK))}")
    n = torch.arange(num_frames, dtype=torch.float32)
    u = n / max(num_frames - 1, 1)
    path = torch.zeros(num_frames, 4)
    path[:, 3] = 1.0
    extent = min(26.0 + 8.0 * float(chance[0]), room)
    if motion in _WAYS:
        path[:, :2] = u.unsqueeze(1) * torch.tensor(_WAYS[motion]) * extent
    elif motion == "bounce":
        period = 10.0 + 3.0 * float(chance[1])
        path[:, 1] = -2.7 * period / math.pi * torch.sin(math.pi * n / period).abs()
    elif motion == "orbit":
        angle = 2 * math.pi * (n / 16 + float(chance[1]))
        ring = (6.4 + 0.9 * float(chance[2])) * torch.stack((angle.cos(), angle.sin()), 1)
        path[:, :2] = ring - ring[:1]
    elif motion == "spin":
        path[:, 2] = n * math.radians(9.5 + 1.5 * float(chance[1]))
    elif motion == "grow":
        path[:, 3] = 1.0 + u * (0.5 + 0.15 * float(chance[1]))
    elif motion == "shrink":
        path[:, 3] = 1.0 + (1 - u) * (0.5 + 0.15 * float(chance[1]))
    elif motion != "still":
        path[:, :2] = _held_back(motion, u, chance, extent)
    return path


def _held_back(motion: str, u: Tensor, chance: Tensor, extent: float) -> Tensor:
    """Offsets (t, 2) of the motions that no shipped model has seen."""
    if motion == "arc":  # half an ellipse from left to right
        angle, reach = math.pi * u, min(extent, 28.0) / 2
        return torch.stack((reach * (1 - angle.cos()), -11.0 * angle.sin()), 1)
    if motion == "corner":  # right, then down
        side = min(extent, 20.0)
        return torch.stack(((2 * u).clamp_max(1) * side, (2 * u - 1).clamp_min(0) * side), 1)
    if motion == "stairs":  # right and down in turn, four pieces of four frames
        side = min(extent, 20.0) / 2
        quarter = 4 * u
        x = quarter.clamp(0, 1) + (quarter - 2).clamp(0, 1)
        y = (quarter - 1).clamp(0, 1) + (quarter - 3).clamp(0, 1)
        return torch.stack((x, y), 1) * side
    if motion == "return":  # drifts to the right, waits, and comes back
        way = (1 - (2 * math.pi * u).cos()) / 2
        return torch.stack((way * min(extent, 13.0), torch.zeros_like(u)), 1)
    if motion == "pendulum":  # a wide swing to the right and back, lowest in the middle
        angle = 2 * math.pi * u
        reach = min(extent, 14.0)
        x = -reach / 2 * angle.cos()
        return torch.stack((x + reach / 2, 5.0 * (1 - (2 * x / reach).square())), 1)
    turn = math.pi / 2 * u + 2 * math.pi * float(chance[1])  # a quarter of a turn, further and further out
    reach = 4.0 + min(extent, 22.0) * u
    spiral = reach.unsqueeze(1) * torch.stack((turn.cos(), turn.sin()), 1)
    return spiral - spiral[:1]
