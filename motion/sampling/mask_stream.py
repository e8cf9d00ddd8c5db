"""Masks that a network makes beside a video, at a few of its steps, and what steers the video by them.

Of ten places spread evenly over the run masks are made at the first eight: of 50 steps at 0, 5 … 35. Between two of
them they take one Euler step of their own; each estimate of clean masks steers the calls from its own step on, the last
one to the end. Source: MIVA, arXiv 2512.20000, accelerated M-MIVA. There an estimate steers from the next call on; here
masks are a call of their own, made first, so that no call goes unsteered.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.subject_masks import SubjectMasks

PLACES, CALLS = 10, 8


def mask_steps(num_steps: int) -> tuple[int, ...]:
    """The steps, from 0, of a run of so many at which masks are made, rising; a short run makes fewer."""
    return tuple(dict.fromkeys(place * num_steps // PLACES for place in range(CALLS)))


class MaskStream:
    """The masks of one run of a flow sampler that calls the network once a step.

    first: (1, c, 1, h, w) latent of the mask of frame 1, scaled. known: (1, n), its scores. sigmas: of the run, the one
    it ends at included. noise: (1, c, t, h, w). scores_of: latents of masks (1, c, t, h, w) -> (1, t, n). A run that
    does not begin at noise takes for its masks that nothing has moved so far.
    """

    def __init__(
        self, first: Tensor, known: Tensor, sigmas: Sequence[float], noise: Tensor,
        scores_of: Callable[[Tensor], Tensor],
    ):  # fmt: skip
        self.first, self.known, self.scores_of = first, known, scores_of
        self.sigmas = [float(sigma) for sigma in sigmas]
        self._due = list(mask_steps(len(self.sigmas) - 1))
        start = self.sigmas[0]
        self._latents = self._begun((1 - start) * first + start * noise)
        self.masks: SubjectMasks | None = None  # that steer a call from here on

    def is_due(self, sigma: float) -> bool:
        """Whether masks are to be made before the call at this noise level."""
        return bool(self._due) and self._step_at(sigma) >= self._due[0]

    @property
    def latents(self) -> Tensor:
        """What the network is to see at the noise level that is due: (1, c, t, h, w)."""
        return self._latents

    def take(self, clean: Tensor) -> None:
        """Go on with the network's estimate of clean masks, (1, c, t, h, w), where that lies."""
        clean = self._begun(clean)
        scores = self.scores_of(clean)
        self.masks = SubjectMasks(torch.cat((self.known.unsqueeze(1).to(scores), scores[:, 1:]), dim=1))
        now = self.sigmas[self._due.pop(0)]
        if self._due:
            self._latents = self._begun(clean + self.sigmas[self._due[0]] / now * (self._latents.to(clean) - clean))

    def _step_at(self, sigma: float) -> int:
        """The step of the run whose noise level is nearest."""
        return min(range(len(self.sigmas) - 1), key=lambda step: abs(self.sigmas[step] - sigma))

    def _begun(self, latents: Tensor) -> Tensor:
        """Latents with the first mask in frame 1."""
        return torch.cat((self.first.to(latents), latents[:, :, 1:]), dim=2)
