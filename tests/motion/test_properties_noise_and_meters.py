"""Any shape, dtype and setting: a finite result of the stated shape where usable, else one of our three errors."""

import math

import pytest
import torch
from pack.motion.conditioning.motion_bucket import motion_bucket
from pack.motion.conditioning.noise_init import dct_init, fft_init, kept_box, tau_to_sigma
from pack.motion.metrics.dynamics import (
    degree_to_bucket,
    dynamics_degree,
    mean_absolute_difference,
    measure_dynamics,
    ms_ssim,
)
from pack.motion.metrics.optical_flow import LABELS, camera_motion, direction_agrees, has_cv2
from properties import answer, any_float, dtypes, floats, quick, shifts

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

unit = st.floats(0, 1)
share = st.one_of(unit, any_float)
sides = st.integers(0, 40)


def lies_in_unit(*values):
    return all(0 <= value <= 1 for value in values)


def filled(shape, dtype, content, seed=0):
    """A tensor with noise in [0, 1], or with one bad value in it."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if content is not None and values.numel():
        values.view(-1)[values.numel() // 2] = content
    return values.to(dtype) if dtype.is_floating_point or content is None else values


contents = st.sampled_from([None, None, None, float("nan"), float("inf"), -3.0, 255.0])


def are_pictures(values):
    """Whether a tensor holds floating-point pictures in [0, 1]."""
    return values.is_floating_point() and values.numel() > 0 and bool(((values >= 0) & (values <= 1)).all())


def is_at_most_16_to_1(height, width):
    return max(height, width) <= 16 * min(height, width)


@st.composite
def refinements(draw):
    """Noise, the rows of its start latent and the settings of its refinement; half of them fit together."""
    if draw(st.booleans()):
        shape = draw(st.lists(st.integers(1, 5), min_size=4, max_size=5))
        rows = draw(st.sampled_from([1, shape[0]]))
        shares, content = draw(st.tuples(unit, unit, unit, unit)), draw(st.sampled_from([None, -3.0]))
        return shape, rows, draw(floats), content, shares, draw(st.sampled_from(["flow", "ddpm"]))
    shape, rows = draw(st.lists(st.integers(0, 5), min_size=3, max_size=5)), draw(st.integers(0, 3))
    shares = draw(st.tuples(share, share, share, share))
    return shape, rows, draw(dtypes), draw(contents), shares, draw(st.sampled_from(["flow", "ddpm", "edm"]))


@pytest.mark.slow
@quick
@given(refinements())
def test_refined_noise_is_finite_noise_of_the_same_kind(case):
    shape, rows, dtype, content, (sigma, rise, run, time), mixing = case
    noise = filled(shape, dtype, content)
    first_shape = [rows, *shape[1:]] if len(shape) == 4 else [rows, shape[1], 1, *shape[3:]]
    first, before = filled(first_shape, torch.float32, None, 1), noise.clone()
    is_finite = noise.is_floating_point() and bool(noise.isfinite().all())
    usable = len(shape) > 3 and all(shape) and rows in (1, shape[0]) and is_finite
    usable = usable and mixing in ("flow", "ddpm") and lies_in_unit(sigma, rise, time)
    keeps = {"keep_height": rise, "keep_width": run, "keep_time": time}
    dct = answer(lambda: dct_init(first, noise, sigma_tau=sigma, mixing=mixing, **keeps),
                 usable=usable and lies_in_unit(run))  # fmt: skip
    stops = {"stop_space": rise, "stop_time": time, "kind": "butterworth"}
    fft = answer(lambda: fft_init(first, noise, sigma_tau=sigma, mixing=mixing, **stops), usable=usable)
    assert torch.equal(noise, before) or not before.double().isfinite().all()
    for out in (dct, fft):
        if out is not None:
            assert out.shape == noise.shape and out.dtype == noise.dtype and out.isfinite().all()


@quick
@given(st.lists(st.integers(1, 300), min_size=2, max_size=5), st.one_of(
    st.tuples(unit, unit, unit), st.tuples(share, share, share)
))  # fmt: skip
def test_kept_box_lies_inside_the_grid(shape, shares):
    rise, run, time = shares
    usable = len(shape) > 2 and lies_in_unit(*shares)
    box = answer(lambda: kept_box(tuple(shape), keep_height=rise, keep_width=run, keep_time=time), usable=usable)
    if usable:
        frames = 1 if len(shape) == 4 else shape[-3]
        assert all(0 <= kept <= size for kept, size in zip(box, (frames, *shape[-2:])))
        assert all((kept == 0) == (keep == 0) for kept, keep in zip(box, (time, rise, run)))


@quick
@given(share, shifts, st.booleans())
def test_tau_gives_a_level_between_zero_and_one(tau, shift, apply_shift):
    usable = lies_in_unit(tau) and (not apply_shift or 0 < shift <= 1000)
    sigma = answer(lambda: tau_to_sigma(tau, shift, apply_shift), usable=usable)
    assert not usable or -1e-12 <= sigma <= 1 + 1e-12


@st.composite
def clips(draw):
    """Shape, dtype, one value and measuring size of clips; half of them can be measured."""
    if draw(st.booleans()):
        shape = [draw(st.integers(least, most)) for least, most in ((1, 2), (2, 3), (1, 3), (11, 40), (11, 40))]
        return shape, draw(floats), None, draw(st.integers(16, 64))
    shape = [draw(st.integers(0, most)) for most in (2, 3, 3)] + [draw(sides), draw(sides)]
    return shape, draw(dtypes), draw(contents), draw(st.integers(0, 64))


@quick
@given(clips())
def test_meters_give_degrees_in_range_or_refuse(case):
    (b, t, c, height, width), dtype, content, measure_size = case
    clip = filled((b, t, c, height, width), dtype, content)
    usable = t > 1 and are_pictures(clip)
    can_be_resized = measure_size >= 16 and is_at_most_16_to_1(height, width)
    degree = answer(lambda: dynamics_degree(clip, measure_size=measure_size), usable=usable and can_be_resized)
    difference = answer(lambda: mean_absolute_difference(clip), usable=usable)
    ends = clip[:, :1], clip[:, -1:]
    can_be_compared = t > 0 and min(height, width) > 10 and are_pictures(torch.cat(ends))
    likeness = answer(lambda: ms_ssim(*(end.squeeze(1) for end in ends)), usable=can_be_compared)
    for out in (degree, difference, likeness):
        if out is not None:
            assert out.shape == (b,) and (out >= 0).all() and (out <= 1.0 + 1e-5).all()


@quick
@given(
    st.one_of(unit, any_float, st.lists(any_float, max_size=4).map(torch.tensor)),
    st.integers(-1, 40), st.one_of(st.just(0.0), any_float), st.one_of(st.just(1.0), any_float),
)  # fmt: skip
def test_buckets_lie_in_their_range(degree, num_buckets, low, high):
    usable = num_buckets >= 1 and -math.inf < low < high < math.inf and bool(torch.as_tensor(degree).isfinite().all())
    bucket = answer(
        lambda: degree_to_bucket(degree, num_buckets=num_buckets, degree_min=low, degree_max=high), usable=usable
    )
    if usable:
        assert bucket.shape == torch.as_tensor(degree).shape
        assert bucket.dtype == torch.long and (bucket >= 0).all() and (bucket < num_buckets).all()


@quick
@given(st.one_of(st.integers(-2, 25), st.integers(2**62, 2**63 - 1), st.booleans(), any_float))
def test_motion_bucket_is_whole_and_in_range_or_refused(bucket):
    usable = type(bucket) is int and 0 <= bucket < 20
    values = answer(lambda: motion_bucket(bucket), usable=usable)
    assert not usable or (values.dtype == torch.long and values.tolist() == [bucket])


@st.composite
def frames_of_a_clip(draw):
    """Frames (t, h, w, c) with any shape, dtype and value; half of them can be measured."""
    if draw(st.booleans()):
        shape = [draw(st.integers(least, most)) for least, most in ((2, 3), (16, 40), (16, 40))]
        return filled((*shape, draw(st.sampled_from([1, 3]))), draw(floats), None)
    shape = (draw(st.integers(0, 3)), draw(sides), draw(sides), draw(st.sampled_from([1, 2, 3, 4])))
    return filled(shape, draw(dtypes), draw(contents))


@settings(quick, max_examples=25)
@given(frames_of_a_clip())
def test_clip_reports_are_finite_or_refused(frames):
    t, height, width, channels = frames.shape
    usable = t > 1 and channels in (1, 3) and are_pictures(frames) and is_at_most_16_to_1(height, width)
    report = answer(lambda: measure_dynamics(frames, measure_size=32), usable=usable)
    if usable:
        assert 0 <= report.degree <= 1 and 0 <= report.bucket <= 19 and 0 <= report.mean_absolute_difference <= 1.2
        assert report.flow_px is None or 0 <= report.flow_px < 100


@pytest.mark.slow
@pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
@settings(quick, max_examples=25)
@given(frames_of_a_clip(), st.one_of(st.sampled_from(sorted(LABELS)), st.text(max_size=12)))
def test_camera_motion_is_finite_or_refused(frames, label):
    t, height, width, channels = frames.shape
    usable = t > 1 and channels in (1, 3) and min(height, width) >= 16
    usable = usable and frames.is_floating_point() and bool(frames.isfinite().all())
    motion = answer(lambda: camera_motion(frames), usable=usable)
    agrees = answer(lambda: direction_agrees(label, frames), usable=usable and label in LABELS)
    if usable:
        assert all(abs(value) < 1e4 for value in (motion.dx, motion.dy, motion.zoom, motion.degrees))
        assert agrees in (True, False) or label not in LABELS
