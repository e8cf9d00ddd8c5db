"""Where a clip's frames stand in the motion that a model was trained on, when the clip is longer than that.

A model trained on T frames knows the places 0 to T - 1. Up to T frames, a frame's place is its number. A longer clip
either spreads over the same places (the same move, slower), runs on beyond them (what the model does there was never
trained), or walks them to and fro. Detail that mixes neighbouring frames, rain and snow, wants whole places: there the
frame's number counts, held at the last place.
Frames between whole places are read off a curve: `layers/frame_curve.py`.
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
