"""The Wan 2.1 VAE of our own: diffusers' numbers, whole or in chunks, in memory that does not grow with the clip."""

import sys
from pathlib import Path

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.io.vaes.wan_names import host_names
from pack.motion.models.wan.vae import WanVAE

BENCHMARKS = str(Path(__file__).resolve().parents[4] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    from ledger_common import meta_ledger
finally:
    sys.path.remove(BENCHMARKS)

SIZES = [(1, 24, 40), (5, 8, 16), (9, 40, 8), (13, 24, 24)]  # frames, height, width


def varied(module):
    """Biases, gammas and all away from what they start as."""
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return module.eval()


def clip(frames, height, width, *, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, height, width, generator=generator, dtype=dtype) * 2 - 1


def latents_of(frames, height, width, *, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, 16, frames, height, width, generator=generator, dtype=dtype)


def apart(found, need):
    assert found.shape == need.shape
    return float((found - need).detach().abs().max() / need.detach().abs().max())


@pytest.fixture(scope="module")
def exact():
    """A narrow VAE in float64."""
    torch.manual_seed(0)
    return varied(WanVAE(2, dtype=torch.float64))


@pytest.fixture(scope="module")
def pair():
    """diffusers' VAE and ours with its weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = varied(diffusers.AutoencoderKLWan(base_dim=4))
    theirs.decoder.conv_out.weight.data /= 8  # pixels inside [-1, 1], where diffusers clamps
    ours, state = WanVAE(4).eval(), theirs.state_dict()
    ours.load_state_dict({name: state[place] for name, place in host_names(state).items()})
    return theirs, ours


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_encodes_and_decodes_as_diffusers_does(pair, size):
    theirs, ours = pair
    frames, height, width = size
    video = clip(*size, batch=2)
    assert apart(ours.encode(video), theirs.encode(video).latent_dist.mode()) <= 1e-5
    latents = latents_of((frames + 3) // 4, height // 8, width // 8, batch=2)
    need = theirs.decode(latents).sample
    assert need.abs().max() < 1
    assert apart(ours.decode(latents), need) <= 1e-5


@pytest.mark.slow  # importing diffusers
def test_published_width_has_the_weights_that_diffusers_has():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan().state_dict()
    need = {name: theirs[place].shape for name, place in host_names(theirs).items()}
    assert {name: weight.shape for name, weight in WanVAE(device="meta").state_dict().items()} == need


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_give_what_the_whole_clip_gives(exact, size, chunk):
    frames, height, width = size
    video = clip(*size, dtype=torch.float64)
    assert apart(exact.encode(video, chunk=chunk), exact.encode(video, chunk=None)) <= 1e-11
    latents = latents_of((frames + 3) // 4, height // 8, width // 8, dtype=torch.float64)
    assert apart(exact.decode(latents, chunk=chunk), exact.decode(latents, chunk=None)) <= 1e-11


def test_later_frames_change_nothing_before_them(exact):
    video, other = clip(9, 16, 8, dtype=torch.float64), clip(9, 16, 8, dtype=torch.float64)
    other[:, :, 5:] = 0.5
    one, two = exact.encode(video, chunk=None), exact.encode(other, chunk=None)
    assert torch.equal(one[:, :, :2], two[:, :, :2]) and not torch.equal(one[:, :, 2], two[:, :, 2])
    one, two = exact.decode(one, chunk=None), exact.decode(two, chunk=None)
    assert torch.equal(one[:, :, :5], two[:, :, :5]) and not torch.equal(one[:, :, 5:], two[:, :, 5:])
    photo = exact.encode(video[:, :, :1])
    assert apart(photo, exact.encode(video)[:, :, :1]) <= 1e-11


def test_clips_of_a_batch_do_not_mix(exact):
    video = clip(5, 8, 16, batch=2, dtype=torch.float64)
    latents = exact.encode(video)
    assert apart(exact.encode(video[1:]), latents[1:]) <= 1e-11
    assert apart(exact.decode(latents[1:]), exact.decode(latents)[1:]) <= 1e-11


def test_equal_videos_give_equal_latents_and_nothing_is_written_into(exact):
    video = clip(5, 8, 8, dtype=torch.float64)
    kept = video.clone()
    latents = exact.encode(video)
    assert torch.equal(latents, exact.encode(video)) and torch.equal(video, kept)
    kept = latents.clone()
    exact.decode(latents)
    assert torch.equal(latents, kept)


def test_results_follow_the_type_given_and_need_no_inference_mode(exact):
    video = clip(5, 8, 8)
    latents = exact.encode(video)
    assert latents.dtype == torch.float32 and apart(latents.double(), exact.encode(video.double())) <= 1e-6
    with torch.inference_mode():
        made = exact.encode(video)
    pixels = exact.decode(made)  # an inference tensor, outside of that mode
    assert not pixels.is_inference() and not pixels.requires_grad and torch.equal(made, latents)
    (pixels * torch.ones(1, requires_grad=True)).sum().backward()


def peak_beside_result(call, given, chunk):
    """Most bytes that live at once, without what goes in and what comes out."""
    results = []
    ledger = meta_ledger(lambda: results.append(call(given, chunk=chunk)))
    return ledger.peak - results[0].numel() * results[0].element_size()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_a_longer_clip_takes_no_more_memory_beside_its_result(exact, way):
    def peak(num_latent_frames, chunk):
        given = clip(4 * num_latent_frames - 3, 16, 16) if way == "encode" else latents_of(num_latent_frames, 2, 2)
        return peak_beside_result(getattr(exact, way), given.double(), chunk)

    short = peak(3, 1)
    assert peak(4, 1) == peak(9, 1) == short
    assert peak(9, None) > 3 * short  # what is counted where all frames go at once


@pytest.mark.parametrize("shape, error, words", [
    ((1, 3, 16, 8, 8), ConfigError, "num_frames is 16; Wan 2.1 VAE needs 4k \\+ 1; use 13 or 17"),
    ((1, 3, 5, 12, 8), ShapeError, "video is 8x12 px; Wan 2.1 VAE needs multiples of 8; scale it to 8x8 or 8x16"),
    ((1, 3, 5, 8, 4), ShapeError, "video is 4x8 px"),
    ((1, 4, 5, 8, 8), ShapeError, "video is \\(1, 4, 5, 8, 8\\); \\(batch, 3, frames, height, width\\).*needed; move"),
    ((3, 5, 8, 8), ShapeError, "add a batch of 1"),
    ((1, 3, 0, 8, 8), ShapeError, "none of them 0"),
])  # fmt: skip
def test_other_sizes_are_refused_with_the_way_out(exact, shape, error, words):
    with pytest.raises(error, match=words):
        exact.encode(torch.zeros(shape))


def test_other_latents_types_chunks_and_widths_are_refused(exact):
    with pytest.raises(ShapeError, match="latents is \\(1, 4, 1, 1, 1\\); \\(batch, 16, frames"):
        exact.decode(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(ConfigError, match="num_frames is 1025; it must be 1 to 1024"):
        exact.decode(torch.zeros(1, 16, 257, 1, 1))
    with pytest.raises(ShapeError, match="video is torch.uint8; floating point is needed; use video.float()"):
        exact.encode(torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8))
    for chunk in (0, True, 1.5):
        with pytest.raises(ConfigError, match=f"chunk is {chunk}; a number of latent frames from 1"):
            exact.encode(torch.zeros(1, 3, 1, 8, 8), chunk=chunk)
    for width in (0, 1025, True, "96"):
        with pytest.raises(ConfigError, match=f"width is {width}; a Wan VAE is 1 to 1024 wide; use 96"):
            WanVAE(width, device="meta")
