"""Prompts on their way to the sampler: one that could not be read, and several motions where one is played.

A negative prompt of another graph ("blurry, ugly") says nothing to a vocabulary of motions, and at cfg 1 it is not even
looked at. So a prompt that cannot be read becomes a CONDITIONING that carries its refusal: as the positive prompt it
raises, as the negative one it counts as empty. Its own values are NaN, so that no node can mix it into another prompt
unnoticed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ...motion.errors import ConfigError
from ..host import conditions


@dataclass(frozen=True, eq=False)
class Unread:
    """Why a prompt could not be read, and what the encoder makes of the empty one."""

    refusal: str
    context: Tensor
    pooled: Tensor | None
    mask: Tensor | None


def refuse_unread(parts: Iterable[Mapping]) -> None:
    """Refuse a prompt that could not be read. parts: the dicts of a CONDITIONING. Raises ConfigError."""
    for part in parts:
        unread = conditions.read(part).unread
        if unread is not None:
            raise ConfigError(unread.refusal)


def settle_prompts(prompts: Mapping[str, list[dict]], *, one_motion: bool) -> list[str]:
    """Make a run's conditions ready: an unread negative prompt becomes the empty one. Returns lines to tell the user.

    prompts: a guider's own copies, which are written into. one_motion: refuse two motions that play at once.
    Raises ConfigError for other prompts that could not be read, and for two motions.
    """
    told = []
    for name, parts in prompts.items():
        if "negative" in name:
            told += [_emptied(part) for part in parts if conditions.read(part).unread is not None]
            continue
        refuse_unread(parts)
        if one_motion:
            refuse_two_motions(parts)
    return told


def refuse_two_motions(parts: Iterable[Mapping]) -> None:
    """Refuse prompts joined by Combine that the model would play through each other. Raises ConfigError.

    Prompts that are equal, that follow each other in time, or that each have an area or a mask of their own may stand
    together, as may a default one for what the others leave over.
    """
    for one, other in combinations(parts, 2):
        if not _is_apart(one, other) and any(map(_differ, _said(one), _said(other))):
            raise ConfigError(
                "two prompts were joined by Conditioning (Combine), which shows two videos through each other; "
                "write both motions into one prompt, such as 'pan left, zoom in', or give each its own steps with "
                "ConditioningSetTimestepRange or its own part of the picture with Conditioning (Set Mask)"
            )


def _emptied(part: dict) -> str:
    unread = part.pop(conditions.UNREAD)
    empty = {"cross_attn": unread.context, "pooled_output": unread.pooled, "attention_mask": unread.mask}
    part.update({name: value for name, value in empty.items() if value is not None})
    return f"the negative prompt is left out: {unread.refusal.partition(';')[0]}"


def _is_apart(one: Mapping, other: Mapping) -> bool:
    """Whether two prompts never act on one place in one step."""
    if one.get("default") or other.get("default"):
        return True
    if all("mask" in part or "area" in part for part in (one, other)):
        return True
    (start, end), (next_start, next_end) = _steps(one), _steps(other)
    return end <= next_start or next_end <= start


def _steps(part: Mapping) -> tuple[float, float]:
    """Share of the steps, from 0 to 1, in which a prompt acts: its own range within that of the encoder's hooks."""
    start = max(part.get("start_percent", 0.0), part.get("clip_start_percent", 0.0))
    return start, min(part.get("end_percent", 1.0), part.get("clip_end_percent", 1.0))


def _said(part: Mapping) -> tuple:
    """What makes two prompts differ: text, dynamics and start image."""
    told = conditions.read(part)
    return part.get("cross_attn"), part.get("pooled_output"), told.motion_bucket_id, told.first_latent


def _differ(one, other) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape != other.shape or not torch.equal(one.to(other), other)
    return one is not other and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)
