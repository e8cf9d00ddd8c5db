"""Flow on two videos at once: the clip, steered by masks of its subject, and those masks as a video of their own.

Frame 1 of both is shown clean and does not count. The clip is steered by its true masks with probability
p(k) = (1 + cos(pi k / K)) / 2 at step k of K, else by what the network makes of the masks itself, one estimate of noisy
masks, as in sampling. Source: MIVA, arXiv 2512.20000, M-MIVA. There five steps in a row share a clip at falling noise
levels, and each is steered by the estimate of the one before. Here every step draws five levels, takes one of them and
makes the estimate at the one above, so that steps need nothing of one another and a resumed run is the same run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...models.subject_masks import SubjectMasks
from ..trainee import Trainee
from .noise_levels import NoiseLevels
from .objective import sample_means

LEVELS = 5  # noise levels that the source takes a clip through
PROGRESS = "progress"  # of a sample: k / K


class MaskedStreams:
    """See `Objective`. Batches also hold "mask_latents" like "latents", and "mask_scores" (b, t, rows, columns).

    scores_of: latents of masks (b, c, t, h, w) -> scores of their tokens (b, t, n).
    """

    name, least_frames, reads_progress = "masked_streams", 2, True

    def __init__(self, levels: NoiseLevels, scores_of: Callable[[Tensor], Tensor]):
        self.levels, self.scores_of = levels, scores_of

    def draw(self, sample: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `Objective`: "sigma", of the estimate "mask_sigma" above it, a noise each, and whether masks are told."""
        levels = sorted((self.levels.draw(generator) for _ in range(LEVELS)), reverse=True)
        place = int(torch.randint(LEVELS, (), generator=generator))
        share = 0.5 * (1 + math.cos(math.pi * float(sample[PROGRESS])))
        is_told = float(torch.rand((), generator=generator)) < share
        shape = sample["latents"].shape
        noise, mask_noise = (torch.randn(shape, generator=generator) for _ in range(2))
        return {"sigma": torch.tensor(levels[place]), "mask_sigma": torch.tensor(levels[max(0, place - 1)]),
                "noise": noise, "mask_noise": mask_noise, "masks_told": torch.tensor(is_told)}  # fmt: skip

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: the mean of both videos' squares."""
        told, sigma = trainee.conditions(batch), batch["sigma"]
        steered = replace(told, masks=SubjectMasks(self.scores(trainee, batch)))
        video = _error(trainee, batch["latents"], batch["noise"], sigma, steered)
        masks = _error(trainee, batch["mask_latents"], batch["mask_noise"], sigma, replace(told, masks=SubjectMasks()))
        return (sample_means(video.square()) + sample_means(masks.square())) / 2

    @torch.no_grad()
    def scores(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """What steers each clip (b, t, n): true scores, or those of an estimate. Those of frame 1 are always true."""
        true, is_told = batch["mask_scores"].flatten(2), batch["masks_told"]
        if bool(is_told.all()):
            return true
        latents, sigma = batch["mask_latents"], batch["mask_sigma"]
        told = replace(trainee.conditions(batch), masks=SubjectMasks())
        shown = _shown(latents, batch["mask_noise"], sigma)
        velocity = trainee.predict(shown, sigma, told).float()
        made = self.scores_of(shown - sigma.view(-1, 1, 1, 1, 1) * velocity)
        made = torch.cat((true[:, :1], made[:, 1:].to(true)), dim=1)
        return torch.where(is_told.view(-1, 1, 1), true, made)


def _shown(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What the network sees: frame 1 clean, the others at sigma (b,)."""
    level = sigma.view(-1, 1, 1, 1, 1)
    return torch.cat((latents[:, :, :1], ((1 - level) * latents + level * noise)[:, :, 1:]), dim=2)


def _error(trainee: Trainee, latents: Tensor, noise: Tensor, sigma: Tensor, told) -> Tensor:
    """What the velocity of the frames behind the first is off by."""
    answer = trainee.predict(_shown(latents, noise, sigma), sigma, told)
    return (answer.float() - (noise - latents))[:, :, 1:]
