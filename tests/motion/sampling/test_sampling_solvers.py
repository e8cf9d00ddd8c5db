"""Schedules and solvers against the published table, diffusers, exact flows, and bad input."""

import math

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.sampling.schedules import check_sigmas, flow_sigmas, shift_sigma, sigma_to_timestep
from pack.motion.sampling.solvers import euler, flow_dpm_2m

TABLE_25 = (
    "0.99967 .98596 .97149 .95617 .93995 .92272 .9044 .88488 .86404 .84174 .81781 .79208 .76433 .73432 .70175 .6663 "
    ".62754 .58501 .53812 .48616 .42827 .36336 .29009 .20672 .11101 0"
)


def diffusers_scheduler(**options):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True, **options
    )


def gaussian_flow(mean, std):
    """Denoiser and exact end point of the flow whose clean data are Gaussian."""

    def variance(sigma):
        return ((1 - sigma) * std) ** 2 + sigma**2

    def denoise(latents, sigma):
        s = sigma.to(latents).view(-1, *[1] * (latents.ndim - 1))
        return mean + (1 - s) * std**2 / variance(s) * (latents - (1 - s) * mean)

    def end(latents, sigma):
        return mean + std * (latents - (1 - sigma) * mean) / math.sqrt(variance(sigma))

    return denoise, end


def test_25_steps_equal_the_published_table():
    assert [round(s, 5) for s in flow_sigmas(25).tolist()] == [float(s) for s in TABLE_25.split()]


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("num_steps", [1, 2, 8, 25, 50])
def test_schedule_equals_diffusers(num_steps):
    scheduler = diffusers_scheduler(flow_shift=3.0)
    scheduler.set_timesteps(num_steps)
    sigmas = flow_sigmas(num_steps)
    assert sigmas.dtype == torch.float64 and sigmas.shape == (num_steps + 1,)
    assert torch.allclose(sigmas, scheduler.sigmas.double(), atol=1e-6)
    told = sigma_to_timestep(sigmas[:-1].float(), integer=True)
    assert torch.equal(told, scheduler.timesteps.float())


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("num_steps", [1, 2, 8, 25])
def test_flow_dpm_2m_equals_diffusers(num_steps):
    scheduler = diffusers_scheduler(flow_shift=3.0)
    scheduler.set_timesteps(num_steps)
    latents = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))

    def velocity(x, sigma):
        return torch.tanh(x * (1 + sigma)) - target * (1 - sigma)

    theirs = latents.clone()
    for step, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(velocity(theirs, scheduler.sigmas[step]), timestep, theirs).prev_sample
    ours = flow_dpm_2m(
        lambda x, sigma: x - sigma[0] * velocity(x, sigma[0]), latents, scheduler.sigmas.double()
    )
    assert torch.allclose(ours, theirs, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("solver", [euler, flow_dpm_2m])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 25])
def test_constant_clean_estimate_is_reached_exactly_along_a_straight_line(solver, num_steps):
    clean = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigmas = flow_sigmas(num_steps)
    seen = []

    def denoise(latents, sigma):
        seen.append((latents - ((1 - sigmas[len(seen)]) * clean + sigmas[len(seen)] * noise)).abs().max())
        return clean

    out = solver(denoise, (1 - sigmas[0]) * clean + sigmas[0] * noise, sigmas)
    assert torch.equal(out, clean)
    assert max(seen) < 1e-12


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (flow_dpm_2m, 2)])
def test_error_falls_with_the_order_of_the_solver(solver, order):
    denoise, end = gaussian_flow(0.7, 0.3)
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, -1)
    errors = []
    for num_steps in (80, 160, 320):
        levels = torch.sigmoid(-torch.linspace(-6, 10, num_steps, dtype=torch.float64))  # even steps of λ
        sigmas = torch.cat((levels, levels.new_zeros(1)))
        errors.append(float((solver(denoise, latents, sigmas) - end(latents, float(sigmas[0]))).abs().max()))
    measured = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert measured[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < (1e-2 if order == 1 else 2e-4)


def test_schedule_may_start_at_pure_noise():
    denoise, end = gaussian_flow(0.7, 0.3)
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, -1)
    sigmas = shift_sigma(torch.linspace(1, 0, 41, dtype=torch.float64), 3.0)
    assert torch.allclose(flow_dpm_2m(denoise, latents, sigmas), end(latents, 1.0), atol=1e-2)


