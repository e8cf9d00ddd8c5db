"""A Wan block, run from its layers with adapters in its places: the one formula for our blocks and for the host's.

Both have layers of the same names; what differs is how they are called, which the caller says in `BlockCalls`.
Tokens are (b, n, d), n = t·h·w, frame by frame; adapters see them as (b, t, h·w, d).
Source: Wan, arXiv 2503.20314, Sec. 4.2, and its published code.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..block_adapters import AttentionSite, BlockAdapters, LayerAtSite, PairWeights, TokenSite
from ..subject_masks import SubjectMasks
from .pair_weights import weighed_softmax
from .rotary import WanRotary

Answer = Callable[[Tensor], Tensor]  # (b, n, d) -> (b, n, d)


class BlockCalls(NamedTuple):
    """How the layers of one block are called.

    self_attention, cross_attention: the modules as a whole; the first takes tokens normed and modulated, the second
    normed ones. turn: normed queries or keys, to their places. attend: softmax attention of (b, n, d) or wider, before
    `o`. feed_forward: of normed and modulated tokens. may_open: whether the parts of `self_attn` are all that its call
    does. attended: what is done to attention's answer before `o`, given turned queries and keys. read: what is done to
    the tokens once the text has been read.
    """

    self_attention: Answer
    turn: Answer
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    cross_attention: Answer
    feed_forward: Answer
    may_open: bool = True
    attended: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    read: Answer | None = None


class WanAround(NamedTuple):
    """What adapters are told of a call: `Around` of block_adapters."""

    embedding: Tensor  # (b, t or 1, d), of the timestep
    grid: tuple[int, int]
    rotary: WanRotary
    kernels: str
    block: int
    masks: SubjectMasks | None = None


class BlockRows(NamedTuple):
    """One block's shifts, scales and gates, (b, t or 1, d) each."""

    attention_shift: Tensor
    attention_scale: Tensor
    attention_gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


def block_rows(block: nn.Module, modulation: Tensor) -> BlockRows:
    """The block's table added to what the noise level says: modulation (b, t or 1, 6, d)."""
    return BlockRows(*(block.modulation.to(modulation) + modulation).unbind(2))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift; x (b, n, d), the rows (b, t or 1, d)."""
    by_frame = x.unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift.unsqueeze(2), by_frame, 1 + scale.unsqueeze(2)).flatten(1, 2)


def gated_sum(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate · y; x and y (b, n, d), gate (b, t or 1, d)."""
    frames = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), gate.unsqueeze(2)).flatten(1, 2)


def check_places(adapters: BlockAdapters | None) -> None:
    """Refuse adapters in a place that a Wan block lacks. Raises ConfigError."""
    if adapters is not None and adapters.temporal is not None:
        raise ConfigError(
            "an adapter stands beside attention along the frames; Wan has one attention for space and time; use a "
            "LinearVideo model, or an adapter made for Wan"
        )


def run_wan_block(
    block: nn.Module, x: Tensor, modulation: Tensor, calls: BlockCalls, adapters: BlockAdapters | None,
    around: WanAround,
) -> Tensor:  # fmt: skip
    """Tokens (b, n, d) -> tokens (b, n, d). block: `WanBlock`, or the host's block, which has the same layers.

    Raises ConfigError for adapters that weigh pairs of an attention that somebody else has replaced.
    """
    adapters = adapters or BlockAdapters()
    rows = block_rows(block, modulation)
    heard = modulated(block.norm1(x), rows.attention_shift, rows.attention_scale)
    heard = _self_attention(block.self_attn, heard, calls, adapters, around)
    x = gated_sum(x, heard, rows.attention_gate)
    del heard
    x = x + _text(block, block.norm3(x), calls, adapters, around)
    if calls.read is not None:
        x = calls.read(x)
    answer = calls.feed_forward(modulated(block.norm2(x), rows.ffn_shift, rows.ffn_scale))
    return gated_sum(x, answer, rows.ffn_gate)


def _self_attention(
    attention: nn.Module, h: Tensor, calls: BlockCalls, adapters: BlockAdapters, around: WanAround
) -> Tensor:
    """What self-attention and the adapters beside it answer to h (b, n, d)."""
    beside, bias = adapters.beside_self_attention, adapters.attention_bias
    if beside is None and bias is None:
        return calls.self_attention(h)
    tokens, layer = _by_frame(h, around), _at_site(attention, calls.self_attention)
    weights = None if bias is None else bias(TokenSite(tokens, layer, around))
    if weights is not None and not calls.may_open:
        raise ConfigError(
            "an adapter weighs which tokens meet in Wan's self-attention, and another node has replaced that: remove "
            "the other node, or the mask bias of the adapter"
        )
    if beside is None and weights is None:
        return calls.self_attention(h)
    unnormed = attention.q(h)
    query, key, value = attention.norm_q(unnormed), attention.norm_k(attention.k(h)), attention.v(h)
    if calls.may_open:
        result = attention.o(_mixed(query, key, value, weights, attention.num_heads, calls))
    else:
        result = calls.self_attention(h)
    if beside is None:
        return result

    def in_frames(part: Tensor) -> Tensor:
        return _by_frame(part, around).flatten(0, 1)

    heads = [in_frames(part).unflatten(-1, (attention.num_heads, -1)) for part in (query, key, value)]
    site = AttentionSite(tokens, in_frames(unnormed), *heads, None, _by_frame(result, around), layer, around)
    more = beside(site)
    return result if more is None else result + more.flatten(1, 2)


def _mixed(
    query: Tensor, key: Tensor, value: Tensor, weights: PairWeights | None, num_heads: int, calls: BlockCalls
) -> Tensor:
    """Attention over the video, (b, n, d), before `o`; query and key normed, not yet turned."""
    query, key = calls.turn(query), calls.turn(key)
    if weights is None:
        mixed = calls.attend(query, key, value)
    else:
        mixed = weighed_softmax(query, key, value, weights, num_heads, calls.attend)
    return mixed if calls.attended is None else calls.attended(mixed, query, key)


def _text(block: nn.Module, h: Tensor, calls: BlockCalls, adapters: BlockAdapters, around: WanAround) -> Tensor:
    """What is added to the tokens for the text: that of the text attention, or of the adapter in its place."""
    answer = None
    if adapters.instead_of_text is not None:
        layer = _at_site(block.cross_attn, calls.cross_attention)
        answer = adapters.instead_of_text(TokenSite(_by_frame(h, around), layer, around))
    return calls.cross_attention(h) if answer is None else answer.flatten(1, 2)


def _by_frame(x: Tensor, around: WanAround) -> Tensor:
    """(b, t·h·w, d) -> (b, t, h·w, d)."""
    return x.unflatten(1, (-1, around.grid[0] * around.grid[1]))


def _at_site(module: nn.Module, call: Answer) -> LayerAtSite:
    return LayerAtSite(module, lambda tokens: call(tokens.flatten(1, 2)).reshape(tokens.shape))
