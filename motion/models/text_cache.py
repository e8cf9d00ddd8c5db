"""What cross-attention reads of the prompts: keys and values of whole padded texts, or trimmed ones kept for a run.

Trimming is exact: padding carries a bias of -10000 in the masked form, whose weight is 0 in every number type. A text
whose mask is all 0 gets the same bias everywhere, which softmax does not see: all its tokens stay.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError

MASK_BIAS = -10000.0


class TextSpan(NamedTuple):
    """Neighbouring rows of a batch that are answered by one attention call."""

    rows: slice
    key: Tensor  # (rows, m, d), or (1, m, d) when all rows read one text
    value: Tensor
    mask: Tensor | None = None  # (rows, 1, 1, m), added to the scores


class MaskedText:
    """A batch of texts at their padded length; every block projects them anew. Gradients flow through it."""

    def __init__(self, states: Tensor, attention_mask: Tensor | None):
        self.states, self.mask = states, None
        if attention_mask is not None:
            self.mask = ((1 - attention_mask.to(states.dtype)) * MASK_BIAS)[:, None, None, :]

    def spans(self, attention) -> list[TextSpan]:
        """Keys and values for one block's CrossAttention."""
        key, value = attention.project_text(self.states)
        return [TextSpan(slice(0, self.states.shape[0]), key, value, self.mask)]


class TextCache:
    """Trimmed texts of one sampling run and, for every block that asked, their keys and values.

    Make one for a run and drop it afterwards: nothing in it notices weights that change. Rows are told apart by the
    caller's keys; equal keys must mean equal text and mask. The mask is read once a key, which waits for the device.
    """

    def __init__(self):
        self._states: dict[Hashable, Tensor | None] = {}  # None: a mask that is not of 0 and 1, not to be trimmed
        self._pairs: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._stacks: dict[tuple, tuple[Tensor, Tensor]] = {}

    def read(
        self, keys: tuple[Hashable, ...], context: Tensor, attention_mask: Tensor | None,
        embed: Callable[[Tensor], Tensor],
    ) -> "CachedText | None":  # fmt: skip
        """The batch's texts, embedded once a key; None where a mask has values between 0 and 1.

        keys: one a row. context (b, m, c), attention_mask (b, m). embed: (1, m', c) -> (1, m', d), token by token.
        Raises ShapeError when keys and rows differ in number.
        """
        if len(keys) != context.shape[0]:
            raise ShapeError(f"{len(keys)} text keys for {context.shape[0]} texts; give one key a row of the batch")
        for row, key in enumerate(keys):
            if key not in self._states:
                kept = _trimmed(context[row], None if attention_mask is None else attention_mask[row])
                self._states[key] = None if kept is None else embed(kept[None])
        if any(self._states[key] is None for key in keys):
            return None
        return CachedText(self, keys, _groups(keys, [self._states[key].shape[1] for key in keys]))

    def pair(self, keys: tuple[Hashable, ...], attention) -> tuple[Tensor, Tensor]:
        """Keys and values (number of keys, m, d) of texts of one length for one block's CrossAttention."""
        for key in keys:
            if (key, attention) not in self._pairs:
                self._pairs[key, attention] = attention.project_text(self._states[key])
        if len(keys) == 1:
            return self._pairs[keys[0], attention]
        if (keys, attention) not in self._stacks:
            parts = zip(*(self._pairs[key, attention] for key in keys))
            self._stacks[keys, attention] = tuple(torch.cat(part) for part in parts)
        return self._stacks[keys, attention]


class CachedText:
    """One batch's view of a TextCache."""

    def __init__(self, cache: TextCache, keys: tuple[Hashable, ...], groups: list[slice]):
        self.cache, self.keys, self.groups = cache, keys, groups

    def spans(self, attention) -> list[TextSpan]:
        """Keys and values for one block's CrossAttention; texts of one length that lie together share a call."""
        spans = []
        for rows in self.groups:
            keys = self.keys[rows]
            keys = keys[:1] if len(set(keys)) == 1 else keys
            spans.append(TextSpan(rows, *self.cache.pair(keys, attention)))
        return spans


def _trimmed(context: Tensor, mask: Tensor | None) -> Tensor | None:
    """The real tokens (m', c) of a text (m, c); all of them where the mask is empty; None for other masks than 0/1."""
    if mask is None:
        return context
    values = mask.tolist()
    if not set(values) <= {0, 1}:
        return None
    real = [place for place, value in enumerate(values) if value]
    if len(real) in (0, len(values)):
        return context
    if real[-1] - real[0] + 1 == len(real):
        return context[real[0] : real[-1] + 1]
    return context[torch.tensor(real, device=context.device)]


def _groups(keys: tuple[Hashable, ...], lengths: list[int]) -> list[slice]:
    """Runs of neighbouring rows of one length, as slices."""
    groups, start = [], 0
    for row in range(1, len(keys) + 1):
        if row == len(keys) or lengths[row] != lengths[start]:
            groups.append(slice(start, row))
            start = row
    return groups
