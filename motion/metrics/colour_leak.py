"""How far a clip takes over the colours of another: shares of the picture, in what the eye tells apart."""

import torch
from torch import Tensor

from .colour import srgb_to_lab
from .motion_track import shrink

STEP = 20.0  # Lab units from one place of the histogram to the next
LOWEST, COUNTS = (0.0, -120.0, -120.0), (6, 13, 13)  # of L, a and b
FRAMES, SIDE = 12, 128  # looked at of a clip, evenly apart; px of their short side


def colour_shares(frames: Tensor) -> Tensor:
    """Which share of a clip each colour has: (6, 13, 13) float64 over L, a and b, coming to 1.

    frames: (t, h, w, 3) in [0, 1]. A colour between two places counts for both by its nearness, so that a small change
    of colour is a small change of the shares.
    """
    chosen = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().long()
    small = shrink(frames[chosen], SIDE)[0]
    place = (srgb_to_lab(small.reshape(-1, 3).double()) - torch.tensor(LOWEST, dtype=torch.float64)) / STEP
    last = torch.tensor(COUNTS, dtype=torch.float64) - 1
    place = torch.minimum(place.clamp_min(0), last)
    low = torch.minimum(place.floor(), last - 1)
    share = place - low
    shares = torch.zeros(COUNTS, dtype=torch.float64)
    strides = torch.tensor((COUNTS[1] * COUNTS[2], COUNTS[2], 1))
    for corner in range(8):
        up = torch.tensor([corner >> axis & 1 for axis in range(3)], dtype=torch.float64)
        weight = (up * share + (1 - up) * (1 - share)).prod(dim=1)
        shares.view(-1).index_add_(0, ((low + up).long() * strides).sum(dim=1), weight)
    return shares / len(place)


def colours_in_common(a: Tensor, b: Tensor) -> float:
    """Share of two clips' pictures whose colours can be paired, 0 to 1. a, b: as `colour_shares` gives them."""
    return float(torch.minimum(a, b).sum())


def colour_leak(made: Tensor, source: Tensor, base: Tensor | None = None) -> float | None:
    """How far `made` has the colours of `source`: 0 none, 1 all. Arguments as `colour_shares` gives them.

    base: of what the model makes without having seen the source, from the same words and noise. Then what base has in
    common with the source anyway counts as 0, and less than that is below 0; None where base has all of it.
    """
    common = colours_in_common(made, source)
    if base is None:
        return common
    anyway = colours_in_common(base, source)
    return None if anyway > 1 - 1e-9 else (common - anyway) / (1 - anyway)
