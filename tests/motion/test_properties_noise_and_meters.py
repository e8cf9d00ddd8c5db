"""Any shape, dtype and setting: a finite result of the stated shape, or one of our three errors."""

import pytest
import torch
from pack.motion.conditioning.motion_bucket import motion_bucket
from pack.motion.conditioning.noise_init import dct_init, fft_init, kept_box, tau_to_sigma
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.metrics.dynamics import (
    degree_to_bucket,
    dynamics_degree,
    mean_absolute_difference,
    measure_dynamics,
    ms_ssim,
)
from pack.motion.metrics.optical_flow import LABELS, camera_motion, direction_agrees, has_cv2

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

OURS = (ShapeError, ConfigError, CheckpointError)
quick = settings(max_examples=50, deadline=None, database=None, derandomize=True)
any_float = st.floats(allow_nan=True, allow_infinity=True, width=32)
share = st.one_of(st.floats(0, 1), any_float)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8])
sides = st.integers(0, 40)


def attempt(call):
    """The result of a call, or None where it raised one of our errors; anything else is a bug and passes through."""
    try:
        return call()
    except OURS as error:
        assert len(str(error)) > 20
        return None


def filled(shape, dtype, content, seed=0):
    """A tensor with noise in [0, 1], or with one bad value in it."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if content is not None and values.numel():
        values.view(-1)[values.numel() // 2] = content
    return values.to(dtype) if dtype.is_floating_point or content is None else values


contents = st.sampled_from([None, None, None, float("nan"), float("inf"), -3.0, 255.0])


@quick
@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=5), st.integers(0, 3), dtypes, contents,
    share, share, share, share, st.sampled_from(["flow", "ddpm", "edm"]),
)  # fmt: skip
def test_refined_noise_is_finite_noise_of_the_same_kind(shape, rows, dtype, content, sigma, rise, run, time, mixing):
    noise = filled(shape, dtype, content)
    first_shape = [rows, *shape[1:]] if len(shape) == 4 else [rows, shape[1], 1, *shape[3:]]
    first, before = filled(first_shape, torch.float32, None, 1), noise.clone()
    keeps = {"keep_height": rise, "keep_width": run, "keep_time": time}
    dct = attempt(lambda: dct_init(first, noise, sigma_tau=sigma, mixing=mixing, **keeps))
    stops = {"stop_space": rise, "stop_time": time, "kind": "butterworth"}
    fft = attempt(lambda: fft_init(first, noise, sigma_tau=sigma, mixing=mixing, **stops))
    assert torch.equal(noise, before) or not before.double().isfinite().all()
    for out in (dct, fft):
        if out is not None:
            assert out.shape == noise.shape and out.dtype == noise.dtype and out.isfinite().all()


@quick
@given(st.lists(st.integers(1, 300), min_size=2, max_size=5), share, share, share)
def test_kept_box_lies_inside_the_grid(shape, rise, run, time):
    box = attempt(lambda: kept_box(tuple(shape), keep_height=rise, keep_width=run, keep_time=time))
    if box is not None:
        frames = 1 if len(shape) == 4 else shape[-3]
        assert all(0 <= kept <= size for kept, size in zip(box, (frames, *shape[-2:])))
        assert all((kept == 0) == (keep == 0) for kept, keep in zip(box, (time, rise, run)))


@quick
@given(share, st.one_of(st.floats(0.1, 10), any_float), st.booleans())
def test_tau_gives_a_level_between_zero_and_one(tau, shift, apply_shift):
    sigma = attempt(lambda: tau_to_sigma(tau, shift, apply_shift))
    assert sigma is None or -1e-12 <= sigma <= 1 + 1e-12


@quick
@given(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), sides, sides, dtypes, contents, st.integers(0, 64))
def test_meters_give_degrees_in_range_or_refuse(b, t, c, height, width, dtype, content, measure_size):
    clip = filled((b, t, c, height, width), dtype, content)
    for out in (
        attempt(lambda: dynamics_degree(clip, measure_size=measure_size)),
        attempt(lambda: mean_absolute_difference(clip)),
        attempt(lambda: ms_ssim(clip[:, 0], clip[:, -1])) if t else None,
    ):
        if out is not None:
            assert out.shape == (b,) and (out >= 0).all() and (out <= 1.0 + 1e-5).all()


@quick
@given(
    st.one_of(any_float, st.lists(any_float, max_size=4).map(torch.tensor)), st.integers(-1, 40), any_float, any_float
)
def test_buckets_lie_in_their_range(degree, num_buckets, low, high):
    bucket = attempt(lambda: degree_to_bucket(degree, num_buckets=num_buckets, degree_min=low, degree_max=high))
    if bucket is not None:
        assert bucket.dtype == torch.long and (bucket >= 0).all() and (bucket < num_buckets).all()


@quick
@given(st.one_of(st.integers(-2, 25), st.integers(2**62, 2**63 - 1), st.booleans(), any_float))
def test_motion_bucket_is_whole_and_in_range_or_refused(bucket):
    values = attempt(lambda: motion_bucket(bucket))
    assert values is None or (values.dtype == torch.long and 0 <= int(values) < 20)


@settings(quick, max_examples=25)
@given(st.integers(0, 3), sides, sides, st.sampled_from([1, 2, 3, 4]), dtypes, contents)
def test_clip_reports_are_finite_or_refused(t, height, width, channels, dtype, content):
    frames = filled((t, height, width, channels), dtype, content)
    report = attempt(lambda: measure_dynamics(frames, measure_size=32))
    if report is not None:
        assert 0 <= report.degree <= 1 and 0 <= report.bucket <= 19 and 0 <= report.mean_absolute_difference <= 1.2
        assert report.flow_px is None or 0 <= report.flow_px < 100


@pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
@settings(quick, max_examples=25)
@given(st.integers(0, 3), sides, sides, st.sampled_from([1, 3, 4]), dtypes, contents, st.text(max_size=12))
def test_camera_motion_is_finite_or_refused(t, height, width, channels, dtype, content, label):
    frames = filled((t, height, width, channels), dtype, content)
    motion = attempt(lambda: camera_motion(frames))
    if motion is not None:
        assert all(abs(value) < 1e4 for value in (motion.dx, motion.dy, motion.zoom, motion.degrees))
        assert direction_agrees("zoom in", frames) in (True, False)
    assert label in LABELS or attempt(lambda: direction_agrees(label, frames)) is None
