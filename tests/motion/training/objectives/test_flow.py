"""Flow matching on whole frames: what is shown, what counts, and frames that are given clean."""

import torch
from pack.motion.training.objectives.flow import Flow
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


def test_frames_that_are_given_clean_are_shown_clean_and_do_not_count():
    class PerFrame:
        """Keeps what it is asked, and answers with a fixed tensor."""

        def conditions(self, batch, *, first_latent=None):
            return None

        def predict(self, latents, sigma, conditions):
            self.latents, self.sigma = latents, sigma
            return answer

    latents, noise, answer = (torch.randn(2, 4, 3, 2, 2, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    batch = {"latents": latents, "noise": noise, "sigma": torch.tensor([0.25, 0.75]), "frame_mask": mask}
    network = PerFrame()
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
