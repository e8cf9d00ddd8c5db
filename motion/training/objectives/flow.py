"""Flow matching on whole frames: the network sees (1 - sigma)·z + sigma·noise and answers noise - z.

Source: Lipman et al. 2022, arXiv 2210.02747, with the straight path of Liu et al. 2022, arXiv 2209.03003.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..trainee import Trainee
from .noise_levels import NoiseLevels
from .objective import NoisedSamples, noised, sample_means


class FlowAfterFirst(NoisedSamples):
    """The velocity of all frames but the first, which is shown clean at the noise level of the others.

    So adapters learn to go on from a start image beside a network that reads none. Source: MIVA, arXiv 2512.20000.
    """

    name, least_frames = "flow_after_first", 2

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: mean square of answer - (noise - latents) over the frames behind the first."""
        latents, noise, shown = batch["latents"], batch["noise"], noised(batch)
        shown = torch.cat((latents[:, :, :1], shown[:, :, 1:]), dim=2)
        answer = trainee.predict(shown, batch["sigma"], trainee.conditions(batch))
        return sample_means((answer.float() - (noise - latents)).square()[:, :, 1:])


class Flow(NoisedSamples):
    """The velocity of frames.

    Where the data set has a "frame_mask" (t,), only frames at 1 are noised and count; those at 0 are given clean, with
    a noise level of 0 of their own.

    motion_weight: how much more than the rest the change of the error over the frames counts. Being the same for every
    sample it moves no minimum: the best answer stays the mean velocity. Where most of the error is what stands still
    (textures, where a thing is), it is the share that says how things move.
    """

    name, least_frames = "flow", 1

    def __init__(self, levels: NoiseLevels, motion_weight: float = 0.0):
        super().__init__(levels)
        self.motion_weight = motion_weight

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: mean square of answer - (noise - latents) over the frames that count."""
        latents, noise, sigma, mask = batch["latents"], batch["noise"], batch["sigma"], batch.get("frame_mask")
        if mask is not None:
            sigma = sigma.unsqueeze(1) * mask
        level = sigma.view(len(sigma), 1, -1, 1, 1)
        answer = trainee.predict((1 - level) * latents + level * noise, sigma, trainee.conditions(batch))
        error = answer.float() - (noise - latents)
        if mask is None:
            loss, mask = sample_means(error.square()), torch.ones_like(error[:, 0, :, 0, 0])
        else:
            loss = frame_means(error.square(), mask)
        if self.motion_weight:
            loss = loss + self.motion_weight * frame_means(changes(error, mask).square(), mask)
        return loss


def frame_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sample (b,) over the frames at 1 in mask (b, t)."""
    frames = values.mean((1, 3, 4))
    return torch.where(mask > 0, frames, 0.0).sum(1) / mask.sum(1).clamp_min(1)


def changes(values: Tensor, mask: Tensor) -> Tensor:
    """What frames (b, c, t, h, w) differ by from the mean of those at 1 in mask (b, t)."""
    weight = mask.view(len(mask), 1, -1, 1, 1)
    return values - (values * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp_min(1)
