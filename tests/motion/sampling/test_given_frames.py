"""Frames that are given before those a network is asked for: always clean, never answered for."""

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.draw import draw_by
from pack.motion.sampling.given_frames import GivenFrames

GIVEN = torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Network:
    """Answers with the mean over all frames, and keeps what it was shown."""

    dtype = torch.float64

    def __init__(self):
        self.shown = []

    def __call__(self, latents, timestep, conditions):
        self.shown.append((latents, timestep))
        return latents.mean(2, keepdim=True).expand_as(latents) + latents


@pytest.mark.parametrize("clean", [False, True])
def test_given_frames_stand_clean_before_the_latents_at_every_call(clean):
    network = Network()
    told = Conditions(torch.zeros(1, 1, 1, dtype=torch.float64))
    denoise = MotionDenoiser(GivenFrames(network, GIVEN, clean_timestep=clean), told)
    noise = torch.randn(2, 2, 2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = draw_by(denoise, noise, num_steps=4, shift=3.0)
    assert out.shape == noise.shape and len(network.shown) >= 4
    for latents, timestep in network.shown:
        assert torch.equal(latents[:, :, :3], GIVEN.expand(2, -1, -1, -1, -1)) and latents.shape[2] == 5
        if clean:
            assert timestep.shape == (2, 5) and not timestep[:, :3].any() and (timestep[:, 3:] > 0).all()
        else:
            assert timestep.shape == (2,)


def test_the_answer_is_the_networks_for_the_latents_and_rows_keep_their_own_frames():
    network, given = Network(), torch.cat((GIVEN, -GIVEN))
    latents = torch.randn(4, 2, 2, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    out = GivenFrames(network, given)(latents, torch.full((4,), 500.0), None)
    whole = torch.cat((torch.cat((given, given)), latents), dim=2)
    expected = (whole.mean(2, keepdim=True) + whole)[:, :, 3:]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
