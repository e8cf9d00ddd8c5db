"""A matrix of low rank, the part that adapters are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .lora import MAX_RANK, draw_evenly


class LowRank(nn.Module):
    """up · down, a matrix (outside, inside), float32; zero until `up` is trained. Raises ConfigError for a bad rank."""

    def __init__(self, inside: int, outside: int, rank: int, *, device=None):
        super().__init__()
        if not 1 <= rank <= MAX_RANK:
            raise ConfigError(f"rank is {rank}; it goes from 1 to {MAX_RANK}")
        self.down = nn.Parameter(torch.empty(rank, inside, device=device))
        self.up = nn.Parameter(torch.zeros(outside, rank, device=device))

    def draw(self, generator: torch.Generator) -> None:
        """Fill `down`, as torch fills a layer."""
        draw_evenly(self.down, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(…, inside) -> (…, outside), float32 unless autocast says otherwise."""
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)
