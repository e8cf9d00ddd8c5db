"""The motion loss against loops in float64, what leaves it as it is, and its weight of noise levels."""

import math

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.training.objectives.motion_loss import Motion, MotionLoss, bell, motion_loss
from pack.motion.training.objectives.noise_levels import NoiseLevels


def fields(seed=0, frames=4):
    return torch.randn(2, 2, 3, frames, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_kinds_are_the_sums_of_a_loop():
    answer, truth = fields()
    paper, release = [], []
    for b in range(2):
        cosines = []
        for i in range(1, 4):
            one, other = ((part[b, :, i] - part[b, :, i - 1]).flatten() for part in (answer, truth))
            cosines.append(float(one @ other / (one.norm() * other.norm())))
        paper.append(1 - sum(cosines) / 3)
        cosines = []
        for c in range(3):
            for y in range(2):
                for x in range(2):
                    one, other = ((part[b, c, 1:, y, x] - part[b, c, :-1, y, x]).abs() for part in (answer, truth))
                    cosines.append(float(one @ other / (one.norm() * other.norm())))
        release.append(1 - sum(cosines) / 12)
    for kind, wanted in (("paper", paper), ("release", release)):
        found = motion_loss(answer, truth, kind)
        assert found.tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("kind", ["paper", "release"])
def test_equal_motion_costs_nothing_and_its_size_does_not_count(kind):
    answer, truth = fields()
    assert motion_loss(truth, truth, kind).abs().max() < 1e-9
    assert torch.allclose(motion_loss(3 * answer, truth, kind), motion_loss(answer, truth, kind))
    still = truth + torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)  # the same offset in every frame
    assert motion_loss(still, truth, kind).abs().max() < 1e-9
    if kind == "paper":
        assert torch.allclose(motion_loss(-truth, truth, kind), torch.full((2,), 2.0, dtype=torch.float64))


class Answering:
    """A trainee that answers with a given velocity."""

    def __init__(self, answer):
        self.answer = answer

    def conditions(self, batch):
        return None

    def predict(self, latents, sigma, conditions):
        return self.answer


def test_the_loss_is_that_of_the_velocity_and_the_second_part_times_its_weight():
    answer, truth = (part.float() for part in fields())
    batch = {"latents": torch.zeros_like(truth), "noise": truth, "sigma": torch.tensor([0.2, 0.9])}
    square = (answer - truth).square().flatten(1).mean(1)
    for settings, wanted in (
        (MotionLoss(motion="off"), square),
        (MotionLoss(weight=0.5), square + 0.5 * motion_loss(answer, truth, "paper")),
        (MotionLoss(motion="off", weighting="bell"), square * bell(batch["sigma"], 5.0)),
    ):
        found = Motion(NoiseLevels(shift=5.0), settings).loss(Answering(answer), batch)
        torch.testing.assert_close(found, wanted)
    one = {name: value[:, :, :1] if value.ndim == 5 else value for name, value in batch.items()}
    alone = Motion(NoiseLevels(), MotionLoss()).loss(Answering(answer[:, :, :1]), one)
    torch.testing.assert_close(alone, (answer - truth)[:, :, :1].square().flatten(1).mean(1))


def test_the_bell_is_the_released_codes_over_its_thousand_timesteps():
    base = [n / 1000 for n in range(1000, 0, -1)]
    times = [1000 * 5 * u / (1 + 4 * u) for u in base]
    weights = [math.exp(-2 * ((t - 500) / 1000) ** 2) for t in times]
    weights = [value - min(weights) for value in weights]
    weights = [value / (sum(weights) / 1000) for value in weights]
    found = bell(torch.tensor(times, dtype=torch.float64) / 1000, 5.0)
    assert found.tolist() == pytest.approx(weights, abs=1e-9)


@pytest.mark.parametrize("more", [{"motion": "mine"}, {"weighting": "mine"}, {"weight": -1.0}])
def test_settings_that_cannot_be_are_refused(more):
    with pytest.raises(ConfigError, match="losses are paper, release, off, weightings none, bell"):
        MotionLoss(**more)
