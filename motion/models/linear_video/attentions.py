"""The attentions of a block: in a frame, along the frames, and to the text.

Tokens are (b, t, n, d) in and out; a forward hook on an attention sees them so, normed before and not yet gated after.
The modules hold layers and call those, so forward hooks on any layer act.
Source: MiraMo, arXiv 2508.07246, Eq. 3-9 and its published text-to-video code; SANA for the 2-D parts.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....kernels.spatial_linear_attention import spatial_linear_attention
from ....kernels.spatial_state import spatial_linear_attention_with_state, spatial_linear_state
from ....kernels.temporal_cosine_attention import temporal_cosine_attention
from ..block_adapters import AttentionSite, FrameSite, PairWeights, TokenSite, Whole, weigh_pairs
from ..block_inputs import BlockInputs
from ..module_weights import is_untouched
from ..text_cache import CachedText, MaskedText


class BlockSizes(Protocol):
    """What the layers below ask of a model's config."""

    @property
    def width(self) -> int: ...

    @property
    def hidden_width(self) -> int: ...

    attention_head_dim: int
    num_cross_attention_heads: int
    qk_norm: bool


def torch_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention over (b, n, d) tensors; mask (b, 1, 1, n_key) is added to the scores."""
    query, key, value = (rearrange(x, "b n (nh dh) -> b nh n dh", nh=num_heads) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return rearrange(out, "b nh n dh -> b n (nh dh)")


class SelfAttention(nn.Module):
    """Projections around a linear self-attention."""

    def __init__(self, config: BlockSizes, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width = config.width
        self.head_dim = config.attention_head_dim
        self.to_q = operations.Linear(width, width, bias=False, **factory)
        self.to_k = operations.Linear(width, width, bias=False, **factory)
        self.to_v = operations.Linear(width, width, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])
        if config.qk_norm:
            self.norm_q = operations.RMSNorm(width, eps=1e-5, **factory)
            self.norm_k = operations.RMSNorm(width, eps=1e-5, **factory)
        self.qk_norm = config.qk_norm

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (m, n, d) -> q, k, v (m, n, nh, dh)."""
        return self.normed(self.to_q(x), self.to_k(x), self.to_v(x))

    def normed(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the projections gave (m, n, d) -> q, k, v (m, n, nh, dh)."""
        if self.qk_norm:
            q, k = self.norm_q(q), self.norm_k(k)
        return tuple(y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v))


class FramedAttention(SelfAttention):
    """Self-attention beside which an adapter may stand."""

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Normed tokens (b, t, n, d) -> what they gather, (b, t, n, d), before the gate."""
        return self.gather(lambda: x, around)

    def gather(self, tokens: Callable[[], Tensor], around: BlockInputs) -> Tensor:
        """`forward` of the tokens that `tokens()` gives, of which nobody else keeps hold while they are mixed."""
        raise NotImplementedError

    def answer(self, tokens: Callable[[], Tensor], around: BlockInputs, slot: str) -> Tensor:
        """`forward` and what the adapter in `slot` adds. A module that somebody hooked or patched is called."""
        beside = around.slot(slot)
        if beside is None:
            return self.gather(tokens, around) if is_untouched(self) else self(tokens(), around)
        site = self.site(tokens(), around)
        more = beside(site)
        if isinstance(more, Whole):
            return more.tokens
        return site.result if more is None else site.result + more

    def site(self, x: Tensor, around: BlockInputs) -> AttentionSite | FrameSite:
        """What an adapter beside this attention is told; a hooked module is called and its parts are made again."""
        raise NotImplementedError


class SpatialAttention(FramedAttention):
    """ReLU linear attention of every frame by itself."""

    def gather(self, tokens: Callable[[], Tensor], around: BlockInputs) -> Tensor:
        """As told above. What is dead is dropped at once: five tokens' worth live at the widest moment."""
        h = tokens()
        shape = h.shape
        weights = self._pair_weights(h, around)
        q, k, v = self.project(h.flatten(0, 1))
        del h
        mixed = self._mix(q, k, v, weights, around)
        del q, k, v
        return self.to_out[0](mixed).reshape(shape)

    def site(self, x: Tensor, around: BlockInputs) -> AttentionSite:
        """As told above, with the state of every frame."""
        h = x.flatten(0, 1)
        unnormed = self.to_q(h)
        q, k, v = self.normed(unnormed, self.to_k(h), self.to_v(h))
        weights = self._pair_weights(x, around) if is_untouched(self) else None
        if is_untouched(self) and weights is None:
            mixed, state = spatial_linear_attention_with_state(q, k, v, kernels=around.kernels)
            result = self.to_out[0](mixed.flatten(-2)).reshape(x.shape)
        else:
            state = spatial_linear_state(k, v, kernels=around.kernels)
            result = (
                self(x, around) if weights is None
                else self.to_out[0](self._mix(q, k, v, weights, around)).reshape(x.shape)
            )  # fmt: skip
        return AttentionSite(x, unnormed, q, k, v, state, result, self, around)

    def _pair_weights(self, x: Tensor, around: BlockInputs) -> PairWeights | None:
        bias = around.slot("attention_bias")
        return None if bias is None else bias(TokenSite(x, self, around))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, weights: PairWeights | None, around: BlockInputs) -> Tensor:
        """(b·t, n, d), before `to_out`."""
        if weights is None:
            return spatial_linear_attention(q, k, v, kernels=around.kernels).flatten(-2)
        wide = spatial_linear_attention(*weigh_pairs(q, k, v, weights), kernels=around.kernels)
        return wide[..., : self.head_dim].flatten(-2)


