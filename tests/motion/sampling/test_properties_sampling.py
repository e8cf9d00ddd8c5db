"""Any sigma list, shape and dtype: a finite tensor of the stated shape where usable, else one of our three errors."""

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.guidance import guide_velocity
from pack.motion.sampling.residual import network_velocity_to_clean, residual_state_to_network
from pack.motion.sampling.schedules import SCHEDULES, check_sigmas, shift_sigma, sigma_to_timestep
from pack.motion.sampling.solvers import euler, flow_dpm_2m, midpoint
from properties import answer, any_float, dtypes, quick, shifts

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

level = st.floats(0, 1, width=32)
messy_sigmas = st.lists(st.one_of(level, any_float), max_size=6)
falling_sigmas = st.lists(st.floats(0.0010000000474974513, 1, width=32), min_size=1, max_size=6, unique=True).map(
    lambda values: sorted(values, reverse=True) + [0.0]
)
sizes, cells = st.integers(0, 4), st.integers(1, 4)
scales = st.one_of(st.floats(0, 100), any_float)


def can_be_walked(sigmas):
    is_good = len(sigmas) > 1 and sigmas[0] <= 1 and sigmas[-1] == 0
    return is_good and all(a > b for a, b in zip(sigmas, sigmas[1:]))


def noise(shape, dtype=torch.float32, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def pull(latents, sigma):
    return latents * 0.5


@pytest.mark.slow
@quick
@given(
    st.one_of(messy_sigmas, falling_sigmas), st.sampled_from([euler, flow_dpm_2m]),
    st.one_of(st.lists(sizes, max_size=5), st.lists(cells, min_size=2, max_size=5)), dtypes,
)  # fmt: skip
def test_solvers_give_finite_latents_or_one_of_our_errors(sigmas, solver, shape, dtype):
    latents = noise(shape, dtype)
    before = latents.clone()
    usable = can_be_walked(sigmas) and len(shape) > 1 and all(shape) and dtype.is_floating_point
    out = answer(lambda: solver(pull, latents, torch.tensor(sigmas, dtype=torch.float64)), usable=usable)
    assert torch.equal(latents, before)
    if usable:
        assert out.shape == latents.shape and out.isfinite().all()
        assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.slow
@quick
@given(st.one_of(messy_sigmas, falling_sigmas, falling_sigmas.map(lambda sigmas: sigmas[-2::-1])), st.booleans())
def test_midpoint_walks_every_list_that_leads_one_way(sigmas, has_velocity):
    steps = list(zip(sigmas, sigmas[1:]))
    usable = bool(steps) and (all(a > b for a, b in steps) or all(a < b for a, b in steps))
    usable = usable and all(0 <= sigma <= 1 for sigma in sigmas) and (has_velocity or sigmas[0] > 0)
    velocity = (lambda x, sigma: x * 0.1) if has_velocity else None
    levels = torch.tensor(sigmas, dtype=torch.float64)
    out = answer(lambda: midpoint(pull, noise((1, 2, 3)).double(), levels, velocity=velocity), usable=usable)
    assert not usable or out.isfinite().all() or min(sigmas) < 1e-6  # a tiny level divides by itself


@pytest.mark.slow
@quick
@given(falling_sigmas, st.sampled_from([euler, flow_dpm_2m]))
def test_every_falling_list_that_ends_at_zero_is_walked(sigmas, solver):
    out = solver(pull, noise((1, 2, 3)), torch.tensor(sigmas, dtype=torch.float64))
    assert out.isfinite().all()


@quick
@given(st.one_of(messy_sigmas, falling_sigmas))
def test_sigma_lists_are_accepted_exactly_when_they_fall_from_at_most_one_to_zero(sigmas):
    usable = can_be_walked(sigmas)
    values = answer(lambda: check_sigmas(torch.tensor(sigmas, dtype=torch.float64)), usable=usable)
    assert not usable or values == sigmas


@quick
@given(
    st.sampled_from(sorted(SCHEDULES)), st.one_of(st.integers(-5, 400), st.booleans(), st.floats(), st.none()),
    shifts,
)  # fmt: skip
def test_schedules_fall_to_zero_or_are_refused(name, num_steps, shift):
    usable = type(num_steps) is int and num_steps >= 1 and 0 < shift <= 1000
    sigmas = answer(lambda: SCHEDULES[name](num_steps, shift=shift), usable=usable)
    if usable:
        assert sigmas.shape == (num_steps + 1,) and sigmas.dtype == torch.float64 and sigmas.isfinite().all()
        assert sigmas[-1] == 0 and (sigmas.diff() < 0).all() and sigmas[0] <= 1


@quick
@given(st.lists(level, min_size=1, max_size=8), shifts.filter(lambda shift: 0 < shift <= 1000))
def test_shifted_levels_stay_in_order_and_timesteps_in_range(levels, shift):
    levels = torch.tensor(sorted(levels), dtype=torch.float64)
    shifted = shift_sigma(levels, shift)
    assert (shifted.diff() >= 0).all() and shifted[0] >= 0 and shifted[-1] <= 1
    timestep = sigma_to_timestep(shifted.clamp(0, 1), integer=True)
    assert (timestep == timestep.round()).all() and timestep.max() <= 1000


@st.composite
def videos_with_a_start(draw):
    """Shapes of a video and a start latent, and rows of sigma; half of them fit together."""
    if draw(st.booleans()):
        shape = draw(st.lists(cells, min_size=5, max_size=5))
        b, c, t, h, w = shape
        rows, first_rows, first_frames = (draw(st.sampled_from([1, most])) for most in (b, b, t))
        return shape, [first_rows, c, first_frames, h, w], rows
    messy = st.lists(sizes, min_size=4, max_size=5)
    return draw(messy), draw(messy), draw(st.integers(0, 3))


@quick
@given(videos_with_a_start(), any_float, dtypes)
def test_residual_change_of_variable_keeps_shape_and_frame_zero(case, value, dtype):
    shape, first_shape, rows = case
    usable = len(shape) == len(first_shape) == 5 and all(shape) and rows in (1, shape[0])
    usable = usable and first_shape[0] in (1, shape[0]) and first_shape[2] in (1, shape[2])
    usable = usable and (first_shape[1], *first_shape[3:]) == (shape[1], *shape[3:])
    state, first, sigma = noise(shape), noise(first_shape, dtype, 1), torch.full((rows,), value)
    seen = answer(lambda: residual_state_to_network(state, sigma, first), usable=usable)
    clean = answer(lambda: network_velocity_to_clean(state, state, state, sigma, first), usable=usable)
    for out in (seen, clean) if usable else ():
        assert out.shape == state.shape and out.dtype == state.dtype
        assert torch.equal(out[:, :, :1], first[:, :, :1].to(state).expand_as(out[:, :, :1]))


@quick
@given(st.lists(st.integers(1, 3), min_size=5, max_size=5), scales, st.integers(1, 3), st.integers(1, 3))
def test_denoiser_answers_in_the_shape_of_the_latents_or_is_refused(shape, scale, rows, negative_rows):
    usable = 0 <= scale <= 100 and rows in (1, shape[0]) and (scale == 1 or negative_rows in (1, shape[0]))
    text, negative = noise((rows, 2, 4)), noise((negative_rows, 3, 4))
    latents, first = noise(shape), noise((shape[0], shape[1], 1, *shape[3:]))
    sigma = torch.full((shape[0],), 0.5)
    told = Conditions(text, motion_bucket_id=torch.tensor([3]), first_latent=first)
    clean = answer(lambda: MotionDenoiser(
        lambda x, *rest: x, told, told.with_text_of(Conditions(negative)), guidance_scale=scale
    )(latents, sigma), usable=usable)  # fmt: skip
    if usable:
        assert clean.shape == latents.shape and clean.isfinite().all()


@quick
@given(st.lists(sizes, max_size=3), st.one_of(st.none(), st.lists(sizes, max_size=3)), scales)
def test_guidance_is_finite_or_refused(cond_shape, uncond_shape, scale):
    uncond_shape = cond_shape if uncond_shape is None else uncond_shape
    usable = cond_shape == uncond_shape and 0 <= scale <= 100
    out = answer(lambda: guide_velocity(noise(cond_shape), noise(uncond_shape, seed=1), scale), usable=usable)
    if usable:
        assert list(out.shape) == cond_shape and out.isfinite().all()
