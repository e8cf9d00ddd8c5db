"""DCTInit and its FFT baseline against scipy in float64, and every property the paper claims for them."""

import math

import numpy as np
import pytest
import torch
from pack.motion.conditioning.motion_bucket import motion_bucket
from pack.motion.conditioning.noise_init import dct_init, fft_init, fft_mask, kept_box, tau_to_sigma
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.layers.block_dct import dct_matrix
from scipy import fft

B, C, T, H, W = 2, 3, 5, 12, 15
SIGMA = 0.9915


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def box_mask(shape, box):
    mask = np.zeros(shape)
    mask[: box[0], : box[1], : box[2]] = 1
    return mask


def dct_reference(first, noise, sigma, mask, a=None):
    """Eq. 10-12 as written: transform both, exchange the masked coefficients, transform back."""
    a = 1 - sigma if a is None else a
    content = a * first.numpy() + sigma * noise.numpy()
    axes = (-3, -2, -1)
    mixed = fft.dctn(content, type=2, norm="ortho", axes=axes) * mask
    mixed += fft.dctn(noise.numpy(), type=2, norm="ortho", axes=axes) * (1 - mask)
    return fft.idctn(mixed, type=2, norm="ortho", axes=axes)


def fft_reference(first, noise, sigma, mask):
    """FreeInit as written, with the spectrum shifted to the middle."""
    axes = (-3, -2, -1)
    content = (1 - sigma) * first.numpy() + sigma * noise.numpy()
    low = fft.fftshift(fft.fftn(content, axes=axes), axes=axes) * mask
    high = fft.fftshift(fft.fftn(noise.numpy(), axes=axes), axes=axes) * (1 - mask)
    return fft.ifftn(fft.ifftshift(low + high, axes=axes), axes=axes).real


def fft_mask_reference(t, h, w, kind, d_s, d_t, order):
    mask = np.zeros((t, h, w))
    for i in range(t):
        for j in range(h):
            for k in range(w):
                rho = (d_s / d_t) ** 2 * (2 * i / t - 1) ** 2 + (2 * j / h - 1) ** 2 + (2 * k / w - 1) ** 2
                mask[i, j, k] = {
                    "gaussian": math.exp(-rho / (2 * d_s**2)),
                    "butterworth": 1 / (1 + (rho / d_s**2) ** order),
                    "ideal": float(rho <= d_s**2),
                }[kind]
    return mask


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_transform_equals_scipy_and_round_trips(size):
    matrix, values = dct_matrix(size), rand(4, size)
    assert np.allclose((values @ matrix.T).numpy(), fft.dct(values.numpy(), type=2, norm="ortho"), atol=1e-13)
    assert torch.allclose(values @ matrix.T @ matrix, values, atol=1e-13)


@pytest.mark.parametrize(
    "keeps", [(0.23, 0.23, 1.0), (0.5, 0.25, 1.0), (0.23, 0.8, 0.4), (1.0, 1.0, 0.2), (0.01, 0.01, 0.01)]
)
def test_refined_noise_equals_the_definition_in_scipy(keeps):
    first, noise = rand(B, C, 1, H, W, seed=1), rand(B, C, T, H, W)
    options = dict(zip(("keep_height", "keep_width", "keep_time"), keeps))
    box = kept_box(noise.shape, **options)
    out = dct_init(first, noise, sigma_tau=SIGMA, **options)
    truth = dct_reference(first, noise, SIGMA, box_mask((T, H, W), box))
    assert np.abs(out.numpy() - truth).max() < 1e-12


def test_closed_form_and_single_frames_agree_with_the_definition():
    first, noise = rand(B, C, 1, H, W, seed=1), rand(B, C, T, H, W)
    out = dct_init(first, noise, sigma_tau=0.8, keep_height=0.3, keep_width=0.4)
    difference = (1 - 0.8) * first + (0.8 - 1) * noise
    low = fft.dctn(difference.numpy(), norm="ortho", axes=(-2, -1))
    low[..., int(0.3 * H) :, :] = 0
    low[..., int(0.4 * W) :] = 0
    closed = noise.numpy() + fft.idctn(low, norm="ortho", axes=(-2, -1))
    assert np.abs(out.numpy() - closed).max() < 1e-13
    for frame in range(T):
        alone = dct_init(first[:, :, 0], noise[:, :, frame], sigma_tau=0.8, keep_height=0.3, keep_width=0.4)
        assert torch.allclose(alone, out[:, :, frame], atol=1e-13)


def test_ddpm_mixing_equals_the_definition():
    first, noise = rand(B, C, 1, H, W, seed=1), rand(B, C, T, H, W)
    out = dct_init(first, noise, sigma_tau=0.9, mixing="ddpm")
    mask = box_mask((T, H, W), kept_box(noise.shape))
    assert np.abs(out.numpy() - dct_reference(first, noise, 0.9, mask, a=math.sqrt(1 - 0.81))).max() < 1e-12


