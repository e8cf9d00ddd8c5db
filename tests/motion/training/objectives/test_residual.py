"""The residual objective against a float64 loop of the paper's formula."""

import torch
from training_toys import keys, losses_of, task_of, tiny_spec


def test_residual_objective_shows_z1_plus_noised_residual_and_counts_later_frames_only():
    spec = tiny_spec()
    batch = task_of(spec).draw(keys(3)).tensors
    clean, noise = batch["latents"].double(), batch["noise"].double()
    raw = torch.randn_like(batch["latents"])
    found, seen = losses_of(raw, batch, spec)
    for b, sigma in enumerate(batch["sigma"].double()):
        z1, total = clean[b, :, 0], 0.0
        torch.testing.assert_close(seen[b, :, 0].double(), z1)
        for n in (1, 2):
            residual = clean[b, :, n] - z1
            truth = z1 + (1 - sigma) * residual + sigma * noise[b, :, n]
            torch.testing.assert_close(seen[b, :, n].double(), truth, atol=1e-5, rtol=1e-5)
            total += (raw[b, :, n].double() - (noise[b, :, n] - residual)).square().mean() / 2
        torch.testing.assert_close(found[b].double(), total, atol=1e-5, rtol=1e-5)
    raw[:, :, 0] = 99.0
    assert torch.equal(found, losses_of(raw, batch, spec)[0])
