"""What adapters may do inside a block of a video transformer: four places, each empty unless a call fills it.

    beside_self_attention(AttentionSite) -> (b, t, n, d)   added to spatial attention's result, inside its gate
    temporal(FrameSite) -> (b, t, n, d)                    the same beside attention along the frames, or `Whole`
    instead_of_text(TokenSite) -> (b, t, n, d)             added to the tokens; text attention does not run
    attention_bias(TokenSite) -> PairWeights               weighs the pairs of tokens that spatial attention mixes
In Wan one softmax attention over all frames is both: it is the spatial attention meant here, whose pairs are those of
the whole video, and there is no `temporal`.
An answer of None leaves this block as it is. An adapter that would replace what it stands beside returns its own
result less `site.result`, along the frames better as `Whole`: then the layer's own is not computed where nobody needs
it. Sites are shared: nothing in them may be written into or kept after the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ...kernels.spatial_state import SpatialState
from ..errors import ShapeError
from .subject_masks import SubjectMasks


class Around(Protocol):
    """What all blocks of a call share and an adapter may read."""

    embedding: Tensor  # (b, t or 1, d): timestep, motion bucket and what else modulates, before any block's table
    grid: tuple[int, int]  # height, width in tokens
    rotary: NamedTuple  # RotaryTable, of the frames' indices, or WanRotary, of frames, rows and columns
    kernels: str
    block: int  # index of the block that asks
    masks: SubjectMasks | None  # of the subject; only networks that are told of masks have it


class LayerAtSite:
    """An attention that is called otherwise than adapters call one; it has the layers of its module under their names.

    call: tokens (b, t, n, d) -> the module's own answer, (b, t, n, d). kept: what an adapter has had the module compute
    at this site, by a name, for the next adapter there.
    """

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Tensor]):
        self._module, self._call, self.kept = module, call, {}

    def __call__(self, tokens: Tensor, around: Around) -> Tensor:
        """The module's own answer in this call of the network, which `around` has to be of."""
        return self._call(tokens)

    def __getattr__(self, name: str):
        return getattr(self._module, name)


class TokenSite(NamedTuple):
    """Tokens (b, t, n, d) as a layer reads them.

    Normed and modulated before self-attention; as they are before the text attention `attn2`, normed before Wan's.
    """

    tokens: Tensor
    attention: nn.Module | LayerAtSite  # called as attention(tokens, around) it gives its own answer, (b, t, n, d)
    around: Around


class AttentionSite(NamedTuple):
    """A self-attention and what it has just computed.

    query, key, value: normed where the model norms them, (b·t, n, nh, dh). state: of key and value, one a frame;
    `read_spatial_state` reads it with other queries. It holds each pair unweighted, whatever `attention_bias` does to
    the attention itself. Wan: not yet turned by their places; softmax has no state.
    """

    tokens: Tensor  # (b, t, n, d), normed and modulated
    unnormed_query: Tensor  # (b·t, n, d): what `to_q` gave, before `norm_q`
    query: Tensor
    key: Tensor
    value: Tensor
    state: SpatialState | None
    result: Tensor  # (b, t, n, d): the layer's own answer, before its gate
    attention: nn.Module | LayerAtSite
    around: Around


class FrameSite:
    """An attention along the frames, whose parts are computed where somebody asks for them, once.

    tokens: (b, t, n, d), normed and modulated. own: query, key, value (b, t, n, nh, dh) -> the layer's own answer
    (b, t, n, d), before its gate.
    """

    state = None

    def __init__(self, tokens: Tensor, attention: nn.Module, around: Around, own: Callable[..., Tensor]):
        self.tokens, self.attention, self.around, self._own = tokens, attention, around, own

    @cached_property
    def unnormed(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `to_q`, `to_k` and `to_v` give, each (b·t, n, d)."""
        x = self.tokens.flatten(0, 1)
        return self.attention.to_q(x), self.attention.to_k(x), self.attention.to_v(x)

    @cached_property
    def normed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, normed where the model norms them, each (b, t, n, nh, dh)."""
        return self.heads(*self.unnormed)

    def heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b·t, n, d) each, as this attention norms and splits them: (b, t, n, nh, dh)."""
        shape = self.tokens.shape[:2]
        return tuple(part.unflatten(0, shape) for part in self.attention.normed(query, key, value))

    @property
    def unnormed_query(self) -> Tensor:
        """(b·t, n, d)."""
        return self.unnormed[0]

    @property
    def query(self) -> Tensor:
        """(b, t, n, nh, dh), as `normed`."""
        return self.normed[0]

    @property
    def key(self) -> Tensor:
        """As `query`."""
        return self.normed[1]

    @property
    def value(self) -> Tensor:
        """As `query`."""
        return self.normed[2]

    @cached_property
    def result(self) -> Tensor:
        """The layer's own answer, (b, t, n, d), before its gate."""
        return self._own(*self.normed)


class Whole(NamedTuple):
    """An answer along the frames that stands in place of the layer's own, (b, t, n, d), instead of being added."""

    tokens: Tensor


class PairWeights(NamedTuple):
    """Weights of token pairs inside a frame, in Wan of the video, none negative.

    Query p meets key j with sum_r query[p, r] · key[j, r].

    query, key: (b, t, n, r). A softmax bias log(s_p s_j + (1 - s_p)(1 - s_j) + e) of scores s in [0, 1] is, as a
    factor, query = (s + e, 1 - s + e), key = (s, 1 - s). All that is multiplied stays linear in the tokens; r copies
    of each head are mixed, so r · dh is what an operator sees as head size.
    """

    query: Tensor
    key: Tensor


@dataclass(frozen=True)
class BlockAdapters:
    """The four places; what stands in one is called once a block.

    knows_masks: whether it may stand in a call whose rows are videos of masks (`Around.masks`); others may not.
    """

    beside_self_attention: Callable[[AttentionSite], Tensor | None] | None = None
    instead_of_text: Callable[[TokenSite], Tensor | None] | None = None
    temporal: Callable[[FrameSite], Tensor | Whole | None] | None = None
    attention_bias: Callable[[TokenSite], PairWeights | None] | None = None
    knows_masks: bool = False


def weigh_pairs(q: Tensor, k: Tensor, v: Tensor, weights: PairWeights) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (b·t, n, nh, dh) whose ReLU linear attention has weighted pairs: (b·t, n, nh, r·dh) each.

    relu(q · a) = a · relu(q) for a >= 0, so r copies of a head side by side sum the r products of weights. The answer
    stands in the first dh features. States of these keys and values belong to queries weighed alike.
    Raises ShapeError where the weights are not of these tokens.
    """
    m, n, heads, dh = v.shape
    if weights.query.shape != weights.key.shape or weights.query.shape[:-1].numel() != m * n:
        raise ShapeError(
            f"pair weights are {tuple(weights.query.shape)} and {tuple(weights.key.shape)}; both must be (b, t, n, r) "
            f"with b·t = {m} and n = {n}"
        )
    ranks = weights.query.shape[-1]

    def copies(x: Tensor, factor: Tensor) -> Tensor:
        factor = factor.to(x.dtype).reshape(m, n, 1, ranks, 1)
        return (x.unsqueeze(-2) * factor).flatten(-2)

    padding = v.new_zeros(m, n, heads, (ranks - 1) * dh)
    return copies(q, weights.query), copies(k, weights.key), torch.cat((v, padding), dim=-1)
