"""Motion measures against float64 loops, pytorch-msssim and moves of known size."""

import math

import numpy as np
import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics import dynamics
from pack.motion.metrics.dynamics import (
    degree_to_bucket,
    dynamics_degree,
    mean_absolute_difference,
    measure_dynamics,
    ms_ssim,
    num_scales,
    ssim,
)

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def texture(height, width, *, seed=0, smooth=2.0):
    """Band-limited noise in [0, 1], float64 (1, height, width)."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    soft = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((fy**2 + fx**2) * (2 * math.pi * smooth) ** 2) / 2)).real
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    return torch.from_numpy(soft)[None]


def moved_clip(shift, *, size=256, num_frames=3):
    """Texture of several coarsenesses sliding `shift` px a frame: (1, t, 1, size, size)."""
    wide = sum(texture(size, size + 16 * num_frames, seed=s, smooth=s) for s in (1, 3, 9, 27)) / 4
    return torch.stack([wide[:, :, i * shift : i * shift + size] for i in range(num_frames)])[None].float()


def ssim_reference(a, b):
    """Mean SSIM and mean contrast·structure of two (h, w) float64 arrays, window by window."""
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    full, structure = [], []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            cs = (2 * cov + 0.03**2) / (vp + vq + 0.03**2)
            structure.append(cs)
            full.append(cs * (2 * mp * mq + 0.01**2) / (mp**2 + mq**2 + 0.01**2))
    return np.mean(full), np.mean(structure)


def ms_ssim_reference(a, b, scales):
    weights, product = WEIGHTS[:scales] / WEIGHTS[:scales].sum(), 1.0  # fewer than five: renormalised
    for scale in range(scales):
        full, structure = ssim_reference(a, b)
        product *= max(full if scale == scales - 1 else structure, 0) ** weights[scale]
        h, w = a.shape
        a, b = (v.reshape(h // 2, 2, w // 2, 2).mean((1, 3)) for v in (a, b)) if scale < scales - 1 else (a, b)
    return product


@pytest.mark.parametrize(("size", "scales"), [(12, 1), (32, 2), (64, 3)])
def test_small_images_equal_a_window_by_window_loop(size, scales):
    a = texture(size, size, seed=1)[0]
    b = (a + 0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).clamp(0, 1)
    truth = ms_ssim_reference(a.numpy(), b.numpy(), scales)
    assert num_scales(size, size) == scales
    assert float(ms_ssim(a[None, None], b[None, None])) == pytest.approx(truth, abs=1e-12)
    assert float(ms_ssim(a[None, None].float(), b[None, None].float())) == pytest.approx(truth, abs=2e-6)


@pytest.mark.slow
def test_photo_size_equals_pytorch_msssim():
    oracle = pytest.importorskip("pytorch_msssim")
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 256, 320, generator=generator)
    strength = torch.tensor([0.02, 0.2, 1.0]).view(3, 1, 1, 1)
    b = (a + strength * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    truth = oracle.ms_ssim(a.double(), b.double(), data_range=1, size_average=False)
    assert torch.allclose(ms_ssim(a, b).double(), truth, atol=2e-6)


@pytest.mark.slow
def test_tiled_blur_equals_pytorch_msssim_on_a_large_image():
    oracle = pytest.importorskip("pytorch_msssim")
    a = texture(592, 560).repeat(1, 1, 1)[None]
    b = (a * 0.8 + 0.1 * texture(592, 560, seed=5)).clamp(0, 1)
    truth = oracle.ms_ssim(a, b, data_range=1, size_average=False)
    assert torch.allclose(ms_ssim(a, b), truth, atol=1e-10)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (20, 1), (21, 2), (40, 2), (41, 3), (80, 3), (81, 4), (160, 4), (161, 5), (900, 5)]
)
def test_number_of_scales_follows_the_short_side(side, scales):
    assert num_scales(side, 1000) == scales
    image = texture(min(side, 200), min(side, 200))[None].float()
    assert float(ms_ssim(image, image)) == pytest.approx(1.0, abs=1e-6)


def test_degree_grows_with_the_shift_and_still_clip_is_bucket_zero():
    degrees = [float(dynamics_degree(moved_clip(shift))) for shift in (0, 1, 2, 4, 8, 16)]
    assert degrees[0] == 0.0 and degree_to_bucket(degrees[0]) == 0
    assert degrees == sorted(degrees) and len(set(degrees)) == len(degrees)
    assert degrees[1] < 0.05 < 0.5 < degrees[-1] <= 1.0


def test_same_relative_shift_measures_the_same_at_one_fixed_size():
    wide = texture(128, 160, smooth=4)
    small = torch.stack([wide[:, :, :128], wide[:, :, 4:132]])[None].float()
    large = torch.nn.functional.interpolate(small[0], scale_factor=2, mode="bilinear")[None]
    assert float(dynamics_degree(small)) == pytest.approx(float(dynamics_degree(large)), abs=0.02)


def test_degree_is_one_minus_the_mean_over_successive_frames():
    clip = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = torch.stack([ms_ssim(clip[:, i], clip[:, i + 1]) for i in range(3)], dim=1)
    assert torch.allclose(dynamics_degree(clip, measure_size=64), 1 - pairs.mean(dim=1), atol=1e-12)


@pytest.mark.parametrize("limit", [1, 40_000, 150_000])
def test_measuring_in_parts_changes_nothing(monkeypatch, limit):
    clips = torch.rand(3, 8, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = dynamics_degree(clips, measure_size=64)
    monkeypatch.setattr(dynamics, "CHUNK_ELEMENTS", limit)
    assert torch.allclose(dynamics_degree(clips, measure_size=64), whole, atol=1e-12)


def test_clips_of_a_batch_do_not_mix():
    clips = torch.rand(3, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([dynamics_degree(clip[None], measure_size=64) for clip in clips])
    assert torch.allclose(dynamics_degree(clips, measure_size=64), alone, atol=1e-6)


@pytest.mark.parametrize(
    ("degree", "bucket"), [(0, 0), (0.049, 0), (0.051, 1), (0.074, 1), (0.268, 5), (0.806, 16), (1, 19)]
)
def test_buckets_cut_the_range_evenly_and_clip(degree, bucket):
    assert int(degree_to_bucket(degree)) == bucket
    assert int(degree_to_bucket(2 * degree + 3, degree_min=3, degree_max=5)) == bucket
    assert degree_to_bucket(torch.tensor([-1.0, 7.0])).tolist() == [0, 19]


def test_bucket_scale_can_come_from_a_model_description():
    class Spec:
        num_buckets, degree_min, degree_max, measure_size = 4, 0.0, 0.5, 64

    assert degree_to_bucket(torch.tensor([0.0, 0.13, 0.49, 0.9]), Spec).tolist() == [0, 1, 3, 3]


def test_mean_absolute_difference_equals_the_definition():
    clip = torch.rand(2, 3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    truth = [np.abs(np.diff(c.double().numpy(), axis=0)).mean() for c in clip]
    assert mean_absolute_difference(clip).tolist() == pytest.approx(truth, abs=1e-6)


def test_report_of_a_clip_holds_all_measures():
    clip = moved_clip(4, size=128)[0].movedim(1, -1)
    report = measure_dynamics(clip, measure_size=64)
    assert report.degree == pytest.approx(float(dynamics_degree(moved_clip(4, size=128), measure_size=64)))
    assert report.bucket == int(degree_to_bucket(report.degree))
    assert report.mean_absolute_difference > 0
    pytest.importorskip("cv2")
    assert report.flow_px == pytest.approx(4.0, abs=0.4)
    assert measure_dynamics(clip, measure_size=64, with_flow=False).flow_px is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_frames_are_measured_in_float32(dtype):
    clip = moved_clip(2, size=64).to(dtype)
    degree = dynamics_degree(clip, measure_size=64)
    assert degree.dtype == torch.float32
    assert torch.equal(degree, dynamics_degree(clip.float(), measure_size=64))


def test_input_is_not_written_into():
    clip = moved_clip(2, size=64)
    before = clip.clone()
    dynamics_degree(clip), mean_absolute_difference(clip), measure_dynamics(clip[0].movedim(1, -1), measure_size=64)
    assert torch.equal(clip, before)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (torch.zeros(1, 0, 3, 64, 64), "0 frames"),
        (torch.zeros(1, 1, 3, 64, 64), "1 frames; motion needs at least 2"),
        (torch.zeros(2, 3, 64, 64), "(b, t, c, h, w)"),
        (torch.full((1, 2, 3, 64, 64), float("nan")), "finite"),
        (torch.full((1, 2, 3, 64, 64), float("inf")), "finite"),
        (torch.full((1, 2, 3, 64, 64), 255.0), "rescale"),
        (torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8), "divide bytes by 255"),
        (torch.zeros(1, 2, 3, 16, 16384), "crop"),
        (torch.zeros(0, 2, 3, 16, 16), "empty"),
    ],
)
def test_unusable_clips_are_refused_with_a_way_out(frames, text):
    with pytest.raises(ShapeError, match=text.replace("(", r"\(").replace(")", r"\)")):
        dynamics_degree(frames, measure_size=64)


def test_unusable_settings_are_refused():
    clip = moved_clip(1, size=64)
    with pytest.raises(ConfigError, match="measure_size is 8"):
        dynamics_degree(clip, measure_size=8)
    with pytest.raises(ShapeError, match="11 px"):
        ms_ssim(clip[:, 0, :, :10], clip[:, 0, :, :10])
    with pytest.raises(ShapeError, match="two equal"):
        ms_ssim(clip[:, 0], clip[:, 0, :, :32])
    with pytest.raises(ConfigError, match="NaN"):
        degree_to_bucket(float("nan"))
    for low, high in ((1, 1), (2, 1), (float("-inf"), 0), (0, float("nan"))):
        with pytest.raises(ConfigError, match="min < max"):
            degree_to_bucket(0.5, degree_min=low, degree_max=high)
    with pytest.raises(ShapeError, match="blend alpha"):
        measure_dynamics(torch.zeros(3, 64, 64, 4))


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    made = torch.Generator().manual_seed(3)
    a = torch.rand(3, 3, 40, 52, generator=made, dtype=torch.float64)
    b = (0.7 * a + 0.3 * torch.rand(a.shape, generator=made, dtype=torch.float64)).clamp(0, 1)
    truth = [metrics.structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True,
                                           sigma=1.5, use_sample_covariance=False) for x, y in zip(a, b)]  # fmt: skip
    assert ssim(a, b).tolist() == pytest.approx(truth, abs=1e-12)
    assert torch.equal(ssim(a, a), torch.ones(3, dtype=torch.float64))


def test_ssim_of_pictures_that_do_not_fit_is_refused():
    with pytest.raises(ShapeError, match="two equal"):
        ssim(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 21))
    with pytest.raises(ShapeError, match="needs 11 px"):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
