"""Image to video by motion residuals: frame 0 is given clean, the later frames count.

With r = z - z1 the network sees z1 + (1 - sigma)·r + sigma·noise and answers noise - r (miramo §4, Alg. 1, Eq. 14).
"""

from collections.abc import Mapping

from torch import Tensor

from ...sampling.residual import residual_state_to_network
from ..trainee import Trainee
from .objective import Compared, NoisedSamples, noised, sample_means


class Residual(NoisedSamples):
    """The velocity of the residual, from networks that answer with a velocity."""

    name, least_frames = "residual", 2

    def loss(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Objective`: mean square of answer - (noise - residual) over frames 1 to t - 1."""
        return self.compared(trainee, batch).loss

    def compared(self, trainee: Trainee, batch: Mapping[str, Tensor]) -> Compared:
        """See `ComparedObjective`."""
        latents, first = batch["latents"], batch["latents"][:, :, :1]
        answer = trainee.predict(residual_input(batch), batch["sigma"], trainee.conditions(batch, first_latent=first))
        answer, truth = answer.float()[:, :, 1:], (batch["noise"] - (latents - first))[:, :, 1:]
        return Compared(sample_means((answer - truth).square()), answer, truth)


def residual_input(batch: Mapping[str, Tensor]) -> Tensor:
    """What the network sees (b, c, t, h, w): frame 0 clean, the others as their noised residuals on top of it."""
    return residual_state_to_network(noised(batch), batch["sigma"], batch["latents"])
