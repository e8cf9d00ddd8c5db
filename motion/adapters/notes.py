"""What users should know of a stack of adapters before it is used."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..choices import PAPER
from ..foreign_json import parse_json
from ..sampling.schedules import shift_sigma, sigma_to_percent
from .curves import read_curve
from .stack import AdapterStack, StackEntry

LOOSE_SUM = 0.25  # how far from 1 the weights may come together without a word
LOOSE_LEVEL = 0.025  # how far outside its noise levels an adapter acts without a word: schedules cut near a border
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


def acts_at_all(entry: StackEntry) -> bool:
    """Whether weight and curves leave anything of an adapter, anywhere and at any time."""
    curves = read_curve(entry.step_curve), read_curve(entry.frame_curve)
    return bool(entry.weight) and all(any(value for _, value in curve.points) for curve in curves)


def trained_levels(metadata: Mapping[str, str]) -> tuple[float, float]:
    """The least and the largest noise level that an adapter's file was trained at; all, where it does not say."""
    try:
        told = parse_json(metadata.get("training", "{}"))
    except ValueError:
        return 0.0, 1.0
    found = tuple(told.get(name, whole) if isinstance(told, dict) else whole
                  for name, whole in (("sigma_min", 0.0), ("sigma_max", 1.0)))  # fmt: skip
    return found if all(type(value) in (int, float) for value in found) else (0.0, 1.0)


def levels_note(
    entry: StackEntry, name: str, levels: tuple[float, float], sampled: Sequence[float], shift: float
) -> str:  # fmt: skip
    """A sentence where an adapter acts at noise levels that its training left out, else "".

    levels: the least and the largest that were trained. sampled: sigmas of the calls of a run. shift: of its schedule.
    """
    low, high = levels[0] - LOOSE_LEVEL, levels[1] + LOOSE_LEVEL
    curve = read_curve(entry.step_curve)
    heard = [sigma for sigma in sampled if entry.weight and curve.at(sigma_to_percent(sigma, shift))]
    outside = sum(not low <= sigma <= high for sigma in heard)
    if not outside:
        return ""
    return (f"{name} was trained at noise levels {levels[0]:g} to {levels[1]:g}, and {outside} of {len(heard)} steps "
            "lie outside: of Wan 2.2 each expert has an adapter of its own, so connect it to the other expert, or the "
            "other file here")  # fmt: skip


def replaces_text(stack: AdapterStack) -> bool:
    """Whether nothing is left of the text: adapters stand in its place whose weights come to 1 or more everywhere."""
    instead = [entry for entry in motion_entries(stack.entries)
               if entry.adapter.slots.instead_of_text is not None]  # fmt: skip
    if stack.form == PAPER:
        return bool(instead)
    whole = [entry.weight for entry in instead
             if not entry.step_curve and not entry.frame_curve and entry.mask is None]  # fmt: skip
    return sum(whole) >= 1
