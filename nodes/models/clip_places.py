"""Which of the clip's frames a call of the network holds, and their places in the motion that was trained."""

import torch
from torch import Tensor

from ...motion.layers.frame_curve import FrameCurve, frame_curve
from ...motion.sampling.clip_places import clip_places

TIME = 2  # axis of a video latent


def frame_numbers(num_frames: int, options: dict) -> list[int]:
    """Numbers, in the whole clip, of the frames that this call holds: those of the host's context window, or all."""
    window = options.get("context_window")
    numbers = list(getattr(window, "index_list", ())) if getattr(window, "dim", None) == TIME else []
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and len(numbers) == num_frames - 1:
        numbers = [anchor, *numbers]
    return numbers if len(numbers) == num_frames else list(range(num_frames))


def places_of(
    numbers: list[int], clip: tuple[int, int, str], device: torch.device
) -> dict[str, Tensor | FrameCurve | None]:
    """Where these frames stand, as arguments of the network.

    clip: its frames, those that were trained on, and what a longer one does.
    """
    motion, detail = clip_places(*clip)[:, numbers]
    curve = frame_curve(motion)
    return {
        "frame_indices": motion.to(device), "detail_indices": detail.to(device),
        "curve": None if curve is None else curve.to(device),
    }  # fmt: skip
