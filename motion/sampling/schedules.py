"""Noise levels of flow matching: the shifted schedule, its checks, and what the network is told."""

import math

import torch
from torch import Tensor

from ..errors import ConfigError

BASE_MAX = 0.999  # the schedule starts at shift(0.999); sigma 1 itself was never trained
MAX_STEPS = 10000
MIN_SHIFT, MAX_SHIFT = 1e-150, 1000.0  # below, levels of a schedule that shifts twice round to 0
TRAIN_TIMESTEPS = 1000
ROUNDING = 1e-4  # float32 rounding of 1000·sigma stays below this


def shift_sigma(base: Tensor | float, shift: float) -> Tensor | float:
    """Move noise levels towards noise: shift·base / (1 + (shift - 1)·base).

    base in [0, 1], a number or a tensor of any shape; the same comes back, in [0, 1]. 0 and 1 stay.
    Raises ConfigError for a shift that is not in [1e-150, 1000].
    Source: Esser et al. 2024, arXiv 2403.03206, Eq. 23; MiraMo uses shift 3.
    """
    if not MIN_SHIFT <= shift <= MAX_SHIFT:
        raise ConfigError(f"shift is {shift}; it must be {MIN_SHIFT:g} to {MAX_SHIFT:g}; MiraMo files use 3")
    if shift < 0.5:  # shift - 1 would round, and near base 1 that is all there is of the sum
        return shift * base / (1 - base + shift * base)
    return shift * base / (1 + (shift - 1) * base)


def sigma_to_percent(sigma: float, shift: float) -> float:
    """How much of sampling is done at a noise level, as the host counts: 0 at noise 1, 1 at noise 0.

    The inverse of sigma = shift_sigma(1 - percent, shift), which turns out to be the same map with both ends swapped.
    Noise levels outside 0..1 count as the nearer end. Raises ConfigError as `shift_sigma` does.
    """
    return shift_sigma(1.0 - min(max(sigma, 0.0), 1.0), shift)


def flow_sigmas(num_steps: int, *, shift: float = 3.0) -> Tensor:
    """Noise levels the solver walks, from almost pure noise down to 0.

    Returns (num_steps + 1,) float64 on the CPU: shift_sigma(0.999·j / num_steps) for j = num_steps..1, then 0.
    Raises ConfigError for num_steps outside 1..10000 or a bad shift.
    Source: the Flow-DPM-Solver grid of SANA and diffusers; 25 steps, shift 3 are the paper's.
    """
    _check_steps(num_steps)
    base = BASE_MAX * torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps
    return torch.cat((shift_sigma(base, shift), base.new_zeros(1)))


def flow_match_sigmas(num_steps: int, *, shift: float = 8.0) -> Tensor:
    """The grid of SANA-Video's image-to-video pipeline: from pure noise evenly to the table's last level, then 0.

    Returns (num_steps + 1,) float64 on the CPU: num_steps even levels from 1 to shift_sigma(1/1000), each shifted once
    more, then 0. The shift acts twice on purpose: the ends of the table are shifted, and so are the levels between
    them. The network is told 1000·sigma, not cut to a whole number.
    Raises ConfigError for num_steps outside 1..10000 or a bad shift.
    Source: FlowMatchEulerDiscreteScheduler of diffusers 0.42 at a fixed shift; 50 steps, shift 8 are SANA-Video's.
    """
    _check_steps(num_steps)
    last = shift_sigma(1 / TRAIN_TIMESTEPS, shift)
    base = torch.linspace(1.0, last, num_steps, dtype=torch.float64)
    return torch.cat((shift_sigma(base, shift), base.new_zeros(1)))


SCHEDULES = {"flow_dpm": flow_sigmas, "flow_match_euler": flow_match_sigmas}


def _check_steps(num_steps: int) -> None:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= MAX_STEPS:
        raise ConfigError(f"num_steps is {num_steps!r}; it must be a whole number from 1 to {MAX_STEPS}")


def sigma_to_timestep(sigma: Tensor, *, integer: bool) -> Tensor:
    """What the network is told: 1000·sigma in [0, 1000], cut to a whole number where it was trained on those.

    sigma: any shape, in [0, 1]. Returns the same shape, float32.
    """
    timestep = sigma.float() * TRAIN_TIMESTEPS
    return (timestep + ROUNDING).floor() if integer else timestep


def check_sigmas(sigmas: Tensor) -> list[float]:
    """Refuse noise levels that do not lead to clean latents; return them as plain numbers.

    sigmas: (n + 1,), in [0, 1], falling strictly, ending at 0. Raises ConfigError otherwise.
    """
    values = _plain(sigmas)
    if values[0] > 1:
        raise ConfigError(
            f"sigmas start at {values[0]:.6g}; a flow model walks from at most 1 to 0; use the Flow Scheduler node"
        )
    for step, (sigma, following) in enumerate(zip(values, values[1:])):
        if following >= sigma:
            raise ConfigError(
                f"sigmas go from {sigma:.6g} to {following:.6g} at step {step}; they must fall at every step; sort "
                "them from high to low and drop repeats"
            )
    if values[-1] != 0:
        raise ConfigError(f"sigmas end at {values[-1]:.6g}; they must end at 0, else noise is left; append a 0")
    return values


def check_one_way(sigmas: Tensor) -> list[float]:
    """Refuse noise levels that do not lead one way, up or down; return them as plain numbers.

    sigmas: (n + 1,), in [0, 1], falling strictly or rising strictly, from anywhere to anywhere. Raises ConfigError
    otherwise.
    """
    values = _plain(sigmas)
    for step, sigma in enumerate(values):
        if not 0 <= sigma <= 1:
            raise ConfigError(f"sigma {sigma:.6g} at place {step} lies outside 0 to 1, which is all a flow model knows")
    falls = values[1] < values[0]
    for step, (sigma, following) in enumerate(zip(values, values[1:])):
        if following == sigma or (following < sigma) != falls:
            way = "fall" if falls else "rise"
            raise ConfigError(
                f"sigmas go from {sigma:.6g} to {following:.6g} at step {step}; they must {way} at every step, as at "
                "the first; walk each direction in a run of its own and drop repeats"
            )
    return values


def _plain(sigmas: Tensor) -> list[float]:
    """A row of at least two finite noise levels as numbers. Raises ConfigError for anything else."""
    sigmas = torch.as_tensor(sigmas)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ConfigError(
            f"sigmas have shape {tuple(sigmas.shape)}; at least two values in one row are needed (1 or more steps); "
            "use the Flow Scheduler node or flow_sigmas"
        )
    values = sigmas.detach().cpu().double().tolist()
    if not all(math.isfinite(value) for value in values):
        raise ConfigError("sigmas hold NaN or infinity; make them anew with the Flow Scheduler node or flow_sigmas")
    return values
