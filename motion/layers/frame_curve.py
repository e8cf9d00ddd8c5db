"""A motion known at whole places only, and the smooth curve on which the frames between them pass.

What was trained says how a motion passes whole places. A network that is asked for places between them answers each
frame with a tremble of its own noise; an eighth of a place apart that is as much as the step itself. So it is asked at
the whole places, and the flow of the frames between is read off the cubic spline through its answers. A clip of any
length costs the network what the trained one does.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class FrameCurve(NamedTuple):
    """Which frames of a clip a network sees, as what places, and how all frames follow from its answers."""

    frames: Tensor  # (k,) long: the frame nearest to each place
    places: Tensor  # (k,) float32, whole numbers, rising
    weights: Tensor  # (t, k) float32: values at the clip's frames = weights · values at the places

    def to(self, device: torch.device) -> "FrameCurve":
        """The same on another device."""
        return FrameCurve(*(part.to(device) for part in self))

    def along(self, values: Tensor) -> Tensor:
        """Values (b, c, k, h, w) at the places -> (b, c, t, h, w) at the clip's frames."""
        return torch.einsum("tk,bckhw->bcthw", self.weights.to(values), values)


def frame_curve(motion: Tensor) -> FrameCurve | None:
    """The cubic spline (not-a-knot) through the whole places around these frames.

    motion: (t,) places of frames, row 0 of `clip_places` or a part of it. Returns None where all are whole, or where
    fewer than three whole places stand around them.
    """
    places = motion.double().cpu()
    knots = torch.cat((places.floor(), places.ceil())).unique()
    if bool((places == places.round()).all()) or len(knots) < 3:
        return None
    from scipy.interpolate import CubicSpline

    weights = CubicSpline(knots.numpy(), torch.eye(len(knots)).double().numpy())(places.numpy())
    nearest = (places - knots.unsqueeze(1)).abs().argmin(dim=1)
    return FrameCurve(nearest, knots.float(), torch.from_numpy(weights).float())
