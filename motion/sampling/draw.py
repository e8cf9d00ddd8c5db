"""Noise and what the network is told in, latents out: the one way in which samples are drawn."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.conditions import Conditions
from ..models.model_spec import SamplingDefaults
from .denoiser import MotionDenoiser
from .schedules import flow_sigmas
from .solvers import Denoise, OnStep, flow_dpm_2m

Solver = Callable[..., Tensor]  # one of solvers.py


def draw(
    network: Callable[..., Tensor], noise: Tensor, positive: Conditions, sampling: SamplingDefaults, *,
    negative: Conditions | None = None, num_steps: int | None = None, shift: float | None = None,
    guidance_scale: float | None = None, solver: Solver = flow_dpm_2m, text_cache=None,
    on_step: OnStep | None = None, levels: tuple[float, float] = (0.0, 1.0), clean: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Scaled latents (b, c, t, h, w) of a network as `MotionDenoiser` takes it.

    noise: (b, c, t, h, w), unit normal. positive, negative, text_cache: see `MotionDenoiser`; a start image in positive
    is where the frames begin, see `draw_by`. num_steps, shift, guidance_scale: None takes that of sampling, as does
    integer_timesteps. on_step: see `solvers`. levels: see `draw_by`; clean: its `still`, where there is no start image.
    Raises ConfigError and ShapeError. Call it without gradients.
    """
    scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
    denoise = MotionDenoiser(
        network, positive, negative, guidance_scale=scale, integer_timesteps=sampling.integer_timesteps,
        text_cache=text_cache,
    )  # fmt: skip
    still = clean if positive.first_latent is None else positive.first_latent[:, :, :1]
    return draw_by(
        denoise, noise, still, num_steps=sampling.num_steps if num_steps is None else num_steps,
        shift=sampling.shift if shift is None else shift, solver=solver, on_step=on_step, levels=levels,
    )  # fmt: skip


def draw_by(
    denoise: Denoise, noise: Tensor, still: Tensor | None = None, *, num_steps: int, shift: float,
    solver: Solver = flow_dpm_2m, on_step: OnStep | None = None, levels: tuple[float, float] = (0.0, 1.0),
) -> Tensor:  # fmt: skip
    """Latents of any denoiser, on the paper's grid of levels.

    still: (b or 1, c, 1 or t, h, w), what the noise is mixed with at the first level, so that the residual starts as
    noise alone; None: the start is the noise itself. levels: the least and the largest that the denoiser knows; from
    the least it goes to clean latents in one step, and it begins at the largest, where `still` should be given.
    """
    sigmas = _between(flow_sigmas(num_steps, shift=shift), *levels)
    if still is None:
        return solver(denoise, noise, sigmas, on_step=on_step)
    level = sigmas[0].item()
    return solver(denoise, level * noise.to(still.device) + (1 - level) * still, sigmas, on_step=on_step)


def _between(sigmas: Tensor, low: float, high: float) -> Tensor:
    """The levels of a grid inside limits, with the limits themselves where they cut it, then 0."""
    inside = sigmas[(sigmas > low) & (sigmas < high)]
    first = [high] if sigmas[0] > high else []
    last = [low] if low > 0 else []
    return torch.cat((sigmas.new_tensor(first), inside, sigmas.new_tensor(last), sigmas.new_zeros(1)))


def make_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Unit normal noise, float32 on the CPU: the same numbers the host's RandomNoise gives for this seed and shape."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)
