"""The half-frames loss: given frames are clean, count for nothing, and are told a level of their own where asked."""

from types import SimpleNamespace

import pytest
import torch
from pack.motion.training.objectives.half_frames import HalfFrames
from pack.motion.training.objectives.noise_levels import NoiseLevels

MASK = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]])


def batch():
    made = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 16, 5, 2, 2, generator=made, dtype=torch.float64) for _ in range(2))
    return {"latents": latents, "noise": noise, "sigma": torch.tensor([0.25, 0.8], dtype=torch.float64),
            "frame_mask": MASK.expand(2, -1).double()}  # fmt: skip


class Answers:
    """A trainee that keeps what it is shown, and answers with a weight."""

    def __init__(self):
        self.weight = torch.ones(2, 16, 5, 2, 2, dtype=torch.float64, requires_grad=True)
        self.shown = []

    def conditions(self, batch):
        return SimpleNamespace()

    def predict(self, latents, sigma, conditions):
        self.shown.append((latents, sigma))
        return self.weight


def loss_of(clean_timestep=False, **changes):
    trainee = Answers()
    return HalfFrames(NoiseLevels(), clean_timestep).loss(trainee, {**batch(), **changes}), trainee


@pytest.mark.parametrize("clean", [False, True])
def test_given_frames_are_shown_clean_and_the_others_at_their_level(clean):
    data = batch()
    _, trainee = loss_of(clean)
    (shown, sigma), level = trainee.shown[0], data["sigma"].view(2, 1, 1, 1, 1)
    assert torch.equal(shown[:, :, :3], data["latents"][:, :, :3])
    expected = (1 - level) * data["latents"] + level * data["noise"]
    torch.testing.assert_close(shown[:, :, 3:], expected[:, :, 3:], rtol=0, atol=1e-15)
    told = data["sigma"].unsqueeze(1) * data["frame_mask"] if clean else data["sigma"]
    assert torch.equal(sigma, told)


def test_the_loss_is_the_mean_square_of_the_target_frames_alone_and_so_is_its_gradient():
    data = batch()
    loss, trainee = loss_of()
    error = (1.0 - (data["noise"] - data["latents"]))[:, :, 3:]
    torch.testing.assert_close(loss, error.float().square().double().flatten(1).mean(1), rtol=0, atol=1e-6)
    loss.sum().backward()
    assert not trainee.weight.grad[:, :, :3].any() and trainee.weight.grad[:, :, 3:].all()


def test_noise_of_given_frames_changes_nothing():
    data = batch()
    other = torch.where(data["frame_mask"].view(2, 1, 5, 1, 1) == 0, 9.0, data["noise"])
    assert torch.equal(loss_of()[0], loss_of(noise=other)[0])
