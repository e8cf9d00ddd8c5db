"""The weights of motionblocks-small: the camera as before, an object that moves while the rest stands, and weather."""

import json
from dataclasses import replace

import pytest
import torch
from pack.motion.builtin_model import builtin_path, load_builtin
from pack.motion.data.procedural.fields import AXES
from pack.motion.data.procedural.scenes import SceneSource
from pack.motion.io.files.safetensors import read_header
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler
from pack.recipes.small import small_spec
from pack.recipes.weather import prompts_of, with_head

NAME = "motionblocks-small"
FRAMES = 6


@pytest.fixture(scope="module")
def model():
    return load_builtin(NAME)


@pytest.fixture(scope="module")
def source(model):
    return SceneSource(model.spec.latent.working_size, num_textures=4, seed=55)


@torch.no_grad()
def sampled(model, first, words: list[str], num_frames: int, num_steps: int) -> torch.Tensor:
    """Latents from pure noise, a row a word, at bucket 12."""
    told = replace(model.encode(words), first_latent=first, motion_bucket_id=torch.tensor([12]))
    denoise = MotionDenoiser(model.dit, told)
    noise = torch.randn((len(words), 200, num_frames, *first.shape[3:]), generator=torch.Generator().manual_seed(0))
    return euler(denoise, noise, flow_sigmas(num_steps, shift=model.spec.sampling.shift))


@torch.no_grad()
def moved(model, source, words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Made and true flow (b, 2, 32, 32) px of frame 5 of one scene a word that no training drew, from pure noise."""
    generators = [torch.Generator().manual_seed(900_000 + index) for index in range(len(words))]
    scenes = source.draw(generators, captions=words).at_speed(torch.full((len(words),), 12 / 19))
    frames = torch.arange(FRAMES).expand(len(words), -1)
    truth = scenes.flow(frames)[:, -1]
    picture = scenes.render(frames[:, :1])[0]
    first = model.codec.encode(picture)
    latents = sampled(model, first, words, FRAMES, num_steps=2)
    return model.codec.flow_of(latents)[:, -1], truth


def test_file_is_small_half_precision_and_says_how_it_was_made(model):
    path = builtin_path(NAME)
    header = read_header(path)
    assert path.stat().st_size <= 16_000_000
    assert sum(value.numel() for value in model.dit.parameters()) <= 8e6
    runs = [run["command"] for run in json.loads(header.metadata["history"])]
    assert all("train_small.py" in command for command in runs) and json.loads(header.metadata["recipe"])["words"]
    assert "train_weather.py" in header.metadata["command"] and json.loads(header.metadata["weather_recipe"])
    config = model.spec.config
    assert model.spec == with_head(small_spec(), config.skip_channels, config.skip_deviation)


def test_file_knows_at_least_twenty_motions_and_refuses_others_with_its_own_list(model):
    words = model.vocabulary.words
    assert len(words) >= 20 and set(AXES) < set(words) and {"slide left", "bounce", "orbit", "clouds"} < set(words)
    assert {"rain", "snow"} < set(words)


def test_only_prompts_with_weather_open_the_skip_so_all_others_are_what_they_were(model):
    ids, falls = prompts_of(model.vocabulary.words)
    with torch.no_grad():
        gate = model.dit.skip_head.gate(model.text_encoder(ids)[1], torch.full((len(ids),), 12))
    assert (gate[falls] > 0.95).all() and (gate[~falls] == 0).all()


@pytest.mark.slow
def test_rain_and_snow_fall_in_front_of_a_picture_that_stands(model, source):
    words = ["rain", "snow"]
    scenes = source.draw([torch.Generator().manual_seed(900_100 + index) for index in range(2)], captions=words)
    first = model.codec.encode(scenes.render(torch.zeros(2, 1, dtype=torch.long))[0])
    latents = sampled(model, first, words, FRAMES, num_steps=6)
    assert model.codec.flow_of(latents).abs().max() < 0.01, "px"
    added = model.codec.decode(latents)[:, :, 1:] - model.codec.decode(first)
    seen = (added.mean(1).abs() > 0.06).float().mean((1, 2, 3))
    assert (seen > 0.02).all() and (seen < 0.6).all(), seen
    assert (added.mean((1, 2, 3, 4)) > 0).all(), "drops are light"
    assert (added.diff(dim=2).abs().mean((1, 2, 3, 4)) > 0.005).all(), "they fall"


@pytest.mark.slow
def test_camera_follows_the_prompt_from_pure_noise(model, source):
    made, truth = moved(model, source, list(AXES))
    along = (made * truth).sum((1, 2, 3)) / truth.square().sum((1, 2, 3))
    rest = (made - along.view(-1, 1, 1, 1) * truth).square().sum((1, 2, 3)) / truth.square().sum((1, 2, 3))
    assert ((0.5 < along) & (along < 1.6)).all(), along
    assert (rest < 0.25).all(), rest


@pytest.mark.slow
def test_objects_and_skies_move_and_the_rest_stands(model, source):
    words = ["slide left", "slide right", "slide up", "slide down", "bounce", "orbit", "swing", "clouds"]
    made, truth = moved(model, source, words)
    core = truth.norm(dim=1) > 0.6 * truth.norm(dim=1).amax((1, 2), keepdim=True)
    still = truth.norm(dim=1) < 0.05 * truth.norm(dim=1).amax((1, 2), keepdim=True)
    right = 0
    for row in range(len(words)):
        way = ((made[row] * truth[row]).sum(0)[core[row]] / truth[row].norm(dim=0)[core[row]]).median()
        right += int(way > 0.5 and way > 2 * made[row].norm(dim=0)[still[row]].median())
    assert right >= 6, f"{right} of {len(words)}"
