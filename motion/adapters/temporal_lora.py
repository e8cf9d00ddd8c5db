"""LoRA inside attention along the frames, in the form that several of them can be added in.

    tSA'(x) = tSA(x) + w · (tSA_adapter(x) - tSA(x))        tSA_adapter: W + alpha / rank · up · down in q, k, v and out
Summed LoRAs in one attention are another thing: there each changes what the others see. What an adapter answers is its
own attention as a whole, so at a sum of weights of 1 the layer's own need not be computed (slot_sums.py).
Source: MIVA, arXiv 2512.20000, its "residual" form.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.block_adapters import FrameSite, Whole
from .low_rank import LowRank

PARTS = ("q", "k", "v", "o")


class TemporalLoRA(nn.Module):
    """What stands beside one block's attention along the frames. Linear video models only."""

    def __init__(self, width: int, rank: int, alpha: float, *, device=None):
        super().__init__()
        self.scale = alpha / rank
        self.q, self.k, self.v, self.o = (LowRank(width, width, rank, device=device) for _ in PARTS)

    def forward(self, site: FrameSite) -> Whole:
        """The attention with this LoRA in it."""
        attention, parts = site.attention, (self.q, self.k, self.v)
        x = site.tokens.flatten(0, 1)
        downs = torch.cat([part.down for part in parts])
        hidden = F.linear(x.to(downs.dtype), downs).chunk(3, dim=-1)
        changed = (own + self._up(part, low).to(own.dtype) for own, part, low in zip(site.unnormed, parts, hidden))
        mixed = attention.mix(*site.heads(*changed), site.around)
        more = self._up(self.o, F.linear(mixed.to(downs.dtype), self.o.down))
        return Whole((attention.to_out[0](mixed) + more.to(mixed.dtype)).reshape(site.tokens.shape))

    def _up(self, part: LowRank, hidden: Tensor) -> Tensor:
        """(…, rank) -> (…, d); the small matrix is scaled, not the tokens."""
        return F.linear(hidden, self.scale * part.up)
