"""The loss of networks that answer with clean latents (x0), with or without a flow head; ours, not the paper's.

An error of the clean latents over sigma is the error of the velocity they stand for. A flow head warps the first frame:
the warp is held still in the error of appearance, so that flow learns from its own truth alone, and adds flow_weight
times the L1 of flow over the root of the frame index; no dead zone, which would have no gradient.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...models.heads.flow_head import INDEX_UNIT
from ..config import ObjectiveConfig
from ..trainee import CleanTrainee
from .noise_levels import NoiseLevels
from .objective import Compared, NoisedSamples, noised, sample_means
from .residual import residual_input

LEAST_DIVISOR = 0.1  # errors are divided by sigma to weigh like a velocity, but by no less
STILL_WEIGHT = 4.0  # of the flow loss of samples in which nothing moves: "still" has to be still
STILL_FLOW = 1e-3  # latent units of flow below which nothing moves


class CleanEstimate(NoisedSamples):
    """Clean latents: of later frames beside a clean frame 0 (residual), or of all frames."""

    name = "clean_estimate"

    def __init__(self, levels: NoiseLevels, *, residual: bool, flow_channels: int = 0, flow_weight: float = 0.0):
        super().__init__(levels)
        self.residual, self.flow_channels, self.flow_weight = residual, flow_channels, flow_weight
        self.least_frames = 2 if residual else 1

    @classmethod
    def of(cls, config: ObjectiveConfig, trainee: CleanTrainee) -> "CleanEstimate":
        """With these settings, for this network."""
        return cls(
            NoiseLevels.of(config, trainee.sampling), residual=trainee.is_residual,
            flow_channels=trainee.flow_channels, flow_weight=config.flow_weight,
        )  # fmt: skip

    def loss(self, trainee: CleanTrainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`."""
        return self.compared(trainee, batch).loss

    def compared(self, trainee: CleanTrainee, batch: Mapping[str, Tensor]) -> Compared:
        """See `ComparedObjective`. The velocities are those of appearance: (seen - clean) / sigma."""
        clean, sigma, skip = batch["latents"], batch["sigma"], int(self.residual)
        seen = residual_input(batch) if self.residual else noised(batch)
        told = trainee.conditions(batch, first_latent=clean[:, :, :1] if self.residual else None)
        found = trainee.estimate_clean(seen, sigma, told)
        error = (found - clean)[:, :, skip:]
        divisor = sigma.clamp_min(LEAST_DIVISOR).view(-1, 1, 1, 1, 1)
        shown = clean.shape[1] - self.flow_channels
        loss = sample_means((error[:, :shown] / divisor).square())
        velocities = (((seen - part)[:, :shown, skip:] / divisor).float() for part in (found, clean))
        if not self.flow_channels:
            return Compared(loss, *velocities)
        truth = clean[:, shown:, skip:]
        indices = batch.get("frame_places", torch.arange(clean.shape[2], device=clean.device).unsqueeze(0))[:, skip:]
        growth = (indices.float() / INDEX_UNIT).sqrt().view(len(indices), 1, -1, 1, 1)
        still = truth.abs().amax((1, 2, 3, 4)) < STILL_FLOW
        weight = self.flow_weight * torch.where(still, STILL_WEIGHT, 1.0)
        return Compared(loss + weight * sample_means(error[:, shown:].abs() / growth), *velocities)
