"""What the task asks of an objective, and what those that noise whole samples share."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..config import ObjectiveConfig
from ..trainee import Trainee
from .noise_levels import NoiseLevels


class Objective(Protocol):
    """What is shown to a network, and how wrong its answer is. Batches are tensors by name, rows are samples.

    A batch holds "latents" (b, c, t, h, w), scaled, what `draw` made, and whatever else the data set has.
    """

    name: str
    least_frames: int  # latent frames that a sample needs

    def draw(self, sample: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What is drawn for one sample beside its data. Equal generators give equal tensors."""

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of each sample (b,), float32."""


class Compared(NamedTuple):
    """A loss and what it is of: velocities of the frames that count, truth and answer."""

    loss: Tensor  # (b,), float32
    answer: Tensor  # (b, c, t, h, w), float32
    truth: Tensor  # the same


class ComparedObjective(Objective, Protocol):
    """An objective that can also say which velocities its loss compares."""

    def compared(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Compared:
        """The same loss, with the velocities."""


class NoisedSamples:
    """Base of objectives that draw one noise level and one noise a sample: "sigma" () and "noise" like "latents"."""

    def __init__(self, levels: NoiseLevels):
        self.levels = levels

    @classmethod
    def of(cls, config: ObjectiveConfig, trainee: Trainee) -> "Objective":
        """With these settings, for this network."""
        return cls(NoiseLevels.of(config, trainee.sampling))

    def draw(self, sample: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `Objective`."""
        sigma = torch.tensor(self.levels.draw(generator))
        return {"sigma": sigma, "noise": torch.randn(sample["latents"].shape, generator=generator)}


def noised(batch: Mapping[str, Tensor]) -> Tensor:
    """The state (1 - sigma)·latents + sigma·noise of a batch (b, c, t, h, w)."""
    level = batch["sigma"].view(-1, 1, 1, 1, 1)
    return (1 - level) * batch["latents"] + level * batch["noise"]


def sample_means(values: Tensor) -> Tensor:
    """Mean of each sample (b,)."""
    return values.flatten(1).mean(1)
