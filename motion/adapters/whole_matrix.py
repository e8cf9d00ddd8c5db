"""A whole matrix, as some published adapters hold one where ours are of low rank."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WholeMatrix(nn.Module):
    """full (outside, inside), with a bias or without, float32; zero until a file fills it, for none is trained here."""

    def __init__(self, inside: int, outside: int, *, bias: bool = False, device=None):
        super().__init__()
        self.full = nn.Parameter(torch.zeros(outside, inside, device=device))
        self.bias = nn.Parameter(torch.zeros(outside, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, inside) -> (…, outside), float32 unless autocast says otherwise."""
        return F.linear(x.to(self.full.dtype), self.full, self.bias)