@pytest.mark.parametrize("axis", ["keep_height", "keep_width", "keep_time"])
def test_keeping_nothing_returns_the_noise_bit_for_bit(axis):
    first, noise = rand(1, C, 1, H, W, seed=1, dtype=torch.float32), rand(B, C, T, H, W, dtype=torch.float32)
    out = dct_init(first, noise, sigma_tau=SIGMA, **{axis: 0})
    assert torch.equal(out, noise) and out.data_ptr() != noise.data_ptr()
    assert torch.equal(fft_init(first, noise, sigma_tau=SIGMA, stop_space=0), noise)


def test_keeping_everything_of_clean_content_repeats_the_start_image():
    first, noise = rand(B, C, 1, H, W, seed=1), rand(B, C, T, H, W)
    out = dct_init(first, noise, sigma_tau=0.0, keep_height=1, keep_width=1)
    assert torch.allclose(out, first.expand(-1, -1, T, -1, -1), atol=1e-13)


def test_content_at_pure_noise_changes_nothing():
    first, noise = rand(B, C, 1, H, W, seed=1), rand(B, C, T, H, W)
    assert torch.equal(dct_init(first, noise, sigma_tau=1.0), noise)
    assert torch.equal(fft_init(first, noise, sigma_tau=1.0), noise)


@pytest.mark.parametrize("method", [dct_init, fft_init])
def test_variance_stays_one_at_the_default_level(method):
    noise, first = rand(1, 4, 15, 40, 64), rand(1, 4, 1, 40, 64, seed=1)
    out = method(first, noise, sigma_tau=tau_to_sigma(0.975))
    assert float(out.var()) == pytest.approx(1.0, abs=0.02)
    assert not torch.allclose(out, noise, atol=1e-3)


@pytest.mark.parametrize("kind", ["gaussian", "butterworth", "ideal"])
def test_fft_baseline_equals_the_definition_in_scipy(kind):
    t, h, w = 4, 12, 16
    first, noise = rand(B, C, 1, h, w, seed=1), rand(B, C, t, h, w)
    mask = fft_mask_reference(t, h, w, kind, 0.3, 0.2, 4)
    ours = fft_mask((t, h, w), kind=kind, stop_space=0.3, stop_time=0.2)
    assert np.allclose(fft.fftshift(ours.numpy()), mask, atol=1e-12)
    out = fft_init(first, noise, sigma_tau=0.85, kind=kind, stop_space=0.3, stop_time=0.2)
    assert np.abs(out.numpy() - fft_reference(first, noise, 0.85, mask)).max() < 1e-12


@pytest.mark.parametrize("size", [1, 4, 5, 15])
def test_fft_filter_is_symmetric_so_nothing_imaginary_is_dropped(size):
    mask = fft_mask((size, 7, 8))
    assert float(mask[0, 0, 0]) == 1.0
    flipped = mask.flip(0, 1, 2).roll((1, 1, 1), dims=(0, 1, 2))
    assert torch.allclose(mask, flipped, atol=1e-15)


def test_dct_compacts_a_smooth_picture_far_better_than_fft():
    y, x = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 64), indexing="ij")
    picture = np.sin(2.2 * x + 0.4) + np.cos(1.7 * y + x)  # smooth, and not periodic at the border
    picture -= picture.mean()
    dct = fft.dctn(picture, norm="ortho") ** 2
    spectrum = np.abs(fft.fftn(picture, norm="ortho")) ** 2
    low = [np.abs(fft.fftfreq(size, 1 / size)) <= 2 for size in (40, 64)]  # 25 numbers; the DCT gets 16
    outside_dct = 1 - dct[:4, :4].sum() / dct.sum()
    outside_fft = 1 - spectrum[np.ix_(*low)].sum() / spectrum.sum()
    assert outside_dct < 0.01 and outside_fft > 10 * outside_dct


@pytest.mark.parametrize(
    ("grid", "box"), [((40, 64), (9, 14)), ((15, 24), (3, 5)), ((16, 16), (3, 3)), ((8, 8), (1, 1)), ((1, 1), (1, 1))]
)
def test_kept_box_is_a_floor_of_the_grid_but_at_least_one(grid, box):
    assert kept_box((1, 4, 16, *grid)) == (16, *box)
    assert kept_box((1, 4, *grid)) == (1, *box)
    assert kept_box((1, 4, 16, *grid), keep_time=0.25, keep_height=0) == (4, 0, box[1])
    assert kept_box((1, 1, 1, 100, 100), keep_height=0.29, keep_width=0.57) == (1, 29, 57)


