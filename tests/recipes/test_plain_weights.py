"""The weights of motionblocks-plain: pans as plain residuals, without a flow head; a study, offered under no name."""

from dataclasses import replace

import pytest
import torch
from pack.motion.builtin_model import BUILTIN_NAMES, bundle
from pack.motion.data.procedural.scenes import SceneSource
from pack.motion.io.networks.builtin_names import WEIGHTS
from pack.motion.io.networks.linear_video import read_linear_video
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler

PANS = ["pan left", "pan right", "pan up", "pan down"]
OPPOSITE = [1, 0, 3, 2]
PATH = WEIGHTS / "motionblocks-plain.safetensors"
FRAMES, LOOK = 8, 5


@pytest.fixture(scope="module")
def model():
    return bundle(read_linear_video(PATH))


def test_it_has_no_flow_head_and_is_offered_under_no_name(model):
    assert model.spec.config.flow_channels == 0 and PATH.stem not in BUILTIN_NAMES
    assert PATH.stat().st_size < 4_000_000 and set(model.vocabulary.words) == {*PANS, "still"}


@pytest.mark.slow
@torch.no_grad()
def test_from_pure_noise_each_pan_goes_its_own_way(model):
    source = SceneSource(64, num_textures=4, seed=55)
    generators = [torch.Generator().manual_seed(900_200) for _ in PANS]
    scenes = source.draw(generators, captions=PANS).at_speed(torch.full((4,), 12 / 19))
    pictures, _ = scenes.render(torch.tensor([0, LOOK]).expand(4, -1))
    first = model.codec.encode(pictures[:, :, :1])
    told = replace(model.encode(PANS), first_latent=first, motion_bucket_id=torch.tensor([12]))
    denoise = MotionDenoiser(model.dit, told)
    noise = torch.randn(4, 200, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    made = model.codec.decode(euler(denoise, noise, flow_sigmas(4, shift=model.spec.sampling.shift)))[:, :, LOOK]
    inner = (slice(None), slice(None), slice(12, 52), slice(12, 52))
    made, truth, still = (picture[inner] for picture in (made, pictures[:, :, 1], pictures[:, :, 0]))
    error = [(made - other).square().mean((1, 2, 3)) for other in (truth, still, truth[OPPOSITE])]
    assert (error[0] < 0.8 * error[1]).all() and (error[0] < 0.6 * error[2]).all(), error
