"""What users should know of a stack of adapters before it is used."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..choices import PAPER
from ..sampling.schedules import shift_sigma
from .stack import AdapterStack, StackEntry

LOOSE_SUM = 0.25  # how far from 1 the weights may come together without a word
LOOKED_AT = 17  # places of a run, where weights follow it


def sum_note(total: float) -> str:
    """A sentence where the weights of motion adapters come to something far from 1, else ""."""
    if abs(total - 1) <= LOOSE_SUM:
        return ""
    return f"the weights of the motion adapters come to {total:g}; 1 is most stable"


def motion_entries(entries: Iterable[StackEntry]) -> tuple[StackEntry, ...]:
    """Those that act inside blocks; a LoRA's strength is its own."""
    return tuple(entry for entry in entries if entry.adapter.slots is not None)


def largest_sum(stack: AdapterStack, num_frames: int, grid: tuple[int, int]) -> float:
    """The most that weights of motion adapters come to at any step, frame and token. Arguments as `weights`.

    Raises ShapeError for masks of another number of frames.
    """
    inside = AdapterStack(motion_entries(stack.entries), stack.shift, stack.temporal_ratio)
    sums: list[float | Tensor] = []
    for place in range(LOOKED_AT):
        level = float(shift_sigma(1 - place / (LOOKED_AT - 1), stack.shift))
        sums.append(sum(inside.weights(level, num_frames, grid)))
    return max(float(torch.as_tensor(total).max()) for total in sums)


def replaces_text(stack: AdapterStack) -> bool:
    """Whether nothing is left of the text: adapters stand in its place whose weights come to 1 or more everywhere."""
    instead = [entry for entry in motion_entries(stack.entries)
               if entry.adapter.slots.instead_of_text is not None]  # fmt: skip
    if stack.form == PAPER:
        return bool(instead)
    whole = [entry.weight for entry in instead
             if not entry.step_curve and not entry.frame_curve and entry.mask is None]  # fmt: skip
    return sum(whole) >= 1
