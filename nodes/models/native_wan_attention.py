"""Attention of the host's Wan in one call of the network: another in its place, or somebody who looks on.

The host asks one function for every attention, in `transformer_options`; packs and core's Model Attention Backend put
theirs there. Ours stands in a copy that lives for one call, lends itself on to what it found, and leaves nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from .native_wan_blocks import PLACE, patches_of

SLOT = "optimized_attention_override"  # the host's name for it; called with the attention it chose, then its arguments
BLOCK = "motionblocks_attention_of"  # in a block's transformer_options: its index, until its first attention has run

Watch = Callable[[int, Tensor, Tensor, Tensor, int], None]  # block, q, k, v of (b, n, heads * d), heads


def overridden(options: Mapping, ours: Callable) -> dict:
    """A copy of transformer_options in which `ours(attend, *args, **kwargs)` is asked for every attention.

    args and kwargs are the host's: q, k, v, heads and more. attend: what would have been asked without us, another's
    override or the host's own; it takes the same.
    """
    before = options.get(SLOT)

    def override(chosen: Callable, *args, **kwargs) -> Tensor:
        return ours(chosen if before is None else partial(before, chosen), *args, **kwargs)

    return {**options, SLOT: override}


def watched(options: Mapping, blocks: int, watch: Watch) -> dict:
    """A copy of transformer_options in which `watch` sees what the self-attention of each of `blocks` blocks reads.

    q and k are normalised and turned. Overrides and block patches that are there stay, and no bit of the answer
    changes. A block computed a second time, for gradients, is seen once; one whose pairs are weighed by adapters has
    more keys than queries, and one whose self-attention another pack computes by itself never asks: both are not seen.
    """

    def look(attend: Callable, *args, **kwargs) -> Tensor:
        told = kwargs.get("transformer_options", {}).get(BLOCK)
        if told:  # the first attention of a block is its self-attention, text and image follow
            index, (q, k, v) = told.pop(), args[:3]
            if q.shape[1] == k.shape[1]:
                watch(index, q, k, v, args[3] if len(args) > 3 else kwargs["heads"])
        return attend(*args, **kwargs)

    found = patches_of(options)
    tell = {(PLACE, index): _telling(index, found.get((PLACE, index))) for index in range(blocks)}
    replaced = {**options.get("patches_replace", {}), "dit": {**found, **tell}}
    return {**overridden(options, look), "patches_replace": replaced}


def _telling(index: int, before: Callable | None) -> Callable:
    """A block patch that only says which block runs: not every host does. before: another's, which it calls."""

    def patch(given: dict, extra: dict) -> dict:
        given = {**given, "transformer_options": {**given["transformer_options"], BLOCK: [index]}}
        return extra["original_block"](given) if before is None else before(given, extra)

    return patch
