"""Clips longer than the trained ones: the same move, on and on, or to and fro; shorter ones do not notice."""

from dataclasses import replace

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.choices import BACK_AND_FORTH, GO_ON, LONGER, SAME_MOVE
from pack.motion.errors import ConfigError
from pack.motion.sampling.clip_places import clip_places
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler


@pytest.mark.parametrize("longer", LONGER)
@pytest.mark.parametrize("num_frames", [1, 2, 9, 16])
def test_up_to_the_trained_length_a_place_is_the_frames_number(num_frames, longer):
    assert torch.equal(clip_places(num_frames, 16, longer), torch.arange(num_frames).float().expand(2, -1))


def test_the_same_move_spreads_motion_evenly_and_holds_detail_at_whole_trained_places():
    motion, detail = clip_places(31, 16, SAME_MOVE)
    assert torch.equal(motion, torch.arange(31) / 2)
    assert torch.equal(detail, torch.tensor([*range(16), *[15] * 15]).float())
    for num_frames in (17, 61, 121, 256):
        motion, _ = clip_places(num_frames, 16, SAME_MOVE)
        assert motion[0] == 0 and motion[-1] == 15 and (motion.diff() - 15 / (num_frames - 1)).abs().max() < 1e-5


def test_going_on_counts_and_to_and_fro_turns_at_the_ends():
    assert torch.equal(clip_places(40, 16, GO_ON), torch.arange(40).float().expand(2, -1))
    motion, detail = clip_places(40, 16, BACK_AND_FORTH)
    assert motion.tolist() == [*range(16), *range(14, -1, -1), *range(1, 10)] and detail.max() == 15
    assert clip_places(3, 1, BACK_AND_FORTH).abs().sum() == 0


def test_another_word_is_refused_with_the_words_there_are():
    with pytest.raises(ConfigError, match="longer is 'faster'; it must be one of: same move, go on, back and forth"):
        clip_places(20, 16, "faster")


@pytest.fixture(scope="module", params=["motionblocks-tiny", "motionblocks-small"])
def model(request):
    return load_builtin(request.param)


@torch.no_grad()
def flow(model, prompt, num_frames, longer=None, num_steps=3, noise=None):
    """Backward flow of a clip on a smooth picture (t, 2, g, g) and its latents."""
    generator = torch.Generator().manual_seed(0)
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), (96, 128), mode="bicubic")
    first = model.codec.encode(photo.clamp(0, 1).unsqueeze(2))
    told = replace(model.encode([prompt]), motion_bucket_id=torch.tensor([12]), first_latent=first)
    if longer is not None:
        told = told.at_places(clip_places(num_frames, model.spec.sampling.num_frames, longer))
    denoise = MotionDenoiser(model.dit, told, integer_timesteps=model.spec.sampling.integer_timesteps)
    if noise is None:
        noise = torch.randn((1, 200, num_frames, *first.shape[3:]), generator=generator)
    latents = euler(denoise, noise, flow_sigmas(num_steps, shift=model.spec.sampling.shift))
    return model.codec.flow_of(latents)[0], latents


@pytest.mark.slow
def test_going_on_and_short_clips_keep_the_bits_of_a_network_that_counts_by_itself(model):
    for num_frames, longer in ((16, SAME_MOVE), (20, GO_ON)):
        assert torch.equal(flow(model, "zoom in", num_frames)[1], flow(model, "zoom in", num_frames, longer)[1])


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["zoom in", "pan left", "rotate right"])
def test_a_long_clip_of_the_same_move_passes_where_the_short_one_does(model, prompt):
    short, long = flow(model, prompt, 16)[0], flow(model, prompt, 31, SAME_MOVE)[0]
    error = (long[::2] - short).norm(dim=1).mean() / short.norm(dim=1).mean()
    assert error < 0.05, float(error)
    steps = long.diff(dim=0).norm(dim=1).mean((1, 2))
    assert steps.max() < 2 * steps.median()


@pytest.mark.slow
def test_a_long_clip_moves_as_the_short_one_of_the_same_noise_does_to_rounding(model):
    """The network sees the trained places, however long the clip: at them it answers what it answers there."""
    cells = model.codec.working_size // 8
    noise = torch.randn((1, 200, 61, cells, cells), generator=torch.Generator().manual_seed(3))
    for prompt in ("zoom out", "swing" if "swing" in model.vocabulary.words else "pan up"):
        short = flow(model, prompt, 16, SAME_MOVE, noise=noise[:, :, ::4])[0]
        long = flow(model, prompt, 61, SAME_MOVE, noise=noise)[0]
        assert short.abs().max() > 1 and (long[::4] - short).abs().max() < 1e-3


@pytest.mark.slow
def test_frames_between_whole_places_pass_on_a_smooth_curve_and_do_not_tremble(model):
    long = flow(model, "zoom out", 121, SAME_MOVE)[0]
    steps, turns = (long.diff(n=order, dim=0).norm(dim=1).mean((1, 2)) for order in (1, 2))
    assert turns.mean() < 0.1 * steps.mean(), float(turns.mean() / steps.mean())
    assert not long[0].any()


@pytest.mark.slow
def test_there_and_back_ends_where_it_began(model):
    moved = flow(model, "zoom in", 31, BACK_AND_FORTH)[0].norm(dim=1).mean((1, 2))
    assert moved[30] < 0.05 * moved[15] and moved.argmax() == 15
