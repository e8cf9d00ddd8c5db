"""motionblocks-vae on the VAE socket: core's nodes use it as one more VAE of Wan's latents."""

import pytest
import torch
from comfy.latent_formats import Wan21
from pack.motion.data.procedural.sprites import SpriteSource
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.networks.builtin_names import WEIGHTS
from pack.motion.io.vaes.small_vae import read_small_vae
from pack.nodes.vaes_on_socket.recognise import space_of_vae
from pack.nodes.vaes_on_socket.small import SmallMotionVAE

import nodes


@pytest.fixture(scope="module")
def network():
    with torch.inference_mode(False):
        return read_small_vae(WEIGHTS / "motionblocks-vae.safetensors")


@pytest.fixture(scope="module")
def vae(network):
    return SmallMotionVAE(network)


@pytest.fixture(scope="module")
def image():
    """IMAGE (17, 64, 96, 3)."""
    return SpriteSource(64, 96).draw(torch.Generator().manual_seed(5)).render()[0].permute(1, 2, 3, 0).contiguous()


def error(a, b):
    return float((a - b).abs().max())


def test_core_encodes_and_decodes_a_video_as_the_network_does(vae, network, image):
    (latent,) = nodes.VAEEncode().encode(vae, image)
    assert latent["samples"].shape == (1, 16, 5, 8, 12)
    ours = network.encode(image.permute(3, 0, 1, 2).unsqueeze(0) * 2 - 1)
    assert error(latent["samples"], ours) <= 1e-5
    (back,) = nodes.VAEDecode().decode(vae, latent)
    assert back.shape == image.shape and 0 <= float(back.min()) and float(back.max()) <= 1
    assert error(back, (network.decode(ours)[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)) <= 1e-5
    assert -10 * torch.log10((back - image).square().mean()) > 26


def test_a_photo_is_the_first_frame_of_its_video(vae, image):
    photo, video = (nodes.VAEEncode().encode(vae, frames)[0]["samples"] for frames in (image[:1], image))
    assert photo.shape == (1, 16, 1, 8, 12) and error(photo, video[:, :, :1]) <= 1e-5
    assert nodes.VAEDecode().decode(vae, {"samples": photo})[0].shape == (1, 64, 96, 3)


def test_wans_latent_format_brings_it_to_size_one_and_back(vae, image):
    latent, form = vae.encode(image), Wan21()
    seen = form.process_in(latent)
    assert 0.5 < float(seen.square().mean().sqrt()) < 1.6
    assert error(form.process_out(seen), latent) <= 1e-5
    assert error(seen, vae.latent_space.scaled(latent)) <= 1e-5


def test_tiled_nodes_give_the_same(vae, image):
    tiled = nodes.VAEEncodeTiled().encode(vae, image, 64, 16)[0]
    assert error(tiled["samples"], vae.encode(image)) == 0
    decoded = nodes.VAEDecodeTiled().decode(vae, tiled, 64, 16)[0]
    assert error(decoded, nodes.VAEDecode().decode(vae, tiled)[0]) == 0


def test_the_host_counts_its_frames_and_cells_as_wans(vae):
    assert vae.temporal_compression_decode() == 4 and vae.spacial_compression_decode() == 8
    assert vae.spacial_compression_encode() == 8
    assert space_of_vae(vae).kind == "wan21"
    assert vae.downscale_ratio[0](17) == 5 and vae.upscale_ratio[0](5) == 17


@pytest.mark.parametrize("frames, width, says", [(16, 64, "use 13 or 17"), (17, 72, "64x64 or 80x64")])
def test_what_would_be_cut_without_a_word_is_refused(vae, frames, width, says):
    with pytest.raises((ShapeError, ConfigError), match=says):
        vae.encode(torch.zeros(frames, 64, width, 3))


def test_latents_of_another_space_are_refused(vae):
    with pytest.raises(ShapeError, match="16"):
        vae.decode(torch.zeros(1, 4, 5, 8, 8))


def test_the_hosts_estimate_of_memory_holds_what_a_decode_needs(vae):
    shape = (1, 16, 5, 16, 16)
    assert vae.memory_used_decode(shape, torch.float32) >= 17 * 128 * 128 * 3 * 4 * 2
    assert vae.memory_used_encode((1, 3, 17, 128, 128), torch.float32) > 0
