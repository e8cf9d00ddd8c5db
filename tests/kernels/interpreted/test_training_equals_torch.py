"""A small network trained with the kernels learns what it learns with torch: the same losses, the same weights."""

import copy

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig

STEPS = 50
CONFIG = LinearVideoDiTConfig(
    in_channels=4, num_layers=1, num_attention_heads=1, attention_head_dim=32, num_cross_attention_heads=1,
    caption_channels=8, mlp_ratio=1.0, motion_buckets=4, default_motion_bucket=2,
)  # fmt: skip


def trained(model, kernels):
    """Losses and weights after STEPS steps of plain gradient descent on one moving picture and one noise."""
    model = copy.deepcopy(model)
    model.kernels = kernels
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn((1, 4, 2, 2, 3), generator=generator)
    context = torch.randn((1, 2, 8), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    noise = torch.randn(clean.shape, generator=generator)
    for _ in range(STEPS):
        sigma = torch.rand((1,), generator=generator)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        loss = (model(noisy, 1000 * sigma, Conditions(context)) - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses), torch.cat([value.flatten() for value in model.parameters()]).detach()


@pytest.mark.slow
def test_fifty_steps_with_kernels_end_where_fifty_steps_with_torch_end():
    torch.manual_seed(3)
    model = LinearVideoDiT(CONFIG)
    start = torch.cat([value.flatten() for value in model.parameters()]).detach()
    plain_losses, plain = trained(model, "torch")
    losses, weights = trained(model, "triton")
    assert plain_losses[-10:].mean() < 0.9 * plain_losses[:10].mean(), "nothing was learned"
    torch.testing.assert_close(losses, plain_losses, rtol=1e-3, atol=1e-4)
    moved, apart = (plain - start).norm(), (weights - plain).norm()
    assert apart < 1e-3 * moved, f"{apart / moved:.2e} of the way apart"


def test_every_parameter_gets_the_gradient_torch_gives_it():
    torch.manual_seed(4)
    model = LinearVideoDiT(CONFIG)
    latents, context = torch.randn(1, 4, 3, 2, 3), torch.randn(1, 2, 8)
    grads = {}
    for kernels in ("torch", "triton"):
        model.kernels = kernels
        model.zero_grad()
        model(latents, torch.tensor([300.0]), Conditions(context)).square().mean().backward()
        grads[kernels] = {name: value.grad.clone() for name, value in model.named_parameters()}
    for name, value in grads["torch"].items():
        apart = (grads["triton"][name] - value).norm()
        assert apart <= 1e-4 * value.norm() + 1e-7, f"{name}: {apart / value.norm():.2e}"