def test_tau_becomes_sigma_with_and_without_the_shift():
    assert tau_to_sigma(0.975) == pytest.approx(0.99153, abs=5e-6)
    assert tau_to_sigma(0.975, apply_shift=False) == 0.975
    assert tau_to_sigma(0.5, 3.0) == pytest.approx(0.75)
    assert (tau_to_sigma(0.0), tau_to_sigma(1.0)) == (0.0, 1.0)


@pytest.mark.parametrize("method", [dct_init, fft_init])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_noise_is_kept_and_inputs_are_left_alone(method, dtype):
    first, noise = rand(1, C, T, H, W, seed=1).to(dtype), rand(B, C, T, H, W).to(dtype)
    before = first.clone(), noise.clone()
    out = method(first, noise, sigma_tau=0.5)
    assert out.dtype == dtype and out.shape == noise.shape and out.isfinite().all()
    assert torch.equal(first, before[0]) and torch.equal(noise, before[1])
    exact = method(first.double(), noise.double(), sigma_tau=0.5)
    assert torch.equal(out, exact.to(dtype))


@pytest.mark.parametrize("method", [dct_init, fft_init])
def test_only_frame_zero_of_the_start_counts_and_rows_do_not_mix(method):
    first, noise = rand(B, C, T, H, W, seed=1), rand(B, C, T, H, W)
    out = method(first, noise, sigma_tau=0.5)
    assert torch.allclose(out, method(first[:, :, :1], noise, sigma_tau=0.5), atol=1e-14)
    assert torch.allclose(out[1:], method(first[1:], noise[1:], sigma_tau=0.5), atol=1e-14)
    shared = method(first[:1], noise, sigma_tau=0.5)
    assert torch.allclose(shared[:1], out[:1], atol=1e-14) and not torch.allclose(shared[1:], out[1:], atol=1e-3)


@pytest.mark.parametrize(
    ("first", "noise", "text"),
    [
        ((1, 3, 1, 8, 8), (3, 8, 8), "noise is"),
        ((1, 3, 1, 8, 8), (1, 3, 0, 8, 8), "non-empty"),
        ((1, 4, 1, 8, 8), (1, 3, 5, 8, 8), "VAE of this model"),
        ((1, 3, 1, 8, 9), (1, 3, 5, 8, 8), "must agree"),
        ((1, 3, 2, 8, 8), (1, 3, 5, 8, 8), "1 frame"),
        ((3, 3, 1, 8, 8), (2, 3, 5, 8, 8), "must agree"),
        ((1, 3, 8, 8), (1, 3, 5, 8, 8), "must agree"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(first, noise, text):
    for method in (dct_init, fft_init):
        with pytest.raises(ShapeError, match=text):
            method(torch.ones(first), torch.ones(noise), sigma_tau=0.5)


def test_unusable_values_and_settings_are_refused():
    first, noise = rand(1, 3, 1, 8, 8), rand(1, 3, 5, 8, 8)
    for method in (dct_init, fft_init):
        with pytest.raises(ShapeError, match="start latent .* finite"):
            method(first * float("nan"), noise, sigma_tau=0.5)
        with pytest.raises(ShapeError, match="noise .* finite"):
            method(first, noise.long(), sigma_tau=0.5)
        for sigma in (-0.1, 1.1, float("nan")):
            with pytest.raises(ConfigError, match="sigma_tau is"):
                method(first, noise, sigma_tau=sigma)
        with pytest.raises(ConfigError, match="mixing"):
            method(first, noise, sigma_tau=0.5, mixing="edm")
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="keep_width is"):
            dct_init(first, noise, sigma_tau=0.5, keep_width=share)
        with pytest.raises(ConfigError, match="tau is"):
            tau_to_sigma(share)
        with pytest.raises(ConfigError, match="stop_time is"):
            fft_init(first, noise, sigma_tau=0.5, stop_time=share)
    with pytest.raises(ConfigError, match="known filters"):
        fft_init(first, noise, sigma_tau=0.5, kind="box")
    with pytest.raises(ConfigError, match="order is 0"):
        fft_init(first, noise, sigma_tau=0.5, kind="butterworth", order=0)
    with pytest.raises(ShapeError, match="latent shape"):
        kept_box((8, 8))


def test_motion_bucket_is_checked_against_the_range_of_the_model():
    assert motion_bucket(0).tolist() == [0] and motion_bucket(19).dtype == torch.long
    assert motion_bucket(torch.tensor([3, 9], dtype=torch.int32)).tolist() == [3, 9]
    for wrong in (-1, 20, torch.tensor([3, 99])):
        with pytest.raises(ConfigError, match="this model knows 0 .* to 19"):
            motion_bucket(wrong)
    for wrong in (1.5, True, torch.tensor([])):
        with pytest.raises(ConfigError, match="whole number"):
            motion_bucket(wrong)
    assert motion_bucket(31, num_buckets=32).tolist() == [31]
