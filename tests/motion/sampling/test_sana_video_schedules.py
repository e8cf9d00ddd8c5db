"""Both schedules of SANA-Video and ten solver steps on them, against the schedulers of diffusers."""

import math

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.sampling.schedules import check_sigmas, flow_match_sigmas, flow_sigmas, sigma_to_timestep
from pack.motion.sampling.solvers import euler, flow_dpm_2m

SHIFT = 8.0


def theirs(name, num_steps, shift=SHIFT):
    """The scheduler as the published SANA-Video folders and pipelines set it up, with its timesteps made."""
    diffusers = pytest.importorskip("diffusers")
    if name == "flow_match_euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True,
            flow_shift=shift,
        )  # fmt: skip
    scheduler.set_timesteps(num_steps)
    return scheduler


def velocity(x, sigma):
    """A velocity that bends, so that every level and every step counts."""
    target = torch.linspace(-2, 2, x.numel(), dtype=x.dtype).reshape(x.shape)
    return torch.tanh(x * (1 + sigma)) - target * (1 - sigma)


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("shift", [1.0, 3.0, SHIFT])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 50])
def test_flow_match_levels_equal_diffusers(num_steps, shift):
    expected = theirs("flow_match_euler", num_steps, shift).sigmas.double()
    assert (flow_match_sigmas(num_steps, shift=shift) - expected).abs().max() <= 1e-6


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_flow_dpm_levels_at_shift_8_equal_diffusers(num_steps):
    expected = theirs("flow_dpm", num_steps).sigmas.double()
    assert (flow_sigmas(num_steps, shift=SHIFT) - expected).abs().max() <= 1e-6


def test_last_levels_before_zero_are_those_the_two_pipelines_end_on():
    assert round(float(flow_match_sigmas(50, shift=SHIFT)[-2]), 4) == 0.0602
    assert round(float(flow_sigmas(50, shift=SHIFT)[-2]), 4) == 0.1402


@pytest.mark.slow  # importing diffusers
def test_image_to_video_is_told_fractions_and_text_to_video_whole_timesteps():
    levels = flow_match_sigmas(50, shift=SHIFT)[:-1].float()
    expected = theirs("flow_match_euler", 50).timesteps
    assert (sigma_to_timestep(levels, integer=False) - expected).abs().max() <= 1e-3
    assert (expected != expected.floor()).any(), "the case must tell fractions from whole numbers"
    whole = sigma_to_timestep(flow_sigmas(50, shift=SHIFT)[:-1].float(), integer=True)
    assert torch.equal(whole, theirs("flow_dpm", 50).timesteps.float())


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("name, solver", [("flow_match_euler", euler), ("flow_dpm", flow_dpm_2m)])
def test_ten_solver_steps_equal_ten_scheduler_steps(name, solver):
    scheduler = theirs(name, 10)
    start = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = start.clone()
    for step, timestep in enumerate(scheduler.timesteps):
        expected = scheduler.step(velocity(expected, scheduler.sigmas[step]), timestep, expected).prev_sample
    levels = flow_match_sigmas(10, shift=SHIFT) if solver is euler else flow_sigmas(10, shift=SHIFT)
    ours = solver(lambda x, sigma: x - sigma[0] * velocity(x, sigma[0]), start, levels)
    assert (ours - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_second_order_solver_walks_a_schedule_that_starts_at_pure_noise():
    levels = check_sigmas(flow_match_sigmas(10, shift=SHIFT))
    ours = flow_dpm_2m(lambda x, sigma: torch.full_like(x, 0.5), torch.ones(1, 4), torch.tensor(levels))
    assert levels[0] == 1 and torch.equal(ours, torch.full((1, 4), 0.5))


@pytest.mark.parametrize("num_steps", [0, -1, True, 2.0, None, 10001])
def test_impossible_step_counts_are_refused(num_steps):
    with pytest.raises(ConfigError, match="whole number from 1 to 10000"):
        flow_match_sigmas(num_steps)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_impossible_shifts_are_refused(shift):
    with pytest.raises(ConfigError, match="shift"):
        flow_match_sigmas(5, shift=shift)
