"""Schedules and solvers against the published table, diffusers, exact flows, and bad input."""

import math
from fractions import Fraction

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.sampling.schedules import check_one_way, check_sigmas, flow_sigmas, shift_sigma, sigma_to_timestep
from pack.motion.sampling.solvers import euler, flow_dpm_2m, midpoint

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


def test_levels_of_a_tiny_shift_are_those_of_whole_fractions():
    for shift in (0.3, 0.01, 1e-7, 1e-20, 1e-100):
        for base in (0.0, 1e-3, 0.37, 0.999, 1.0):
            b, s = Fraction(base), Fraction(shift)
            truth = float(s * b / (1 + (s - 1) * b))
            found = shift_sigma(torch.tensor([base], dtype=torch.float64), shift)
            assert shift_sigma(base, shift) == float(found) == pytest.approx(truth, rel=1e-13, abs=0)
        assert shift_sigma(1.0, shift) == 1.0


@pytest.mark.parametrize("shift", [0.0, -3.0, float("nan"), 1e9, 1e-200])
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

    guard = _FiniteGuard([0.9, 0.6, 0.3], torch.float32, torch.device("cpu"))
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


def curved_velocity(x, sigma):
    """A flow that bends, and whose exact way is known: dx/dσ = -(1 + σ)·x²."""
    return -(1 + sigma.to(x).view(-1, 1)) * x.square()


def curved_denoise(x, sigma):
    return x - sigma.to(x).view(-1, 1) * curved_velocity(x, sigma)


def way_along(sigmas):
    """STARTS carried exactly from the first level to the last: 1/x grows by the rise of σ + σ²/2."""
    first, last = float(sigmas[0]), float(sigmas[-1])
    return 1 / (1 / STARTS + (last + last**2 / 2) - (first + first**2 / 2))


def even(low, high, num_steps):
    """Falling levels that float32 holds exactly, and so are told exactly."""
    return torch.linspace(high, low, num_steps + 1, dtype=torch.float64)


def slope_of_error(error_at, counts=(32, 64, 128)):
    """How the error falls with the step: log2 of the ratio at the last halving."""
    errors = [error_at(count) for count in counts]
    return math.log2(errors[-2] / errors[-1])


STARTS = torch.linspace(0.25, 0.5, 9, dtype=torch.float64).view(1, -1)


@pytest.mark.parametrize("rises", [False, True])
@pytest.mark.parametrize("velocity", [None, curved_velocity])
def test_midpoint_is_of_second_order_down_and_up(rises, velocity):
    def error(num_steps):
        sigmas = even(1 / 16, 15 / 16, num_steps)
        sigmas = sigmas.flip(0) if rises else sigmas
        out = midpoint(curved_denoise, STARTS, sigmas, velocity=velocity)
        return float((out - way_along(sigmas)).abs().max())

    assert slope_of_error(error) == pytest.approx(2, abs=0.1) and error(128) < 1e-4


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (midpoint, 2)])
def test_down_to_clean_latents_midpoint_is_of_second_order_and_euler_of_first(solver, order):
    def error(num_steps):
        sigmas = even(0, 15 / 16, num_steps)
        return float((solver(curved_denoise, STARTS, sigmas) - way_along(sigmas)).abs().max())

    assert slope_of_error(error) == pytest.approx(order, abs=0.1)


def test_up_and_down_again_midpoint_comes_back_at_least_at_second_order():
    def error(num_steps):
        sigmas = even(1 / 16, 15 / 16, num_steps)
        noise = midpoint(curved_denoise, STARTS, sigmas.flip(0))
        return float((midpoint(curved_denoise, noise, sigmas) - STARTS).abs().max())

    assert slope_of_error(error) >= 1.9 and error(128) < 1e-5


def test_from_clean_latents_up_the_models_own_velocity_is_needed_and_used():
    sigmas = even(0, 1, 64).flip(0)
    noise = midpoint(curved_denoise, STARTS, sigmas, velocity=curved_velocity)
    assert torch.allclose(noise, way_along(sigmas), atol=1e-3)
    with pytest.raises(ConfigError, match="start at 0, .* start at 0.02 or above, or give the model's velocity"):
        midpoint(curved_denoise, STARTS, sigmas)


