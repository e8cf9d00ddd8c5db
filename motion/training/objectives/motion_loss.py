"""Flow matching with a second part that compares how the velocity changes from frame to frame.

With v the velocity and d_i = v_i - v_(i-1) over latent frames: paper: 1 - cos(d_i of truth, d_i of the answer), all
channels and places as one vector, mean over i (arXiv 2506.05207, Sec. 3.3, which does not say the axis). release: as
the code released with it: absolute values, and the cosine along time at every channel and place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...choices import MOTION_LOSSES, OFF
from ...errors import ConfigError
from ...sampling.schedules import TRAIN_TIMESTEPS, shift_sigma
from ..trainee import Trainee
from .noise_levels import NoiseLevels
from .objective import Compared, ComparedObjective, NoisedSamples, noised, sample_means

SMALL = 1e-8
WEIGHTINGS = ("none", "bell")  # of noise levels


@dataclass(frozen=True)
class MotionLoss:
    """Settings. motion: one of MOTION_LOSSES, with its weight; weighting: of noise levels. Raises ConfigError."""

    motion: str = "paper"
    weight: float = 1.0
    weighting: str = "none"

    def __post_init__(self):
        if self.motion not in MOTION_LOSSES or self.weighting not in WEIGHTINGS or not 0 <= self.weight <= 1e4:
            raise ConfigError(f"motion loss {self.motion!r} x {self.weight}, weighting {self.weighting!r}; losses are "
                              f"{', '.join(MOTION_LOSSES)}, weightings {', '.join(WEIGHTINGS)}")  # fmt: skip


class Motion(NoisedSamples):
    """The velocity of frames, and how it changes; single frames have the first part alone.

    own: what the network's kind of model is trained by, where that is not the velocity of whole frames; its loss is
    then the first part, and its velocities are compared.
    """

    name = "motion"

    def __init__(self, levels: NoiseLevels, settings: MotionLoss | None = None, own: ComparedObjective | None = None):
        super().__init__(levels)
        self.settings, self.own = settings or MotionLoss(), own
        self.least_frames = 1 if own is None else own.least_frames

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`."""
        loss, answer, truth = self._plain(trainee, batch) if self.own is None else self.own.compared(trainee, batch)
        if self.settings.motion != OFF and truth.shape[2] > 1:
            loss = loss + self.settings.weight * motion_loss(answer, truth, self.settings.motion)
        return loss if self.settings.weighting == "none" else loss * bell(batch["sigma"], self.levels.shift)

    @staticmethod
    def _plain(trainee: Trainee, batch: Mapping[str, Tensor]) -> Compared:
        truth = batch["noise"] - batch["latents"]
        answer = trainee.predict(noised(batch), batch["sigma"], trainee.conditions(batch)).float()
        return Compared(sample_means((answer - truth).square()), answer, truth)


def motion_loss(answer: Tensor, truth: Tensor, kind: str) -> Tensor:
    """The second part, of each sample (b,), in [0, 2]; answer and truth: velocities (b, c, t, h, w), float32."""
    one, other = (part.diff(dim=2) for part in (answer, truth))
    if kind == "release":
        return 1 - _cosine(one.abs(), other.abs(), 2).flatten(1).mean(1)
    one, other = (part.transpose(1, 2).flatten(2) for part in (one, other))
    return 1 - _cosine(one, other, 2).mean(1)


def bell(sigma: Tensor, shift: float) -> Tensor:
    """The released code's weight of noise levels (b,): least at both ends, 1 in the mean of 1000 shifted ones."""
    table = shift_sigma(torch.arange(TRAIN_TIMESTEPS, 0, -1, dtype=torch.float64) / TRAIN_TIMESTEPS, shift)
    known = _bell(table)
    return ((_bell(sigma.double()) - known.min()) / (known - known.min()).mean()).to(sigma.dtype)


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5).square())


def _cosine(one: Tensor, other: Tensor, dim: int) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=dim, eps=SMALL)