@pytest.mark.parametrize("solver", [euler, flow_dpm_2m])
def test_solver_reports_every_step_and_leaves_its_inputs_alone(solver):
    latents, sigmas, told, calls = torch.ones(2, 1, 4), flow_sigmas(4), [], []
    before = latents.clone(), sigmas.clone()

    def denoise(x, sigma):
        told.append((tuple(sigma.shape), sigma.dtype))
        return x * 0.5

    solver(denoise, latents, sigmas, on_step=lambda step, total, clean: calls.append((step, total, clean.shape)))
    assert calls == [(step, 4, latents.shape) for step in range(4)]
    assert told == [((2,), torch.float32)] * 4
    assert torch.equal(latents, before[0]) and torch.equal(sigmas, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_are_walked_in_float32(dtype):
    out = flow_dpm_2m(lambda x, sigma: (x * 0.5).to(dtype), torch.ones(1, 1, 4, dtype=dtype), flow_sigmas(4))
    assert out.dtype == torch.float32


def test_an_exception_from_on_step_passes_through_at_that_step():
    calls = []

    def cancel(step, num_steps, clean):
        calls.append(step)
        if step == 2:
            raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        euler(lambda x, sigma: x, torch.ones(1, 1, 4), flow_sigmas(6), on_step=cancel)
    assert calls == [0, 1, 2]


BAD_SIGMAS = [
    ([], "at least two"),
    ([1.0], "at least two"),
    ([[1.0, 0.0]], "at least two"),
    ([0.2, 0.5, 0.0], "from 0.2 to 0.5 at step 0"),
    ([0.9, 0.5, 0.5, 0.0], "from 0.5 to 0.5 at step 1"),
    ([0.9, float("nan"), 0.0], "NaN"),
    ([float("inf"), 0.5, 0.0], "infinity"),
    ([0.9, 0.5, 0.1], "end at 0.1"),
    ([0.9, 0.0, -0.1], "end at -0.1"),
    ([14.6, 1.0, 0.0], "start at 14.6"),
]


@pytest.mark.parametrize("solver", [euler, flow_dpm_2m])
@pytest.mark.parametrize(("sigmas", "text"), BAD_SIGMAS)
def test_bad_sigmas_are_refused_before_the_first_model_call(solver, sigmas, text):
    def never(latents, sigma):
        raise RuntimeError("the model was called")

    with pytest.raises(ConfigError, match=text):
        solver(never, torch.ones(1, 1, 4), torch.tensor(sigmas))
    with pytest.raises(ConfigError, match=text):
        check_sigmas(torch.tensor(sigmas))


@pytest.mark.parametrize("num_steps", [0, -1, 10001, 2.5, True, None])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ConfigError, match="num_steps is .* whole number from 1 to 10000$"):
        flow_sigmas(num_steps)


@pytest.mark.parametrize("shift", [0.0, -3.0, float("nan"), 1e9])
def test_impossible_shifts_are_refused(shift):
    with pytest.raises(ConfigError, match="shift is"):
        flow_sigmas(4, shift=shift)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_from_the_model_stops_at_its_step_and_is_named(value):
    calls = []

    def denoise(latents, sigma):
        calls.append(float(sigma[0]))
        clean = latents * 0.5
        if len(calls) == 3:
            clean[0, 0, 1] = value
        return clean

    sigmas = flow_sigmas(8)
    with pytest.raises(ShapeError, match="step 3 of 8") as caught:
        flow_dpm_2m(denoise, torch.ones(1, 1, 4, dtype=torch.float16), sigmas)
    assert len(calls) == 3
    assert f"sigma {float(sigmas[2]):.5f}" in str(caught.value)
    assert "torch.float16" in str(caught.value) and "bfloat16" in str(caught.value)


def test_flags_read_only_at_the_end_still_name_the_first_bad_step():
    from pack.motion.sampling.solvers import _FiniteGuard

    guard = _FiniteGuard([0.9, 0.6, 0.3, 0.0], torch.float32, torch.device("cpu"))
    guard.at_once = False
    for answer in (1.0, float("nan"), float("nan")):
        guard.watch(torch.tensor([answer]))
    with pytest.raises(ShapeError, match="step 2 of 3"):
        guard.settle()


def test_unusable_latents_and_answers_are_refused():
    sigmas = flow_sigmas(2)
    for latents, text in [
        (torch.full((1, 1, 4), float("nan")), "before the first step"),
        (torch.ones(1, 1, 4, dtype=torch.long), "floating point"),
        (torch.ones(1, 0, 4), "non-empty"),
        (torch.ones(4), "non-empty"),
    ]:
        with pytest.raises(ShapeError, match=text):
            euler(lambda x, sigma: x, latents, sigmas)
    with pytest.raises(ShapeError, match="answered"):
        euler(lambda x, sigma: x[..., :2], torch.ones(1, 1, 4), sigmas)
