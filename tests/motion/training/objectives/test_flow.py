"""Flow matching on whole frames: what is shown, what counts, and frames that are given clean."""

import pytest
import torch
from pack.motion.training.objectives.flow import Flow, FlowAfterFirst
from pack.motion.training.objectives.noise_levels import NoiseLevels
from training_toys import keys, losses_of, task_of, tiny_spec


def test_text_to_video_objective_noises_and_counts_every_frame():
    spec = tiny_spec("t2v")
    batch = task_of(spec).draw(keys(3)).tensors
    level = batch["sigma"].view(-1, 1, 1, 1, 1)
    raw = torch.randn_like(batch["latents"])
    found, seen = losses_of(raw, batch, spec)
    torch.testing.assert_close(seen, (1 - level) * batch["latents"] + level * batch["noise"])
    torch.testing.assert_close(found, (raw - (batch["noise"] - batch["latents"])).square().flatten(1).mean(1))


class Fixed:
    """Keeps what it is asked, and answers with a fixed tensor."""

    def __init__(self, answer):
        self.answer = answer

    def conditions(self, batch, *, first_latent=None):
        return None

    def predict(self, latents, sigma, conditions):
        self.latents, self.sigma = latents, sigma
        return self.answer


@pytest.mark.parametrize("mask", [None, [[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]])
def test_motion_weight_adds_the_change_of_the_error_over_the_frames_that_count(mask):
    latents, noise, answer = (torch.randn(2, 4, 4, 2, 2, dtype=torch.float64) for _ in range(3))
    batch = {"latents": latents, "noise": noise, "sigma": torch.tensor([0.25, 0.75])}
    batch |= {} if mask is None else {"frame_mask": torch.tensor(mask, dtype=torch.float64)}
    found = Flow(NoiseLevels(), 3.0).loss(Fixed(answer), batch)
    for b in range(2):
        frames = [answer[b, :, n] - (noise - latents)[b, :, n] for n in range(4) if mask is None or mask[b][n]]
        mean = sum(frames) / len(frames)
        plain, change = (sum(float(each.square().mean()) for each in which) / len(frames)
                         for which in (frames, [frame - mean for frame in frames]))  # fmt: skip
        assert abs(float(found[b]) - plain - 3 * change) < 1e-6


def test_motion_weight_leaves_the_best_answer_where_it_is():
    """Two clips look alike to the network: what it answers best is their mean, whatever the weight."""
    latents = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    batch = {"latents": latents, "noise": torch.zeros_like(latents), "sigma": torch.full((2,), 0.5)}
    for weight in (0.0, 5.0):
        answer = (-latents.mean(0, keepdim=True)).expand(2, -1, -1, -1, -1).clone().requires_grad_(True)
        Flow(NoiseLevels(), weight).loss(Fixed(answer), batch).sum().backward()
        assert answer.grad.sum(0).abs().max() < 1e-6 < 1e-2 < answer.grad.abs().max()


def test_frames_that_are_given_clean_are_shown_clean_and_do_not_count():
    latents, noise, answer = (torch.randn(2, 4, 3, 2, 2, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    batch = {"latents": latents, "noise": noise, "sigma": torch.tensor([0.25, 0.75]), "frame_mask": mask}
    network = Fixed(answer)
    found = Flow(NoiseLevels()).loss(network, batch)
    for b, sigma in enumerate((0.25, 0.75)):
        total, counted = 0.0, 0
        for n in range(3):
            own = sigma * float(mask[b, n])
            assert float(network.sigma[b, n]) == own
            assert torch.equal(network.latents[b, :, n], (1 - own) * latents[b, :, n] + own * noise[b, :, n])
            if mask[b, n]:
                counted += 1
                total += float((answer[b, :, n] - (noise[b, :, n] - latents[b, :, n])).square().mean())
        assert abs(float(found[b]) - total / counted) < 1e-6


def test_a_first_frame_that_is_given_clean_has_the_noise_level_of_the_others_and_does_not_count():
    class Whole:
        """Keeps what it is asked, and answers with a fixed tensor."""

        def conditions(self, batch, *, first_latent=None):
            return None

        def predict(self, latents, sigma, conditions):
            self.latents, self.sigma = latents, sigma
            return answer

    latents, noise, answer = (torch.randn(2, 4, 3, 2, 2, dtype=torch.float64) for _ in range(3))
    batch = {"latents": latents, "noise": noise, "sigma": torch.tensor([0.25, 0.75])}
    network = Whole()
    found = FlowAfterFirst(NoiseLevels()).loss(network, batch)
    assert torch.equal(network.sigma, batch["sigma"]) and torch.equal(network.latents[:, :, 0], latents[:, :, 0])
    for b, sigma in enumerate((0.25, 0.75)):
        later = network.latents[b, :, 1:]
        torch.testing.assert_close(later, (1 - sigma) * latents[b, :, 1:] + sigma * noise[b, :, 1:])
        wrong = answer[b, :, 1:] - (noise[b, :, 1:] - latents[b, :, 1:])
        assert abs(float(found[b]) - float(wrong.square().mean())) < 1e-6
