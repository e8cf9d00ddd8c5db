"""Classifier-free guidance, on velocity and before the solver."""

import math

from torch import Tensor

from ..errors import ConfigError, ShapeError

MAX_GUIDANCE_SCALE = 100.0


def check_guidance_scale(guidance_scale: float) -> float:
    """Return the scale as a float. Raises ConfigError unless it is in [0, 100]; 1 is off."""
    if not math.isfinite(guidance_scale) or not 0.0 <= guidance_scale <= MAX_GUIDANCE_SCALE:
        raise ConfigError(
            f"guidance_scale is {guidance_scale}; it must be 0 to {MAX_GUIDANCE_SCALE:g}; 1 switches guidance off, "
            "5.5 is usual for MiraMo files"
        )
    return float(guidance_scale)


def guide_velocity(velocity_cond: Tensor, velocity_uncond: Tensor, guidance_scale: float) -> Tensor:
    """Push the velocity away from the unconditional one: v_u + guidance_scale·(v_c - v_u).

    Both (b, c, t, h, w), velocity = noise - clean; returns the same shape. Scale 1 returns velocity_cond itself.
    Raises ShapeError for shapes that differ, ConfigError for a scale outside [0, 100].
    Source: Ho & Salimans 2022, arXiv 2207.12598, Eq. 6, in the form w = 1 + s; MiraMo uses 5.5.
    """
    scale = check_guidance_scale(guidance_scale)
    if velocity_cond.shape != velocity_uncond.shape:
        raise ShapeError(
            f"velocities are {tuple(velocity_cond.shape)} and {tuple(velocity_uncond.shape)}; both must come from one "
            "latent; run both branches on the same input"
        )
    if scale == 1.0:
        return velocity_cond
    return velocity_uncond + scale * (velocity_cond - velocity_uncond)
