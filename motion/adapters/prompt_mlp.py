"""A small network in place of text attention: the prompt of one motion, folded into two layers.

    CA'(x) = W_2 · GELU(LN(W_1 · q(x)))        q: the text attention's own query path; W_2 starts at zero
Source: MIVA, arXiv 2512.20000: keys and values of a learnt prompt, LayerNorm and GELU instead of softmax.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.block_adapters import TokenSite
from .lora import draw_evenly


class PromptMLP(nn.Module):
    """What stands in place of one block's text attention. query: name of that attention's query layer.

    query_bias: whether q counts that layer's bias. biased: whether W_1 and W_2 have biases.
    """

    def __init__(
        self, width: int, rank: int, *, query: str, query_bias: bool = True, biased: bool = False, device=None
    ):  # fmt: skip
        super().__init__()
        self.query, self.query_bias = query, query_bias
        self.down = nn.Parameter(torch.empty(rank, width, device=device))
        self.norm = nn.LayerNorm(rank, device=device)
        self.up = nn.Parameter(torch.zeros(width, rank, device=device))
        self.down_bias, self.up_bias = (
            nn.Parameter(torch.zeros(size, device=device)) if biased else None for size in (rank, width)
        )

    def draw(self, generator: torch.Generator) -> None:
        """Fill W_1, as torch fills a layer."""
        draw_evenly(self.down, generator)

    def forward(self, site: TokenSite) -> Tensor:
        """(b, t, n, d), to be added to the tokens instead of what the text says."""
        kept = getattr(site.attention, "kept", {})  # adapters at one site ask the same
        name = f"{self.query}, bias {self.query_bias}"
        if name not in kept:
            kept[name] = self._asked(site)
        hidden = F.gelu(self.norm(F.linear(kept[name].to(self.down.dtype), self.down, self.down_bias)))
        return F.linear(hidden, self.up, self.up_bias).to(site.tokens.dtype)

    def _asked(self, site: TokenSite) -> Tensor:
        """q(x), (b, t, n, d)."""
        layer = getattr(site.attention, self.query)
        asked = layer(site.tokens)
        if not self.query_bias:
            asked = asked - layer(torch.zeros_like(site.tokens[:1, :1, :1]))
        norm = getattr(site.attention, "norm_q", None)
        return asked if norm is None else norm(asked)
