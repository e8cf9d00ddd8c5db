"""Which noise level a sample is trained at."""

from dataclasses import dataclass

import torch

from ...models.model_spec import SamplingDefaults
from ...sampling.schedules import TRAIN_TIMESTEPS, shift_sigma
from ..config import ObjectiveConfig

SIGMA_LOW, SIGMA_TOP = 1e-3, 0.999  # 0 and 1 are never asked for


@dataclass(frozen=True)
class NoiseLevels:
    """A distribution of sigma after the flow shift.

    logit_normal: sigmoid of a unit normal; uniform: even. whole_timesteps: on the table of 1/1000 of models that were
    trained so. A share of top_share sits at 0.999.
    """

    sampling: str = "logit_normal"
    shift: float = 1.0
    whole_timesteps: bool = False
    top_share: float = 0.0

    @classmethod
    def of(cls, config: ObjectiveConfig, sampling: SamplingDefaults) -> "NoiseLevels":
        """Those that settings ask for; what they leave open is the model's own."""
        shift = config.shift if config.shift is not None else sampling.shift
        return cls(config.sigma_sampling, shift, sampling.integer_timesteps, config.top_noise_share)

    def draw(self, generator: torch.Generator) -> float:
        """One sigma."""
        even, normal = torch.rand(2, generator=generator), torch.randn((), generator=generator)
        base = float(torch.sigmoid(normal) if self.sampling == "logit_normal" else even[0])
        if self.whole_timesteps:
            base = int(base * TRAIN_TIMESTEPS) / TRAIN_TIMESTEPS
        sigma = shift_sigma(base, self.shift)
        return SIGMA_TOP if float(even[1]) < self.top_share else min(max(sigma, SIGMA_LOW), SIGMA_TOP)
