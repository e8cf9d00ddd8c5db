"""Which noise level a sample is trained at."""

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

import torch

from ...errors import ConfigError
from ...models.model_spec import SamplingDefaults
from ...sampling.schedules import TRAIN_TIMESTEPS, shift_sigma
from ..config import ObjectiveConfig

SIGMA_LOW, SIGMA_TOP = 1e-3, 0.999  # 0 and 1 are never asked for


@dataclass(frozen=True)
class NoiseLevels:
    """A distribution of sigma after the flow shift.

    logit_normal: sigmoid of a unit normal; uniform: even. whole_timesteps: on the table of 1/1000 of models that were
    trained so. A share of top_share sits at 0.999. low, high: only levels between them are drawn, as often among
    themselves as without the limits.
    Raises ConfigError for limits between which nothing is drawn.
    """

    sampling: str = "logit_normal"
    shift: float = 1.0
    whole_timesteps: bool = False
    top_share: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if not self._least < self._most:
            raise ConfigError(f"noise levels from {self.low} to {self.high} are asked for; {SIGMA_LOW} to {SIGMA_TOP} "
                              "are trained: widen sigma_min and sigma_max")

    @classmethod
    def of(cls, config: ObjectiveConfig, sampling: SamplingDefaults) -> "NoiseLevels":
        """Those that settings ask for; what they leave open is the model's own."""
        shift = config.shift if config.shift is not None else sampling.shift
        return cls(config.sigma_sampling, shift, sampling.integer_timesteps, config.top_noise_share,
                   config.sigma_min, config.sigma_max)

    def draw(self, generator: torch.Generator) -> float:
        """One sigma."""
        even, normal = torch.rand(2, generator=generator), torch.randn((), generator=generator)
        if self.is_limited:
            base = self._inside(float(even[0]))
        else:
            base = float(torch.sigmoid(normal) if self.sampling == "logit_normal" else even[0])
        if self.whole_timesteps:
            base = int(base * TRAIN_TIMESTEPS) / TRAIN_TIMESTEPS
        sigma = shift_sigma(base, self.shift)
        return self._most if float(even[1]) < self.top_share else min(max(sigma, self._least), self._most)

    @property
    def is_limited(self) -> bool:
        """Whether a part of the levels is left out."""
        return self.low > 0.0 or self.high < 1.0

    @property
    def _least(self) -> float:
        return max(self.low, SIGMA_LOW)

    @property
    def _most(self) -> float:
        return min(self.high, SIGMA_TOP)

    def _inside(self, even: float) -> float:
        """The level before the shift with this share of the draws inside the limits below it."""
        ends = (float(shift_sigma(limit, 1 / self.shift)) for limit in (self._least, self._most))
        if self.sampling != "logit_normal":
            low, high = ends
            return low + even * (high - low)
        low, high = (_NORMAL.cdf(math.log(end / (1 - end))) for end in ends)
        drawn = min(max(low + even * (high - low), sys.float_info.epsilon), 1 - sys.float_info.epsilon)
        return 1 / (1 + math.exp(-_NORMAL.inv_cdf(drawn)))


_NORMAL = NormalDist()
