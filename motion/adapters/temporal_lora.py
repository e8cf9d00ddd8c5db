"""LoRA inside attention along the frames, in the form that several of them can be added in.

    tSA'(x) = tSA(x) + w · (tSA_adapter(x) - tSA(x))        tSA_adapter: W + alpha / rank · up · down in q, k, v and out
Summed LoRAs in one attention are another thing: there each changes what the others see.
Source: MIVA, arXiv 2512.20000, its "residual" form.
"""

from torch import Tensor, nn

from ..models.block_adapters import AttentionSite
from .low_rank import LowRank

PARTS = ("q", "k", "v", "o")


class TemporalLoRA(nn.Module):
    """What stands beside one block's attention along the frames. Linear video models only."""

    def __init__(self, width: int, rank: int, alpha: float, *, device=None):
        super().__init__()
        self.scale = alpha / rank
        self.q, self.k, self.v, self.o = (LowRank(width, width, rank, device=device) for _ in PARTS)

    def forward(self, site: AttentionSite) -> Tensor:
        """(b, t, n, d): the attention with this LoRA in it, less the one without."""
        attention, (b, t, n, d) = site.attention, site.tokens.shape
        x = site.tokens.flatten(0, 1)

        def added(part: LowRank, of: Tensor) -> Tensor:
            return (self.scale * part(of)).to(of.dtype)

        query = site.unnormed_query.reshape(b * t, n, d) + added(self.q, x)
        key = attention.to_k(x) + added(self.k, x)
        value = site.value.reshape(b * t, n, d) + added(self.v, x)
        q, k, v = (part.unflatten(0, (b, t)) for part in attention.normed(query, key, value))
        mixed = attention.mix(q, k, v, site.around)
        out = attention.to_out[0](mixed) + added(self.o, mixed)
        return out.reshape(b, t, n, d) - site.result
