"""Adapters inside blocks on interpreted kernels: none and zeros give the same bits, others what torch gives."""

import pytest
import torch
from pack.kernels.spatial_state import read_spatial_state
from pack.motion.models.block_adapters import BlockAdapters, PairWeights
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig

TINY = LinearVideoDiTConfig(
    in_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=16, num_cross_attention_heads=2,
    caption_channels=12,
)  # fmt: skip


def zeros(site):
    return torch.zeros_like(site.tokens)


def ones(site):
    each = site.tokens.new_ones(*site.tokens.shape[:3], 1)
    return PairWeights(each, each)


def first_frame(site):
    """Each frame's own queries read the first frame's state."""
    b, t = site.tokens.shape[:2]
    sums = site.state.sums.unflatten(0, (b, t))[:, :1].expand(b, t, -1, -1, -1).flatten(0, 1)
    out = read_spatial_state(site.query, site.state._replace(sums=sums), kernels=site.around.kernels)
    return out.flatten(-2).reshape(site.tokens.shape)


def halves(site):
    """The left and the right half of a frame look at their own half only, but for a thousandth."""
    side = (torch.arange(site.tokens.shape[2]) % site.around.grid[1] < 1).float()
    keys = torch.stack((side, 1 - side), -1).expand(*site.tokens.shape[:3], 2)
    return PairWeights(keys + 1e-3, keys)


def network():
    torch.manual_seed(0)
    return LinearVideoDiT(TINY).eval()


def draw():
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 3, 12, generator=generator)
    return torch.randn(2, 4, 2, 2, 2, generator=generator), torch.full((2,), 500.0), Conditions(text)


@pytest.mark.parametrize("grad", [False, True])
def test_none_zeros_and_weights_of_one_give_the_same_bits(grad):
    model, given = network(), draw()
    model.kernels = "triton"
    with torch.set_grad_enabled(grad):
        plain = model(*given)
        for slots in ({}, {"beside_self_attention": zeros, "temporal": zeros}, {"attention_bias": ones}):
            assert torch.equal(plain, model(*given, adapters=BlockAdapters(**slots))), slots


@pytest.mark.parametrize("slots", [{"beside_self_attention": first_frame}, {"attention_bias": halves}], ids=list)
def test_states_and_weighted_pairs_act_as_in_torch_forward_and_backward(slots):
    model, given, results = network(), draw(), []
    for kernels in ("torch", "triton"):
        model.kernels = kernels
        out = model(*given, adapters=BlockAdapters(**slots))
        grads = torch.autograd.grad(out.square().sum(), [*model.transformer_blocks[0].attn1.parameters()])
        results.append((out, *grads))
    for ours, theirs in zip(*results):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(results[0][0], model(*given), atol=1e-4)
