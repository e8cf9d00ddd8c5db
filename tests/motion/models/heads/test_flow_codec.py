"""The built-in latent space: lossless, letterboxed, crisp at the photo's own size."""

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.layers.block_dct import coefficients_to_pixels, pixels_to_coefficients
from pack.motion.layers.letterbox import Letterbox, fit_square, reflect_coordinate
from pack.motion.layers.warp import fold_grid, resample_flow, resample_square, spline_weights, unfold_grid, warp
from pack.motion.models.heads.flow_codec import BAND, FlowCodec, rgb_factors, row_bands
from scipy.fft import dctn


def picture(h, w, seed=0):
    """Smooth random colours, (3, h, w) in [0, 1]."""
    low = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(low, size=(h, w), mode="bicubic", align_corners=True)[0].clamp(0, 1)


def linear_flow(h, w, matrix, t=2):
    """A flow grid (1, t, 2, 16, 16) in working px that is `matrix` times the offset from the centre."""
    place = (torch.arange(16) + 0.5) * 4 - 32
    y, x = torch.meshgrid(place, place, indexing="ij")
    flow = torch.einsum("ij,jhw->ihw", torch.tensor(matrix), torch.stack((x, y)))
    return torch.stack([flow * n for n in range(t)]).unsqueeze(0)


def test_block_transform_equals_scipy_and_is_lossless():
    pixels = torch.randn(1, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = pixels_to_coefficients(pixels)
    block = dctn(pixels[0, 1, 8:16, 16:24].numpy(), norm="ortho")
    assert torch.allclose(coefficients[0, 64:128, 1, 2].reshape(8, 8), torch.from_numpy(block), atol=1e-12)
    assert torch.allclose(coefficients_to_pixels(coefficients), pixels, atol=1e-12)


def test_flow_grid_folds_without_loss():
    flow = torch.randn(2, 2, 16, 16)
    assert torch.allclose(unfold_grid(fold_grid(flow, 4.0), 4.0), flow, atol=1e-6)


def test_zero_flow_leaves_a_picture_and_full_pixels_shift_exactly():
    image = picture(20, 30).unsqueeze(0)
    flow = torch.zeros(1, 2, 20, 30)
    assert torch.allclose(warp(image, flow), image, atol=1e-4)
    flow[:, 0] = 3  # read three pixels to the right: the picture moves left
    assert torch.allclose(warp(image, flow)[..., :-4], image[..., 3:-1], atol=1e-4)


def test_reflected_coordinates_bounce_at_the_pixel_edges():
    coordinate = torch.tensor([-1.0, 0.0, 3.0, 4.0, 5.0, 8.0])
    assert reflect_coordinate(coordinate, 4).tolist() == [0.0, 0.0, 3.0, 3.0, 2.0, 0.0]


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (64, 36), (1, 1), (3, 500), (333, 517)])
def test_letterbox_keeps_the_middle_and_fills_by_reflection(size):
    square = fit_square(picture(*size).unsqueeze(0), 64)
    assert square.shape == (1, 3, 64, 64)
    assert torch.isfinite(square).all()
    box = Letterbox(*size, 64)
    if size == (40, 64):
        inner = square[:, :, 12:52]
        assert torch.allclose(inner, picture(*size).unsqueeze(0), atol=1e-6)
        assert torch.allclose(square[:, :, 11], inner[:, :, 0], atol=1e-6)
    assert max(box.inner_height, box.inner_width) == 64


def test_spline_weights_sum_to_one_and_reproduce_lines():
    place = torch.linspace(1.5, 17.5, 201, dtype=torch.float64)
    weights = spline_weights(place, 20)
    assert torch.allclose(weights.sum(1), torch.ones_like(place))
    assert torch.allclose(weights @ torch.arange(20.0, dtype=torch.float64), place)
    assert (weights >= 0).all()


def test_flow_between_cells_bends_without_kinks():
    flow = torch.zeros(1, 2, 16, 16)
    flow[..., 8:] = 4.0
    row = resample_flow(flow, Letterbox(256, 256, 64))[0, 0, 128]
    assert row.diff().diff().abs().max() < 0.05 * row.max()
    assert (row.diff() >= -1e-5).all()


@pytest.mark.parametrize("size", [(256, 256), (300, 450), (480, 270)])
def test_rotation_stays_a_rotation_on_wide_and_tall_photos(size):
    flow = linear_flow(*size, [[0.0, -0.1], [0.1, 0.0]])[:, 1]
    dense = resample_flow(flow, Letterbox(*size, 64))[0]
    h, w = size
    y, x = torch.meshgrid(torch.arange(h) + 0.5 - h / 2, torch.arange(w) + 0.5 - w / 2, indexing="ij")
    tolerance = 0.006 * max(size) * 0.1  # the content area is a whole number of working pixels
    assert (dense[0] + 0.1 * y).abs().max() < tolerance + 1e-3
    assert (dense[1] - 0.1 * x).abs().max() < tolerance + 1e-3


