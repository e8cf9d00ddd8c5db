"""The half-frames loss on targets whose first frames are known now and then, as long videos ask for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .half_frames import HalfFrames
from .noise_levels import NoiseLevels

KNOWN = "known"  # latent frames of the target that are known
SHARES = (0.5, 0.25, 0.25)  # of samples with 0, 1 and 2 of them


class KnownStart(HalfFrames):
    """See `HalfFrames`; draws "known" () beside. often: False draws 0 always, as in the paper."""

    def __init__(self, levels: NoiseLevels, clean_timestep: bool = False, often: bool = False):
        super().__init__(levels, clean_timestep)
        self.often = often

    def draw(self, sample: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `Objective`."""
        made = super().draw(sample, generator)
        chance = float(torch.rand((), generator=generator)) if self.often else 0.0
        return {**made, KNOWN: torch.tensor(sum(chance >= edge for edge in (SHARES[0], SHARES[0] + SHARES[1])))}
