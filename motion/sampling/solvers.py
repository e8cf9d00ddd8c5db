"""Solvers of the flow ODE: functions of (denoise, latents, sigmas) with one contract.

denoise(latents, sigma) -> clean latents: latents (b, ...) as walked by the solver, sigma (b,) float32. A solver may
call it several times a step. Each says which sigmas it walks, and checks them before the first call.
on_step(step, num_steps, clean): called once after every step, with the step's first clean estimate; an exception from
it (a cancel) passes through.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .schedules import check_one_way, check_sigmas

Denoise = Callable[[Tensor, Tensor], Tensor]
Velocity = Callable[[Tensor, Tensor], Tensor]  # like Denoise, but noise - clean comes back
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


def midpoint(
    denoise: Denoise, latents: Tensor, sigmas: Tensor, *, velocity: Velocity | None = None,
    on_step: OnStep | None = None,
) -> Tensor:  # fmt: skip
    """Second-order steps of two calls, down to clean latents or up to noise: x' = x + h·v(x + h/2·v(x, σ), σ + h/2).

    h = σ' - σ, v = noise - clean = (x - clean)/σ. sigmas: see `check_one_way`. velocity(latents, sigma): the model's
    own v, asked instead of denoise; needed to walk up from 0, where a clean estimate tells none.
    latents at sigmas[0], walked as by `euler`; returns latents at sigmas[-1]. Errors as `euler`.
    Source: RF-Solver-2, Wang et al. 2024, arXiv 2411.04746, Algorithm 1: x + h·v + h²/2·(v_m - v)/(h/2) = x + h·v_m.
    """
    levels = check_one_way(sigmas)
    if velocity is None and levels[0] == 0:
        raise ConfigError(
            "sigmas start at 0, where a clean estimate tells no velocity; start at 0.02 or above, or give the "
            "model's velocity"
        )
    middles = [(here + after) / 2 for here, after in zip(levels, levels[1:])]
    asked_at = [level for pair in zip(levels, middles) for level in pair]
    model = _Model(denoise if velocity is None else velocity, latents, asked_at, calls_per_step=2)
    state = model.start
    for step, (here, after) in enumerate(zip(levels, levels[1:])):
        first = model(state)
        slope = (state - first) / here if velocity is None else first
        middle = state + (after - here) / 2 * slope
        second = model(middle)
        slope = (middle - second) / middles[step] if velocity is None else second
        clean = first if velocity is None else state - here * first
        state = state + (after - here) * slope
        if on_step is not None:
            on_step(step, len(middles), clean)
    model.settle()
    return state


def _walk(
    denoise: Denoise, latents: Tensor, sigmas: Tensor, extrapolation: Callable[[list[float], int], float],
    on_step: OnStep | None,
) -> Tensor:  # fmt: skip
    """The loop of the one-call solvers; they differ in how far clean is extrapolated from its predecessor."""
    levels = check_sigmas(sigmas)
    num_steps = len(levels) - 1
    model = _Model(denoise, latents, levels[:-1])
    state, previous = model.start, None
    for step in range(num_steps):
        clean = model(state)
        weight = extrapolation(levels, step)
        target = clean + weight * (clean - previous) if weight else clean
        ratio = levels[step + 1] / levels[step]
        state = ratio * state + (1 - ratio) * target if ratio else target
        previous = clean
        if on_step is not None:
            on_step(step, num_steps, clean)
    model.settle()
    return state


class _Model:
    """A model asked at levels that are known beforehand, in their order; latents and answers are checked.

    levels: of all calls, calls_per_step of them a step.
    """

    def __init__(
        self, call: Callable[[Tensor, Tensor], Tensor], latents: Tensor, levels: list[float], calls_per_step: int = 1
    ):
        self.call, self.start = call, _check_start(latents)
        self.told = torch.tensor(levels, dtype=torch.float32, device=self.start.device)
        self.guard = _FiniteGuard(levels, latents.dtype, self.start.device, calls_per_step)
        self.count = 0

    def __call__(self, state: Tensor) -> Tensor:
        """The next answer, in the dtype of the state."""
        answer = self.call(state, self.told[self.count].expand(state.shape[0]))
        self.count += 1
        _check_answer(answer, state)
        answer = answer.to(state.dtype)
        self.guard.watch(answer)
        return answer

    def settle(self) -> None:
        """Raise ShapeError where an answer was not finite and that could not be seen at once."""
        self.guard.settle()


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
    """Finds the first step with an answer that is not finite.

    levels: of all calls, calls_per_step of them a step. On a CPU it stops at that call. Elsewhere looking would stall
    the device, so one flag a call stays there and all are read once at the end; they still tell which was first.
    """

    def __init__(self, levels: list[float], dtype: torch.dtype, device: torch.device, calls_per_step: int = 1):
        self.levels, self.dtype, self.calls_per_step = levels, dtype, calls_per_step
        self.at_once = device.type == "cpu"
        self.flags: list[Tensor] = []

    def watch(self, answer: Tensor) -> None:
        """Note whether this call's answer is finite. Raises ShapeError on a CPU when it is not."""
        self.flags.append(answer.isfinite().all())
        if self.at_once:
            self.settle(len(self.flags) - 1)

    def settle(self, first: int = 0) -> None:
        """Raise ShapeError for the first non-finite answer from call `first` on."""
        for call, is_finite in enumerate(torch.stack(self.flags[first:]).tolist(), start=first):
            if not is_finite:
                raise ShapeError(
                    f"the model gave NaN or infinity at step {call // self.calls_per_step + 1} of "
                    f"{len(self.levels) // self.calls_per_step} (sigma {self.levels[call]:.5f}, latents "
                    f"{self.dtype}); load the model in float32 or bfloat16"
                )
