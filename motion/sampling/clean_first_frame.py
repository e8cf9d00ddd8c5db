"""A start image as a clean first latent frame, for networks that read none: how motion adapters begin on text to video.

Source: MIVA, arXiv 2512.20000: frame 1 is given at every call, at the noise level of all others.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.conditions import Conditions


class CleanFirstFrame:
    """A network as `MotionDenoiser` takes it, which is shown `first` as frame 1, and answers so that it stays.

    first: (b or 1, c, 1, h, w), scaled; rows are the videos, once for each branch of guidance.
    """

    def __init__(self, network: Callable[..., Tensor], first: Tensor):
        self.network, self.first, self.dtype = network, first, getattr(network, "dtype", None)

    def __call__(self, latents: Tensor, timestep: Tensor, conditions: Conditions, **kept) -> Tensor:
        """Velocity of latents (b, c, t, h, w) at timestep (b,) = 1000·sigma, above 0."""
        first = self._rows(latents)
        velocity = self.network(torch.cat((first, latents[:, :, 1:]), dim=2), timestep, conditions, **kept)
        level = (timestep.to(latents) / 1000).view(-1, 1, 1, 1, 1)
        return torch.cat(((latents[:, :, :1] - first) / level, velocity[:, :, 1:]), dim=2)

    def put_into(self, latents: Tensor) -> Tensor:
        """A result with the first frame written into it, since a solver gives it back to a rounding alone."""
        return torch.cat((self._rows(latents), latents[:, :, 1:]), dim=2)

    def _rows(self, latents: Tensor) -> Tensor:
        return self.first.to(latents).repeat(len(latents) // len(self.first), 1, 1, 1, 1)
