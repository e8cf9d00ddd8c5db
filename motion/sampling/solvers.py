"""Solvers of the flow ODE; each is a function of (denoise, latents, sigmas) and may replace any other.

denoise(latents, sigma) -> clean latents: latents (b, ...) as walked by the solver, sigma (b,) float32.
on_step(step, num_steps, clean): called after every step; an exception from it (a cancel) passes through.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ShapeError
from .schedules import check_sigmas

Denoise = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, int, Tensor], None]


def euler(denoise: Denoise, latents: Tensor, sigmas: Tensor, *, on_step: OnStep | None = None) -> Tensor:
    """First-order steps along the flow: x' = (σ'/σ)·x + (1 - σ'/σ)·clean.

    latents: (b, ...), the noise at sigmas[0]; walked in float32 (float64 stays). sigmas: (n + 1,), see `check_sigmas`.
    Returns clean latents of the same shape. Raises ConfigError for bad sigmas before the first call of denoise,
    ShapeError for non-finite latents, naming the step where they arose.
    """
    return _walk(denoise, latents, sigmas, lambda levels, step: 0.0, on_step)


def flow_dpm_2m(denoise: Denoise, latents: Tensor, sigmas: Tensor, *, on_step: OnStep | None = None) -> Tensor:
    """DPM-Solver++ 2M (midpoint, data prediction) for flow matching; first and last step are first order.

    Arguments, return and errors as `euler`. Between the ends clean is replaced by
    clean + h/(2h₋)·(clean - previous clean), h = λ(σ') - λ(σ), λ(σ) = ln((1 - σ)/σ), h₋ the h of the step before.
    Source: Lu et al. 2022, arXiv 2211.01095 v2, Algorithm 2, with the α = 1 - σ of flow matching.
    """
    return _walk(denoise, latents, sigmas, _second_order_weight, on_step)


def _second_order_weight(levels: list[float], step: int) -> float:
    """h / (2h₋) at a step; 0 at the first and last, where the formula has no past or no finite h."""
    if step == 0 or step == len(levels) - 2:
        return 0.0
    before, here, after = (_half_log_snr(levels[step + offset]) for offset in (-1, 0, 1))
    return (after - here) / (2 * (here - before))


def _half_log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def _walk(
    denoise: Denoise, latents: Tensor, sigmas: Tensor, extrapolation: Callable[[list[float], int], float],
    on_step: OnStep | None,
) -> Tensor:  # fmt: skip
    """The loop all solvers share; they differ in how far clean is extrapolated from its predecessor."""
    levels = check_sigmas(sigmas)
    num_steps = len(levels) - 1
    state = _check_start(latents)
    told = torch.tensor(levels, dtype=torch.float32, device=state.device)
    guard = _FiniteGuard(levels, latents.dtype, state.device)
    previous = None
    for step in range(num_steps):
        clean = denoise(state, told[step].expand(state.shape[0]))
        _check_answer(clean, state)
        clean = clean.to(state.dtype)
        guard.watch(clean)
        weight = extrapolation(levels, step)
        target = clean + weight * (clean - previous) if weight else clean
        ratio = levels[step + 1] / levels[step]
        state = ratio * state + (1 - ratio) * target if ratio else target
        previous = clean
        if on_step is not None:
            on_step(step, num_steps, clean)
    guard.settle()
    return state


def _check_start(latents: Tensor) -> Tensor:
    if latents.ndim < 2 or not latents.numel():
        raise ShapeError(f"latents are {tuple(latents.shape)}; a non-empty (b, c, ...) is needed; use a latent node")
    if not latents.is_floating_point():
        raise ShapeError(f"latents are {latents.dtype}; floating point is needed; convert them first")
    if not latents.isfinite().all():
        raise ShapeError("latents hold NaN or infinity before the first step; check the noise and the start latent")
    return latents if latents.dtype == torch.float64 else latents.float()


def _check_answer(clean: Tensor, state: Tensor) -> None:
    if clean.shape != state.shape:
        raise ShapeError(
            f"the model answered {tuple(clean.shape)} to latents of {tuple(state.shape)}; equal shapes are needed; use "
            "the latent node that belongs to the model"
        )


class _FiniteGuard:
    """Finds the first step whose answer is not finite.

    On a CPU it stops at that step. Elsewhere looking would stall the device, so one flag a step stays there and all
    are read once at the end; the flags still tell which step was first.
    """

    def __init__(self, levels: list[float], dtype: torch.dtype, device: torch.device):
        self.levels, self.dtype = levels, dtype
        self.at_once = device.type == "cpu"
        self.flags: list[Tensor] = []

    def watch(self, clean: Tensor) -> None:
        """Note whether this step's answer is finite. Raises ShapeError on a CPU when it is not."""
        self.flags.append(clean.isfinite().all())
        if self.at_once:
            self.settle(len(self.flags) - 1)

    def settle(self, first: int = 0) -> None:
        """Raise ShapeError for the first non-finite step from `first` on."""
        for step, is_finite in enumerate(torch.stack(self.flags[first:]).tolist(), start=first):
            if not is_finite:
                raise ShapeError(
                    f"the model gave NaN or infinity at step {step + 1} of {len(self.levels) - 1} "
                    f"(sigma {self.levels[step]:.5f}, latents {self.dtype}); load the model in float32 or bfloat16"
                )
