"""The velocity of the frames that are made, behind given ones that stand clean before them in the same sequence.

Source: FramePrompt, arXiv 2506.17301, Sec. 3.3, the "half-frames loss".
"""

from collections.abc import Mapping

from torch import Tensor

from ..trainee import Trainee
from .flow import frame_means
from .noise_levels import NoiseLevels
from .objective import NoisedSamples


class HalfFrames(NoisedSamples):
    """Frames at 0 in the batch's "frame_mask" (b, t) are never noised, and errors in them do not count.

    clean_timestep: tell the network noise level 0 of them; without, all frames of a sample are told the one level that
    those at 1 have, as in the paper.
    """

    name, least_frames = "half_frames", 3

    def __init__(self, levels: NoiseLevels, clean_timestep: bool = False):
        super().__init__(levels)
        self.clean_timestep = clean_timestep

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: mean square of answer - (noise - latents) over the frames at 1."""
        latents, noise, sigma, mask = batch["latents"], batch["noise"], batch["sigma"], batch["frame_mask"]
        each = sigma.unsqueeze(1) * mask
        level = each.view(len(sigma), 1, -1, 1, 1)
        shown = (1 - level) * latents + level * noise
        answer = trainee.predict(shown, each if self.clean_timestep else sigma, trainee.conditions(batch))
        return frame_means((answer.float() - (noise - latents)).square(), mask)
