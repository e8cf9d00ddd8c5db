"""The shipped weights move the picture as asked, by what they learnt and by what they see."""

import json
from dataclasses import replace

import pytest
import torch
from pack.motion.builtin_model import builtin_path, load_builtin
from pack.motion.data.procedural.camera import DIRECTED, draw_scenes
from pack.motion.data.procedural.textures import canvases
from pack.motion.io.files.safetensors import read_header
from pack.motion.pipeline import animate
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler
from pack.recipes.tiny import builtin_spec

FRAMES = 6
LAST = FRAMES - 1


@pytest.fixture(scope="module")
def model():
    return load_builtin()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Four drawn pictures (4, 3, 64, 64) of a seed no training uses."""
    return canvases(4, 128, torch.Generator().manual_seed(77_001))[..., :64, :64]


@torch.no_grad()
def flow_px(model, pictures: torch.Tensor, prompts: list[str], bucket=12, *, num_steps=2, seed=0) -> torch.Tensor:
    """Sample clips of FRAMES frames from pure noise; the last frame's flow (b, 2, 16, 16) in working px."""
    first = model.codec.encode(pictures.unsqueeze(2)) * model.spec.latent.scale_factor
    bucket = torch.as_tensor(bucket).expand(len(prompts))
    denoise = MotionDenoiser(model.dit, replace(model.encode(prompts), first_latent=first, motion_bucket_id=bucket))
    noise = torch.randn((1, 200, FRAMES, 8, 8), generator=torch.Generator().manual_seed(seed))
    sigmas = flow_sigmas(num_steps, shift=model.spec.sampling.shift)
    latents = euler(denoise, noise.expand(len(prompts), -1, -1, -1, -1).contiguous(), sigmas)
    return model.codec.flow_of(latents / model.spec.latent.scale_factor)[:, LAST]


def unit_flow(motion: str) -> torch.Tensor:
    """The backward flow a label asks for, from a drawn scene without layers, mean length 1."""
    scenes = draw_scenes(1, torch.Generator().manual_seed(0), motions=[motion])
    scenes.blob[:, 4], scenes.ground[:, 1] = 1.0, 0.0
    flow = scenes.render(torch.tensor([[0, 1]]))[1][0, 1]
    return flow / flow.square().sum(0).mean().sqrt()


def along(flow: torch.Tensor, motion: str) -> torch.Tensor:
    """Length of flow (b, 2, 16, 16) along a label, px."""
    return (flow * unit_flow(motion)).sum(1).mean((1, 2))


def test_file_is_small_half_precision_and_says_how_it_was_made():
    path = builtin_path("motionblocks-tiny")
    header = read_header(path)
    assert path.stat().st_size <= 10_000_000
    assert "train_builtin.py" in header.metadata["command"] and int(header.metadata["seed"]) == 0
    assert json.loads(header.metadata["recipe"])["num_steps"] > 0


def test_file_describes_the_network_the_recipe_builds(model):
    assert model.spec == builtin_spec()


@pytest.mark.slow
@pytest.mark.parametrize("motion", DIRECTED)
def test_flow_follows_the_prompt_from_pure_noise(model, pictures, motion):
    flow = flow_px(model, pictures, [motion] * 4)
    asked = along(flow, motion)
    rest = (flow - asked.view(-1, 1, 1, 1) * unit_flow(motion)).square().sum(1).mean((1, 2)).sqrt()
    assert (asked > 1.0).all(), asked
    assert (rest < 0.6 * asked).all(), (rest, asked)


@pytest.mark.slow
def test_two_motions_in_one_prompt_both_happen(model, pictures):
    flow = flow_px(model, pictures, ["pan left, zoom in"] * 4)
    assert (along(flow, "pan left") > 0.7).all() and (along(flow, "zoom in") > 0.7).all()


@pytest.mark.slow
def test_shuffled_weights_destroy_the_motion(model, pictures):
    """The motion sits in what was learnt: the same numbers in another order do not follow prompts."""
    shuffled = load_builtin()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in shuffled.dit.parameters():
            value.copy_(value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value))
    prompts = list(DIRECTED)
    picture = pictures[:1].expand(len(prompts), -1, -1, -1)

    def score(candidate) -> float:
        """Mean cosine between the flow and the label's flow."""
        flow = flow_px(candidate, picture, prompts)
        cosines = [float(along(flow[row : row + 1], motion)) / float(flow[row].square().sum(0).mean().sqrt() + 1e-6)
                   for row, motion in enumerate(prompts)]
        return sum(cosines) / len(cosines)

    assert score(model) > 0.85
    assert abs(score(shuffled)) < 0.3


@pytest.mark.slow
def test_flow_depends_on_the_picture_seen(model):
    """Same prompt, bucket and noise: fine texture must move less than smooth shapes to be as dynamic."""
    generator = torch.Generator().manual_seed(5)
    rough = torch.rand(4, 3, 64, 64, generator=generator)
    rough = torch.nn.functional.avg_pool2d(rough, 3, 1, 1, count_include_pad=False)
    smooth = torch.nn.functional.interpolate(rough[..., :6, :6], (64, 64), mode="bicubic").clamp(0, 1)
    slow = along(flow_px(model, rough, ["pan left"] * 4), "pan left").mean()
    fast = along(flow_px(model, smooth, ["pan left"] * 4), "pan left").mean()
    assert fast > 1.15 * slow, (fast, slow)


@pytest.mark.slow
def test_more_dynamics_is_more_motion_and_bucket_0_is_none(model, pictures):
    lengths = [flow_px(model, pictures, ["pan right"] * 4, bucket).square().sum(1).sqrt().mean() for bucket in
               (0, 1, 6, 12, 19)]
    assert lengths == sorted(lengths)
    assert lengths[0] * 15 / LAST < 0.3 and lengths[-1] > 3.5 * lengths[1]


@pytest.mark.slow
def test_still_stands_whatever_the_dynamics(model, pictures):
    for bucket in (0, 12, 19):
        assert flow_px(model, pictures, ["still"] * 4, bucket).abs().max() < 0.3


def test_first_frame_is_the_photo_bit_for_bit(model, pictures):
    video = animate(pictures[0], motion="zoom in", num_frames=4, num_steps=2, model=model)
    assert torch.equal(video[0].permute(2, 0, 1), pictures[0])