@pytest.mark.parametrize("size", [(64, 64), (333, 517), (90, 160), (161, 90)])
def test_still_latents_give_back_the_photo_bit_for_bit_in_frame_one(size):
    codec, photo = FlowCodec(), picture(*size)
    latents = codec.encode(photo[None, :, None]).repeat(1, 1, 3, 1, 1)
    video = codec.decode_onto(latents, photo, even=False)
    assert video.shape == (1, 3, 3, *size)
    assert torch.equal(video[0, :, 0], photo)
    assert (video[0, :, 2] - photo).abs().max() < 1e-3


def test_odd_sides_are_padded_to_even_by_repeating_the_edge():
    codec, photo = FlowCodec(), picture(33, 51)
    video = codec.decode_onto(codec.encode(photo[None, :, None]), photo)
    assert video.shape == (1, 3, 1, 34, 52)
    assert torch.equal(video[0, :, 0, 33, :51], photo[:, 32])
    assert torch.equal(video[0, :, 0, :33, 51], photo[:, :, 50])


def test_flow_moves_the_photo_itself_at_full_size():
    codec, photo = FlowCodec(), picture(256, 256)
    flow = torch.zeros(1, 2, 2, 16, 16)
    flow[:, 1, 0] = 4.0  # 4 working px = 16 photo px, read from the right
    first = photo[None, :, None]
    still = codec.decode(codec.encode(first))
    moved = warp(still[:, :, 0], torch.tensor([4.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 64, 64))
    latents = codec.encode(torch.stack((still[:, :, 0], moved), 2), flow)
    video = codec.decode_onto(latents, photo)
    assert (video[0, :, 1, :, :200] - photo[:, :, 16:216]).abs().max() < 2e-3


def test_working_size_decode_is_the_letterboxed_picture():
    codec, photo = FlowCodec(), picture(48, 64)
    decoded = codec.decode(codec.encode(photo[None, :, None]))[:, :, 0]
    assert torch.allclose(decoded, fit_square(photo[None], 64), atol=1e-5)


def test_preview_factors_give_the_block_means():
    codec, photo = FlowCodec(), picture(64, 64)
    latents = codec.encode(photo[None, :, None])[0, :, 0]
    preview = torch.einsum("chw,cr->rhw", latents, torch.tensor(rgb_factors()))
    means = torch.nn.functional.avg_pool2d(photo, 8) * 2 - 1
    assert torch.allclose(preview, means, atol=1e-5)


@pytest.mark.parametrize("size", [(16384, 16), (5000, 10)])
def test_photos_with_a_side_above_4096_are_refused_with_the_number(size):
    with pytest.raises(ShapeError, match="4096"):
        FlowCodec().encode(torch.zeros(1, 3, 1, *size))


def test_latents_of_another_space_are_named():
    with pytest.raises(ShapeError, match=r"\(b, 200, t, 8, 8\)"):
        FlowCodec().decode(torch.zeros(1, 16, 3, 8, 8))


def whole_frame(codec, latents, photo, n):
    """Frame n as the codec's formula says it, drawn in one piece: (1, 3, h, w)."""
    size = codec.working_size
    pixels, grid = codec.pixels_of(latents), codec.flow_of(latents)[:, n]
    residual = pixels[:, :, n] - warp(pixels[:, :, 0], resample_flow(grid, Letterbox(size, size, size)))
    box = Letterbox(*photo.shape[-2:], size)
    return (warp(photo[None], resample_flow(grid, box)) + resample_square(residual, box)).clamp(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (7, 400), (63, 64), (65, 67), (127, 90), (129, 33), (200, 301), (1080, 640)])
def test_frames_drawn_in_bands_equal_those_drawn_in_one_piece_bit_for_bit(size):
    codec, photo = FlowCodec(), picture(*size)
    latents = torch.randn(1, 200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    video = codec.decode_onto(latents, photo, even=False)
    frames = list(codec.frames_onto(latents, photo, even=False))
    for n in (1, 2):
        truth = whole_frame(codec, latents, photo, n)[0]
        assert torch.equal(video[0, :, n], truth) and torch.equal(frames[n], truth)


@pytest.mark.parametrize("height", [1, 63, 64, 65, 127, 128, 129, 2000, 4096])
def test_bands_cover_every_row_once_and_none_is_thin(height):
    bands = list(row_bands(height))
    assert [row for band in bands for row in range(band.start, band.stop)] == list(range(height))
    assert all(BAND <= band.stop - band.start < 2 * BAND for band in bands) or height < BAND


@pytest.mark.parametrize(("channels", "width", "words"), [
    (200, 4097, "sides go up to 4096 px"), (16, 8, "needs \\(b, 200, t, 8, 8\\)"),
])  # fmt: skip
def test_frames_that_cannot_be_are_refused_at_the_call(channels, width, words):
    with pytest.raises(ShapeError, match=words):
        FlowCodec().frames_onto(torch.zeros(1, channels, 2, 8, 8), picture(2, width))
