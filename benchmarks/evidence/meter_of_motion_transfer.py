"""How far a drawn video moves like a clip, and what of the clip's unnamed looks it took over: for E11."""

from collections.abc import Sequence

import numpy as np
import torch
from pack.motion.data.procedural.sprite_meter import SeenSprite, see_sprite
from pack.motion.data.procedural.sprites import BAND, STRIPE, SpriteClip

SURE, WIDEST = 5, 9  # px of an edge that every band covers, and that none passes
NEAR = 0.38  # distance of a colour that counts as the band's
LEAST_SEEN = 12  # of 17 frames in which the meter must find the sprite


def at_edge(edge: str, wide: int) -> tuple:
    """Index of the pixels (…, h, w) that are less than so many px from an edge."""
    whole, low, high = slice(None), slice(0, wide), slice(-wide, None)
    return {"left": (..., low), "right": (..., high), "top": (..., low, whole), "bottom": (..., high, whole)}[edge]


def of_band(video: torch.Tensor) -> torch.Tensor:
    """Pixels (t, h, w) bool of a video (3, t, h, w) that have the band's colour."""
    return (video - torch.tensor(BAND).view(3, 1, 1, 1)).norm(dim=0) < NEAR


def without_band(video: torch.Tensor, edge: str) -> torch.Tensor:
    """The video with what looks like a band painted over, so that the meter does not take it for a sprite."""
    painted, middle = video.clone(), video.flatten(1).median(1).values
    part = painted[at_edge(edge, WIDEST)]
    part[:, of_band(part)] = middle.unsqueeze(1)
    return painted


def bridged(seen: SeenSprite) -> torch.Tensor | None:
    """The path (t, 2), straight across frames without a sprite; None where those are too many."""
    there = seen.path.isfinite().all(1)
    if int(there.sum()) < LEAST_SEEN:
        return None
    frames = np.arange(len(there))
    known = frames[there.numpy()]
    return torch.from_numpy(np.stack([np.interp(frames, known, seen.path[there, axis]) for axis in (0, 1)], axis=1))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6))


def measured(videos: torch.Tensor, clip: SpriteClip, asked: Sequence[str]) -> list[dict]:
    """A row a video: how far it moves like the clip, and what of its looks it took over."""
    rows, way = [], clip.path.double()
    for video, caption in zip(videos, asked):
        seen = see_sprite(without_band(video, clip.look.band))
        path = bridged(seen)
        row = {"seen": path is not None, "path": 0.0, "velocity": 0.0, "way": None, "stripe": 0.0}
        row["band"] = float(of_band(video[at_edge(clip.look.band, SURE)]).float().mean())
        row["clip's colour"] = seen.colour == clip.look.colour
        row["colour kept"], row["ground kept"] = seen.colour == caption.split()[0], seen.ground == caption.split()[-1]
        if path is not None:
            row["path"] = cosine(path - path.mean(0), way - way.mean(0))
            row["velocity"] = cosine(path.diff(dim=0), way.diff(dim=0))
            row["way"] = float(path.diff(dim=0).norm(dim=1).sum() / way.diff(dim=0).norm(dim=1).sum())
            row["stripe"] = striped(video, path)
        rows.append(row)
    return rows


def striped(video: torch.Tensor, path: torch.Tensor) -> float:
    """How cyan the pixels are around the sprite's middle, 6 px wide and 14 high; 1 is the stripe's own colour.

    Cyan is green and blue together above red: blue, purple, white, black and yellow have next to none of it.
    """
    x, y = (torch.arange(size) + 0.5 for size in (video.shape[3], video.shape[2]))
    across = (x - path[:, :1]).abs().unsqueeze(1) < 3
    down = (y - path[:, 1:]).abs().unsqueeze(2) < 7
    cyan = (torch.minimum(video[1], video[2]) - video[0]).clamp_min(0) / STRIPE[1]
    return float(cyan[across & down].mean())
