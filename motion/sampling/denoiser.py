"""A network with its conditions bound, as the (latents, sigma) -> clean callable the solvers take."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..layers.frame_curve import frame_curve
from .guidance import check_guidance_scale, guide_velocity
from .residual import network_velocity_to_clean, residual_state_to_network
from .schedules import sigma_to_timestep


class TextCondition(NamedTuple):
    """One encoded prompt."""

    context: Tensor  # (b or 1, n, caption_channels)
    attention_mask: Tensor | None = None  # (b or 1, n), 1 = real token
    pooled: Tensor | None = None  # (b or 1, caption_channels)


class MotionDenoiser:
    """Turns a motion network into a denoiser: (latents, sigma) -> clean latents.

    dit: called as dit(latents, timestep, context, attention_mask=, motion_bucket_id=, pooled=, first_latent=) and
    returns velocity = noise - clean. Latents reach it in its own dtype (`dit.dtype`, where it has one); everything
    else here stays in the dtype of the latents.
    context (b or 1, n, d), attention_mask (b or 1, n), pooled (b or 1, d): the prompt. negative: a TextCondition,
    needed when guidance_scale is not 1. motion_bucket_id: a number or (b or 1,), the same in both branches.
    first_latent: (b or 1, c, 1 or t, h, w), scaled; with it the network is a residual model and frame 0 stays
    first_latent; None: the network predicts whole frames. places: (2, t) of `clip_places`, which reach the network as
    frame_indices=, detail_indices= and, between whole places, curve=; None: it counts frames itself.
    integer_timesteps: tell it floor(1000·sigma). text_cache: a fresh TextCache of the network, which then is also
    called with text_cache= and text_keys=, one a row; the network and the prompts must stay as they are while this
    denoiser is used.
    Raises ShapeError and ConfigError for conditions that do not fit together.
    """

    def __init__(
        self, dit: Callable[..., Tensor], *, context: Tensor, attention_mask: Tensor | None = None,
        pooled: Tensor | None = None, motion_bucket_id: Tensor | int | None = None, first_latent: Tensor | None = None,
        negative: TextCondition | None = None, guidance_scale: float = 1.0, integer_timesteps: bool = False,
        text_cache=None, places: Tensor | None = None,
    ):  # fmt: skip
        self.dit, self.text_cache, self.places = dit, text_cache, places
        self.curve = None if places is None else frame_curve(places[0])
        self.positive = _check_text(TextCondition(context, attention_mask, pooled), "prompt")
        self.guidance_scale = check_guidance_scale(guidance_scale)
        self.negative = None
        if self.guidance_scale != 1.0:
            if negative is None:
                raise ConfigError(
                    f"guidance_scale is {guidance_scale} but no negative prompt is given; encode one (it may be "
                    "empty) or use guidance_scale 1"
                )
            self.negative = _check_text(TextCondition(*negative), "negative prompt")
        self.motion_bucket_id = motion_bucket_id
        self.first_latent = first_latent
        self.integer_timesteps = integer_timesteps

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Clean estimate of latents (b, c, t, h, w) at sigma (b,); same shape and dtype."""
        if self.first_latent is None:
            velocity = self._velocity(latents, sigma)
            return latents - sigma.to(latents).view(-1, 1, 1, 1, 1) * velocity
        seen = residual_state_to_network(latents, sigma, self.first_latent)
        velocity = self._velocity(seen, sigma)
        return network_velocity_to_clean(latents, seen, velocity, sigma, self.first_latent)

    def _velocity(self, seen: Tensor, sigma: Tensor) -> Tensor:
        """Guided velocity; the two branches run as one batch where their prompts have equal length."""
        b = seen.shape[0]
        positive, keys = _expand(self.positive, b), _keys("positive", self.positive, b)
        bucket, start = self._conditions(seen)
        if self.negative is None:
            return self._call(seen, sigma, positive, bucket, start, keys)
        negative, keys_n = _expand(self.negative, b), _keys("negative", self.negative, b)
        if _fit_in_one_batch(positive, negative):
            twice = [_join(part, part) for part in (seen, sigma, bucket, start)]
            both = TextCondition(*(_join(p, n) for p, n in zip(positive, negative)))
            cond, uncond = self._call(*twice[:2], both, *twice[2:], keys + keys_n).chunk(2)
        else:
            cond = self._call(seen, sigma, positive, bucket, start, keys)
            uncond = self._call(seen, sigma, negative, bucket, start, keys_n)
        return guide_velocity(cond, uncond, self.guidance_scale)

    def _conditions(self, seen: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Motion bucket (b,) and first latent (b, c, 1, h, w) for the network, each None when not given."""
        b, bucket, start = seen.shape[0], self.motion_bucket_id, self.first_latent
        if bucket is not None:
            bucket = _fill(torch.as_tensor(bucket, device=seen.device).reshape(-1), b, "motion_bucket_id")
        if start is not None:
            start = _fill(start[:, :, :1].to(device=seen.device, dtype=self._dtype(seen)), b, "first_latent")
        return bucket, start

    def _dtype(self, seen: Tensor) -> torch.dtype:
        return getattr(self.dit, "dtype", None) or seen.dtype

    def _call(
        self, seen: Tensor, sigma: Tensor, text: TextCondition, bucket: Tensor | None, start: Tensor | None,
        keys: tuple,
    ) -> Tensor:  # fmt: skip
        kept = {} if self.text_cache is None else {"text_cache": self.text_cache, "text_keys": keys}
        if self.places is not None:
            places = self.places.to(seen.device)
            kept |= {"frame_indices": places[0], "detail_indices": places[1]}
        if self.curve is not None:
            kept["curve"] = self.curve.to(seen.device)
        velocity = self.dit(
            seen.to(self._dtype(seen)), sigma_to_timestep(sigma, integer=self.integer_timesteps), text.context,
            attention_mask=text.attention_mask, motion_bucket_id=bucket, pooled=text.pooled, first_latent=start,
            **kept,
        )  # fmt: skip
        if velocity.shape != seen.shape:
            raise ShapeError(
                f"the network answered {tuple(velocity.shape)} to latents of {tuple(seen.shape)}; equal shapes are "
                "needed; use the latent node that belongs to the model"
            )
        return velocity.to(seen.dtype)


def _check_text(text: TextCondition, name: str) -> TextCondition:
    """Raises ShapeError when context, mask and pooled prompt do not belong together."""
    context, mask, pooled = text
    if context.ndim != 3 or context.shape[1] < 1:
        raise ShapeError(f"{name}: context is {tuple(context.shape)}; (b, n, d) with n >= 1 is needed; encode a prompt")
    if mask is not None and tuple(mask.shape) != tuple(context.shape[:2]):
        raise ShapeError(
            f"{name}: attention_mask is {tuple(mask.shape)}, context {tuple(context.shape)}; the mask must be (b, n); "
            "take both from one call of the text encoder"
        )
    if pooled is not None and (pooled.ndim != 2 or pooled.shape[0] != context.shape[0]):
        raise ShapeError(
            f"{name}: pooled is {tuple(pooled.shape)}, context {tuple(context.shape)}; pooled must be (b, d) with the "
            "same b; take both from one call of the text encoder"
        )
    return text


def _expand(text: TextCondition, b: int) -> TextCondition:
    return TextCondition(*(None if part is None else _fill(part, b, "prompt") for part in text))


def _keys(name: str, text: TextCondition, b: int) -> tuple:
    """A name for the text of each of b rows; rows that share one prompt share one name."""
    own = max(part.shape[0] for part in (text.context, text.attention_mask) if part is not None) > 1
    return tuple((name, row if own else 0) for row in range(b))


def _fill(values: Tensor, b: int, name: str) -> Tensor:
    """Repeat a batch of 1 to b rows; refuse any other mismatch."""
    rows = values.shape[0]
    if rows == b:
        return values
    if rows != 1:
        raise ShapeError(f"{name} has {rows} rows, the latents {b}; 1 or {b} are needed; make the batches equal")
    return values.expand(b, *values.shape[1:])


def _join(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None else torch.cat((first, second))


def _fit_in_one_batch(positive: TextCondition, negative: TextCondition) -> bool:
    return all(
        (p is None) == (n is None) and (p is None or p.shape == n.shape) for p, n in zip(positive, negative)
    )
