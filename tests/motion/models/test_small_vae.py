"""The small VAE: Wan's frame rule and scale, nothing looks ahead, a picture is the first frame of a video."""

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.latent_spaces import SPACES, WAN21_DEVIATION, WAN21_MEAN
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig, to_cells, to_video

SIZES = SmallVAEConfig(encoder_width=8, encoder_blocks=2, decoder_width=12, decoder_blocks=2)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = SmallVAE(SIZES).double().requires_grad_(False)
    vae.mean.normal_()
    vae.deviation.uniform_(0.5, 2.0)
    return vae


@pytest.fixture(scope="module")
def video():
    return torch.rand(2, 3, 9, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def test_cells_hold_every_pixel_and_come_back(video):
    first, groups = to_cells(video)
    assert first.shape == (2, 192, 3, 4) and groups.shape == (2, 2, 768, 3, 4)
    assert torch.equal(to_video(first, groups), video)
    assert torch.equal(first[0, :, 1, 2], video[0, :, 0, 8:16, 16:24].flatten())
    assert torch.equal(groups[0, 1, :, 1, 2].view(4, 3, 8, 8), video[0, :, 5:9, 8:16, 16:24].movedim(1, 0))


def test_shapes_follow_the_frame_rule_both_ways(vae, video):
    latents = vae.encode(video)
    assert latents.shape == (2, 16, 3, 3, 4) and vae.decode(latents).shape == video.shape
    assert vae.decode(vae.encode(video[:, :, :1])).shape == (2, 3, 1, 24, 32)


@pytest.mark.parametrize("frames", [1, 5])
def test_nothing_looks_ahead(vae, video, frames):
    latents, kept = vae.encode(video), (frames + 3) // 4
    assert torch.allclose(vae.encode(video[:, :, :frames]), latents[:, :, :kept], atol=1e-12)
    assert torch.allclose(vae.decode(latents[:, :, :kept]), vae.decode(latents)[:, :, :frames], atol=1e-12)


def test_earlier_frames_are_seen(vae, video):
    other = video.clone()
    other[:, :, :1] = 0
    assert not torch.allclose(vae.encode(other)[:, :, 1], vae.encode(video)[:, :, 1], atol=1e-4)


def test_latents_are_scaled_as_wans(vae, video):
    """What the network sees is (cells - mean) / deviation, and the way there is Wan's own mean and deviation."""
    latents, cells = vae.encode(video), vae.encode_cells(video)
    for channel in (0, 7, 15):
        seen = (latents[:, channel] - WAN21_MEAN[channel]) / WAN21_DEVIATION[channel]
        made = (cells[:, :, channel] - vae.mean[channel]) / vae.deviation[channel]
        assert torch.allclose(seen, made, atol=1e-6)  # the constants of Wan are float32
    back = vae.decode_cells(cells)
    assert torch.allclose(vae.decode(latents), back, atol=1e-5)
    assert SPACES["wan21"].mean == WAN21_MEAN


@pytest.mark.parametrize(
    "shape, says",
    [((1, 3, 8, 16, 16), "use 5 or 9"), ((1, 3, 5, 20, 16), "multiples of 8"),
     ((1, 4, 5, 16, 16), r"\(b, 3, t, h, w\)"), ((3, 5, 16, 16), "needed"), ((1, 3, 0, 16, 16), "t 1 or more")],
)  # fmt: skip
def test_what_it_would_have_to_cut_is_refused(vae, shape, says):
    with pytest.raises((ShapeError, ConfigError), match=says):
        vae.encode(torch.zeros(shape, dtype=torch.float64))


def test_latents_of_another_space_and_impossible_sizes_are_refused(vae):
    with pytest.raises(ShapeError, match=r"\(b, 16, t, h, w\)"):
        vae.decode(torch.zeros(1, 32, 1, 2, 2, dtype=torch.float64))
    with pytest.raises(ConfigError, match="encoder_width is 0"):
        SmallVAEConfig(encoder_width=0)
