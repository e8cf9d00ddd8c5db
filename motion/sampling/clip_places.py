"""Where a clip's frames stand in the motion that a model was trained on, when the clip is longer than that.

A model trained on T frames knows the places 0 to T - 1. Up to T frames, a frame's place is its number. A longer clip
either spreads over the same places (the same move, slower), runs on beyond them (what the model does there was never
trained), or walks them to and fro. Detail that mixes neighbouring frames, rain and snow, wants whole places: there the
frame's number counts, held at the last place.

Each frame's flow trembles a little with its own noise. Between neighbours a whole place apart that is nothing; an
eighth of a place apart it is as much as the step itself. What was trained says how a motion passes whole places only,
so the frames between them are held to the smooth curve through those: `between_places`.
"""

import torch
from torch import Tensor

from ..choices import GO_ON, LONGER, SAME_MOVE
from ..errors import ConfigError


def clip_places(num_frames: int, trained_frames: int, longer: str = GO_ON) -> Tensor:
    """Places of a whole clip's frames: (2, num_frames) float32; row 0 for motion, row 1 for detail, whole numbers.

    longer: one of LONGER; without effect up to trained_frames. Raises ConfigError for another word.
    """
    if longer not in LONGER:
        raise ConfigError(f"longer is {str(longer)[:60]!r}; it must be one of: {', '.join(LONGER)}")
    numbers = torch.arange(num_frames, dtype=torch.float32)
    last = trained_frames - 1
    if num_frames <= trained_frames or longer == GO_ON:
        return torch.stack((numbers, numbers))
    if longer == SAME_MOVE:
        motion = torch.linspace(0, last, num_frames, dtype=torch.float64).float()
    else:
        motion = last - (numbers.remainder(2 * last) - last).abs() if last else torch.zeros_like(numbers)
    return torch.stack((motion, numbers.clamp(max=last)))


def between_places(motion: Tensor) -> Tensor | None:
    """What brings the flow of frames at these places to the nearest cubic spline with a knot at each whole place.

    motion: (t,), row 0 of `clip_places` or a part of it. Returns (t, t) float32, to be multiplied from the left, or
    None where all places are whole or fewer than three knots are needed. At place 0 the curve is 0, as the flow is.
    """
    from scipy.interpolate import CubicSpline

    places = motion.double().cpu()
    first, last = int(places.min().floor()), int(places.max().ceil())
    if bool((places == places.round()).all()) or last - first < 2:
        return None
    knots = torch.arange(first, last + 1).double()
    curves = torch.from_numpy(CubicSpline(knots.numpy(), torch.eye(len(knots)).double().numpy())(places.numpy()))
    curves = curves[:, 1:] if first == 0 else curves
    return (curves @ torch.linalg.pinv(curves)).float()
