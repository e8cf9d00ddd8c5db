"""A network with its conditions bound, as the (latents, sigma) -> clean callable the solvers take."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..models.conditions import Conditions
from .guidance import check_guidance_scale, guide_velocity
from .residual import network_velocity_to_clean, residual_state_to_network
from .schedules import sigma_to_timestep


class MotionDenoiser:
    """Turns a motion network into a denoiser: (latents, sigma) -> clean latents.

    dit: called as dit(latents, timestep, conditions), returns velocity = noise - clean. Latents, text and start image
    reach it in its own dtype (`dit.dtype`, where it has one); everything else here stays in the dtype of the latents.
    positive: what it is told, with a row for all samples or one each. Its first_latent makes the network a residual
    model, and frame 0 stays that image; without one the network predicts whole frames. negative: what the other branch
    of guidance is told, needed when guidance_scale is not 1; `positive.with_text_of(...)` differs in the prompt alone.
    integer_timesteps: tell it floor(1000·sigma). text_cache: a fresh TextCache of the network, which then is also
    called with text_cache= and text_keys=, one a row; the network and the prompts must stay as they are while this
    denoiser is used.
    Raises ShapeError and ConfigError for conditions that do not fit together.
    """

    def __init__(
        self, dit: Callable[..., Tensor], positive: Conditions, negative: Conditions | None = None, *,
        guidance_scale: float = 1.0, integer_timesteps: bool = False, text_cache=None,
    ):  # fmt: skip
        self.dit, self.text_cache, self.integer_timesteps = dit, text_cache, integer_timesteps
        self.positive = positive.check("prompt")
        self.guidance_scale = check_guidance_scale(guidance_scale)
        self.negative = None
        if self.guidance_scale != 1.0:
            self.negative = _check_negative(negative, positive, guidance_scale)

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Clean estimate of latents (b, c, t, h, w) at sigma (b,); same shape and dtype."""
        first = self.positive.first_latent
        if first is None:
            velocity = self._velocity(latents, sigma)
            return latents - sigma.to(latents).view(-1, 1, 1, 1, 1) * velocity
        seen = residual_state_to_network(latents, sigma, first)
        velocity = self._velocity(seen, sigma)
        return network_velocity_to_clean(latents, seen, velocity, sigma, first)

    def _velocity(self, seen: Tensor, sigma: Tensor) -> Tensor:
        """Guided velocity; the two branches run as one batch where their conditions fit into one."""
        b = seen.shape[0]
        positive, keys = self.positive.for_rows(b), _keys("positive", self.positive, b)
        if self.negative is None:
            return self._call(seen, sigma, positive, keys)
        negative, keys_n = self.negative.for_rows(b), _keys("negative", self.negative, b)
        if positive.fits_beside(negative):
            twice = torch.cat((seen, seen)), torch.cat((sigma, sigma))
            cond, uncond = self._call(*twice, positive.joined(negative), keys + keys_n).chunk(2)
        else:
            cond = self._call(seen, sigma, positive, keys)
            uncond = self._call(seen, sigma, negative, keys_n)
        return guide_velocity(cond, uncond, self.guidance_scale)

    def _call(self, seen: Tensor, sigma: Tensor, told: Conditions, keys: tuple) -> Tensor:
        dtype = getattr(self.dit, "dtype", None) or seen.dtype
        kept = {} if self.text_cache is None else {"text_cache": self.text_cache, "text_keys": keys}
        timestep = sigma_to_timestep(sigma, integer=self.integer_timesteps)
        velocity = self.dit(seen.to(dtype), timestep, told.to(seen.device, dtype), **kept)
        if velocity.shape != seen.shape:
            raise ShapeError(
                f"the network answered {tuple(velocity.shape)} to latents of {tuple(seen.shape)}; equal shapes are "
                "needed; use the latent node that belongs to the model"
            )
        return velocity.to(seen.dtype)


def _check_negative(negative: Conditions | None, positive: Conditions, guidance_scale: float) -> Conditions:
    """Raises ConfigError where there is none, or where it begins otherwise; ShapeError for a text that does not fit."""
    if negative is None:
        raise ConfigError(
            f"guidance_scale is {guidance_scale} but no negative prompt is given; encode one (it may be empty) or use "
            "guidance_scale 1"
        )
    if (negative.first_latent is None) != (positive.first_latent is None):
        raise ConfigError(
            "one prompt has the start image and the other has not; both need it: make the negative conditions with "
            "positive.with_text_of"
        )
    return negative.check("negative prompt")


def _keys(name: str, told: Conditions, b: int) -> tuple:
    """A name for the text of each of b rows; rows that share one prompt share one name."""
    own = told.context.shape[0] > 1
    return tuple((name, row if own else 0) for row in range(b))