def test_midpoint_is_the_second_order_formula_of_rf_solver():
    sigmas, x = even(1 / 16, 15 / 16, 7).flip(0), STARTS
    for here, after in zip(sigmas, sigmas[1:]):
        h = after - here
        v = curved_velocity(x, here.view(1))
        v_m = curved_velocity(x + h / 2 * v, (here + h / 2).view(1))
        x = x + h * v + h**2 / 2 * ((v_m - v) / (h / 2))
    assert torch.allclose(midpoint(curved_denoise, STARTS, sigmas, velocity=curved_velocity), x, atol=1e-7)


def test_midpoint_tells_both_levels_of_a_step_and_reports_each_step_once():
    latents, told, calls = torch.ones(2, 1, 4), [], []
    before = latents.clone()

    def denoise(x, sigma):
        told.append((tuple(sigma.shape), sigma.dtype, float(sigma[0])))
        return x * 0.5

    out = midpoint(denoise, latents, torch.tensor([0.75, 0.5, 0.25]), on_step=lambda *step: calls.append(step))
    assert told == [((2,), torch.float32, level) for level in (0.75, 0.625, 0.5, 0.375)]
    assert [(step, total) for step, total, _ in calls] == [(0, 2), (1, 2)]
    assert torch.equal(calls[0][2], before * 0.5) and torch.equal(latents, before) and out.dtype == torch.float32

    by_velocity = []
    midpoint(None, latents, torch.tensor([0.75, 0.5]), velocity=lambda x, sigma: x * 0.5,
             on_step=lambda *step: by_velocity.append(step))  # fmt: skip
    assert torch.equal(by_velocity[0][2], before - 0.75 * 0.5 * before)


def test_nan_of_a_second_call_is_named_with_its_step_and_level_and_a_cancel_stops_at_its_step():
    calls = []

    def denoise(latents, sigma):
        calls.append(float(sigma[0]))
        return latents / 0 if len(calls) == 4 else latents * 0.5

    with pytest.raises(ShapeError, match=r"step 2 of 4 \(sigma 0.62500"):
        midpoint(denoise, torch.ones(1, 1, 4), even(0, 1, 4))
    assert len(calls) == 4

    def cancel(step, num_steps, clean):
        if step == 1:
            raise KeyError("cancelled")

    calls.clear()
    with pytest.raises(KeyError, match="cancelled"):
        midpoint(lambda x, sigma: calls.append(1) or x, torch.ones(1, 1, 4), even(0, 1, 4), on_step=cancel)
    assert len(calls) == 4


def test_flags_of_two_calls_a_step_name_the_step_at_the_end():
    from pack.motion.sampling.solvers import _FiniteGuard

    guard = _FiniteGuard([0.9, 0.75, 0.6, 0.3], torch.float32, torch.device("cpu"), calls_per_step=2)
    guard.at_once = False
    for answer in (1.0, 1.0, 1.0, float("nan")):
        guard.watch(torch.tensor([answer]))
    with pytest.raises(ShapeError, match=r"step 2 of 2 \(sigma 0.30000"):
        guard.settle()


@pytest.mark.parametrize(("sigmas", "text"), [
    ([0.5], "at least two"), ([0.2, 0.5, 0.3], "from 0.5 to 0.3 at step 1; they must rise"),
    ([0.5, 0.2, 0.3], "from 0.2 to 0.3 at step 1; they must fall"), ([0.5, 0.5], "from 0.5 to 0.5 at step 0"),
    ([0.5, float("nan")], "NaN"), ([0.5, 1.5], "sigma 1.5 at place 1"), ([0.5, -0.1], "sigma -0.1 at place 1"),
])  # fmt: skip
def test_sigmas_that_turn_or_leave_the_unit_interval_are_refused_before_the_first_call(sigmas, text):
    def never(latents, sigma):
        raise RuntimeError("the model was called")

    with pytest.raises(ConfigError, match=text):
        midpoint(never, torch.ones(1, 1, 4), torch.tensor(sigmas))
    with pytest.raises(ConfigError, match=text):
        check_one_way(torch.tensor(sigmas))