class TemporalAttention(FramedAttention):
    """Cosine attention of every site by itself, along the frames. form: "linear" or "quadratic"."""

    def __init__(self, config: BlockSizes, form: str, *, operations, dtype=None, device=None):
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        self.form = form

    def gather(self, tokens: Callable[[], Tensor], around: BlockInputs) -> Tensor:
        """As told above."""
        h = tokens()
        shape = h.shape
        q, k, v = (y.unflatten(0, shape[:2]) for y in self.project(h.flatten(0, 1)))
        del h
        mixed = self.mix(q, k, v, around)
        del q, k, v
        return self.to_out[0](mixed).reshape(shape)

    def site(self, x: Tensor, around: BlockInputs) -> FrameSite:
        """As told above. A hooked module is called even where an adapter stands in its place: its hooks may watch."""
        if is_untouched(self):
            return FrameSite(x, self, around, lambda *qkv: self.to_out[0](self.mix(*qkv, around)).reshape(x.shape))
        result = self(x, around)
        return FrameSite(x, self, around, lambda *qkv: result)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, around: BlockInputs) -> Tensor:
        """q, k, v (b, t, n, nh, dh) -> (b·t, n, d), before `to_out`."""
        mixed = temporal_cosine_attention(
            q, k, v, algorithm=self.form, positions=around.rotary, kernels=around.kernels
        )
        return mixed.flatten(-2).flatten(0, 1)


class CrossAttention(nn.Module):
    """Softmax attention from every token to the text; the text is not repeated per frame."""

    def __init__(self, config: BlockSizes, attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width = config.width
        self.num_heads, self.attention = config.num_cross_attention_heads, attention
        self.to_q = operations.Linear(width, width, **factory)
        self.to_k = operations.Linear(width, width, **factory)
        self.to_v = operations.Linear(width, width, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])
        if config.qk_norm:
            self.norm_q = operations.RMSNorm(width, eps=1e-5, **factory)
            self.norm_k = operations.RMSNorm(width, eps=1e-5, **factory)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Tokens (b, t, n, d) as they are -> what they find in the text, (b, t, n, d), to be added to them."""
        found = self.read(x.flatten(1, 2), around.text)
        return self.to_out[0](joined(found)).reshape(x.shape)

    def project_text(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states (b, m, d) -> keys and values (b, m, d)."""
        key = self.to_k(states)
        return self.norm_k(key) if self.qk_norm else key, self.to_v(states)

    def read(self, x: Tensor, text: MaskedText | CachedText) -> list[tuple[slice, Tensor]]:
        """What tokens x (b, n, d) find in the text before `to_out`: (rows of the batch, (rows, n, d)) a span."""
        query = self.to_q(x)
        if self.qk_norm:
            query = self.norm_q(query)
        found = []
        for rows, key, value, mask in text.spans(self):
            asked = query[rows]
            shape = asked.shape
            if key.shape[0] != shape[0]:  # all rows read one text: their tokens are one long query
                asked = asked.reshape(1, -1, shape[-1])
            found.append((rows, self.attention(asked, key, value, self.num_heads, mask).reshape(shape)))
        return found


def joined(found: list[tuple[slice, Tensor]]) -> Tensor:
    """The spans of `CrossAttention.read` as one (b, n, d)."""
    return found[0][1] if len(found) == 1 else torch.cat([part for _, part in found])
