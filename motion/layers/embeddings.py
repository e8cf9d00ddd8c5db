"""Embeddings of scalars and places: sinusoids, the two-layer MLP after them, x/y features."""

import torch
from torch import Tensor, nn


def sinusoid(value: Tensor, width: int = 256) -> Tensor:
    """Sinusoidal features of a scalar, ordered [cos | sin], frequencies 10000^(-i/half).

    value: (...,) any real. Returns (..., width) float32.
    """
    half = width // 2
    frequency = torch.exp(
        torch.arange(half, device=value.device, dtype=torch.float32) * (-torch.log(torch.tensor(10000.0)) / half)
    )
    angle = value.float().unsqueeze(-1) * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def place_features(height: int, width: int, *, octaves: int = 4, device=None) -> Tensor:
    """Features of each grid cell's centre in [-1, 1]: x, y and their sines and cosines at some octaves.

    Returns (height * width, 2 + 4 * octaves) float32, row-major.
    """
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)
    scaled = torch.cat([grid * (torch.pi * 2.0**k / 2) for k in range(octaves)], dim=-1)
    return torch.cat((grid, scaled.sin(), scaled.cos()), dim=-1)


class ScalarMLP(nn.Module):
    """Linear → SiLU → Linear on sinusoidal features; weights under `timestep_embedder` as in layout (a)."""

    def __init__(self, width: int, *, operations, features: int = 256, dtype=None, device=None):
        super().__init__()
        self.features = features
        self.timestep_embedder = nn.Module()
        self.timestep_embedder.linear_1 = operations.Linear(features, width, dtype=dtype, device=device)
        self.timestep_embedder.linear_2 = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """value (...,) -> (..., width) in dtype."""
        hidden = self.timestep_embedder.linear_1(sinusoid(value, self.features).to(dtype))
        return self.timestep_embedder.linear_2(torch.nn.functional.silu(hidden))
