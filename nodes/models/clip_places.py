"""Which of the clip's frames a call of the network holds, and their places in the motion that was trained."""

from torch import Tensor

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


def places_of(numbers: list[int], clip: tuple[int, int, str]) -> Tensor:
    """Where these frames stand: (2, t), the columns of `clip_places`.

    clip: its frames, those that were trained on, and what a longer one does.
    """
    return clip_places(*clip)[:, numbers]
