"""Flow matching on whole frames: the network sees (1 - sigma)·z + sigma·noise and answers noise - z.

Source: Lipman et al. 2022, arXiv 2210.02747, with the straight path of Liu et al. 2022, arXiv 2209.03003.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..trainee import Trainee
from .objective import NoisedSamples, sample_means


class Flow(NoisedSamples):
    """The velocity of frames.

    Where the data set has a "frame_mask" (t,), only frames at 1 are noised and count; those at 0 are given clean, with
    a noise level of 0 of their own.
    """

    name, least_frames = "flow", 1

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: mean square of answer - (noise - latents) over the frames that count."""
        latents, noise, sigma, mask = batch["latents"], batch["noise"], batch["sigma"], batch.get("frame_mask")
        if mask is not None:
            sigma = sigma.unsqueeze(1) * mask
        level = sigma.view(len(sigma), 1, -1, 1, 1)
        answer = trainee.predict((1 - level) * latents + level * noise, sigma, trainee.conditions(batch))
        error = (answer.float() - (noise - latents)).square()
        if mask is None:
            return sample_means(error)
        frames = error.mean((1, 3, 4))
        return torch.where(mask > 0, frames, 0.0).sum(1) / mask.sum(1).clamp_min(1)
