"""Frames that are given, before those that a network is asked for: reference and skeletons of a sequence.

Source: FramePrompt, arXiv 2506.17301, Sec. 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.conditions import Conditions


class GivenFrames:
    """A network as `MotionDenoiser` takes it, which is shown `given` before the latents and answers for these alone.

    given: (b or 1, c, t, h, w), scaled, always clean; rows are the videos, once for each branch of guidance. What
    stands beside the latents in the conditions is for the whole sequence. clean_timestep: tell noise level 0 of given
    frames.
    """

    def __init__(self, network: Callable[..., Tensor], given: Tensor, *, clean_timestep: bool = False):
        self.network, self.given, self.clean_timestep = network, given, clean_timestep
        self.dtype = getattr(network, "dtype", None)

    def __call__(self, latents: Tensor, timestep: Tensor, conditions: Conditions, **kept) -> Tensor:
        """Velocity of latents (b, c, t, h, w) at timestep (b,) = 1000·sigma."""
        count = self.given.shape[2]
        given = self.given.to(latents).repeat(len(latents) // len(self.given), 1, 1, 1, 1)
        if self.clean_timestep:
            each = timestep.unsqueeze(1)
            timestep = torch.cat((torch.zeros_like(each).expand(-1, count), each.expand(-1, latents.shape[2])), dim=1)
        return self.network(torch.cat((given, latents), dim=2), timestep, conditions, **kept)[:, :, count:]
