"""Softmax attention whose pairs are weighed, by whatever runs the plain one.

A pair of query p and key j that counts sum_r a_r[p] · b_r[j] times is r keys of one value, each with log a_r[p] +
log b_r[j] added to its score; the sum is in the scores of queries and keys that are a few numbers longer.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import ShapeError
from ..block_adapters import PairWeights

LEAST = 1e-30  # instead of a weight of 0: its logarithm must stay finite
MULTIPLE = 8  # of numbers a head that fast attentions want


def weighed_softmax(
    query: Tensor, key: Tensor, value: Tensor, weights: PairWeights, num_heads: int,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """softmax(q k / √dh + log w) v of (b, n, nh·dh), weights (b, t, n / t, r). Costs r times the keys.

    attend: plain softmax attention of (b, n, nh·d), (b, r·n, nh·d), (b, r·n, nh·d), scaled by 1/√d.
    Raises ShapeError where the weights are not of these tokens.
    """
    b, n, width = query.shape
    ranks, size = weights.query.shape[-1], width // num_heads
    if weights.query.shape != weights.key.shape or weights.query.shape[:-1].numel() != b * n:
        raise ShapeError(
            f"pair weights are {tuple(weights.query.shape)} and {tuple(weights.key.shape)}; both must be (b, t, n, r) "
            f"with b = {b} and t·n = {n}"
        )
    wide = -(-(size + ranks + 1) // MULTIPLE) * MULTIPLE
    at_least = torch.promote_types(query.dtype, torch.float32)
    asking, asked = (part.to(at_least).clamp_min(LEAST).log().reshape(b, n, 1, ranks) for part in weights)
    ones, padding = torch.ones_like(asking[..., :1]), asking.new_zeros(b, n, 1, wide - size - ranks - 1)

    def longer(x: Tensor, *more: Tensor) -> Tensor:
        heads = x.unflatten(-1, (num_heads, size))
        joined = torch.cat((*more, padding), dim=-1).to(x.dtype).expand(-1, -1, num_heads, -1)
        return torch.cat((heads, joined), dim=-1).flatten(2)

    queries = longer(query * (wide / size) ** 0.5, asking * wide**0.5, ones * wide**0.5)
    places = torch.eye(ranks, device=asking.device, dtype=asking.dtype)
    keys = [longer(key, places[r].expand(b, n, 1, ranks), asked[..., r : r + 1]) for r in range(ranks)]
    values = longer(value, torch.zeros_like(asking), torch.zeros_like(ones))
    mixed = attend(queries, torch.cat(keys, dim=1), values.repeat(1, ranks, 1))
    return mixed.unflatten(-1, (num_heads, wide))[..., :size].flatten(2)
