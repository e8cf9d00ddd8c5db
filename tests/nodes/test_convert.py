"""The door between host pictures and library tensors; needs no host."""

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.nodes.host import pixels


def test_videos_go_in_and_come_back_unchanged():
    frames = torch.rand(5, 7, 9, 3)
    video = pixels.to_video(frames)
    assert video.shape == (1, 3, 5, 7, 9) and torch.equal(pixels.to_image(video)[0], frames)
    batch = torch.rand(2, 5, 7, 9, 3)
    assert torch.equal(pixels.to_image(pixels.to_video(batch)), batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type_becomes_float32_rgb_and_stays_as_it_was(dtype):
    given = torch.rand(2, 4, 6, 3).to(dtype)
    kept = given.clone()
    frames = pixels.rgb_frames(given)
    assert frames.dtype == torch.float32 and torch.equal(frames, given.float()) and torch.equal(given, kept)


def test_alpha_is_blended_over_white_and_grey_is_repeated():
    clear, solid = torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4)
    solid[..., 3] = 1
    assert (pixels.rgb_frames(clear) == 1).all() and (pixels.rgb_frames(solid) == 0).all()
    grey = torch.rand(1, 2, 3, 1)
    assert torch.equal(pixels.rgb_frames(grey), grey.expand(-1, -1, -1, 3))


@pytest.mark.parametrize(
    "image, words",
    [
        (torch.zeros(2, 2, 3), "a non-empty IMAGE"), (torch.zeros(0, 2, 2, 3), "a non-empty IMAGE"),
        (None, "NoneType"), (torch.zeros(1, 2, 2, 2), "2 channels"), (torch.zeros(1, 2, 2, 5), "5 channels"),
        (torch.zeros(1, 2, 2, 3, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((1, 2, 2, 3), torch.inf), "NaN or infinite"), (torch.full((1, 2, 2, 3), -0.5), "from -0.5 to -0.5"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ShapeError, match=words):
        pixels.rgb_frames(image)


def test_exactly_one_start_photo_is_taken():
    assert pixels.start_photo(torch.rand(1, 3, 4, 3)).shape == (1, 3, 4, 3)
    with pytest.raises(ShapeError, match="holds 3 images; exactly 1 is needed"):
        pixels.start_photo(torch.rand(3, 3, 4, 3))


@pytest.mark.parametrize("latent", [None, {}, {"samples": torch.ones(3)}, {"samples": torch.zeros(0, 4, 8, 8)}])
def test_what_is_no_latent_is_refused(latent):
    with pytest.raises(ShapeError, match="a picture or video latent"):
        pixels.latent_samples(latent)


def test_small_maps_are_enlarged_by_whole_factors():
    rows = torch.rand(8, 5, 3)
    shown = pixels.picture(rows)
    assert shown.shape == (1, 256, 160, 3) and torch.equal(shown[0, ::32, ::32], rows)
