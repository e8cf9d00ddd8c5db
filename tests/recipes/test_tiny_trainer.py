"""Training of the built-in model: deterministic, stops at what is not finite, and its parts are what they say."""

from dataclasses import replace

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.models.heads.flow_head import DEAD_DELTA, DEAD_FLOW, compose_clean
from pack.motion.models.linear_video.network import torch_attention
from pack.motion.training.muon import Muon, orthogonalize
from pack.recipes.tiny import BuiltinRecipe, Stage, builtin_spec
from pack.recipes.tiny_trainer import Trainer, draw_batch, draw_frame_indices, few_keys_attention

SPEC = replace(builtin_spec(), config=replace(builtin_spec().config, num_layers=1))
TINY = BuiltinRecipe(num_steps=2, stages=(Stage(0.5, 2, 1), Stage(0.5, 2, 2)))


def run(seed: int) -> tuple[dict, list]:
    trainer, seen = Trainer(SPEC, TINY, seed), []
    trainer.run(lambda *values: seen.append(values[:3]))
    return trainer.averaged_state()[0], seen


@pytest.mark.slow
def test_same_seed_trains_to_the_same_bits_and_another_seed_does_not():
    (one, seen), (two, again), other = run(0), run(0), Trainer(SPEC, TINY, 1).dit.state_dict()
    assert seen == again and [step for step, *_ in seen] == [0, 1]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_loss_that_is_not_finite_stops_the_run_before_the_weights_change():
    trainer = Trainer(SPEC, TINY, 0)
    with torch.no_grad():
        trainer.dit.proj_out.bias[0] = float("nan")
    before = trainer.dit.patch_embed.proj.weight.clone()
    with pytest.raises(CheckpointError, match="not finite at step 0"):
        trainer.run(lambda *values: None)
    assert torch.equal(before, trainer.dit.patch_embed.proj.weight)


def test_batches_start_with_frame_0_and_ask_for_later_frames_in_order():
    generator = torch.Generator().manual_seed(0)
    indices = draw_frame_indices(200, 3, TINY, generator)
    assert (indices[:, 0] == 0).all() and (indices.diff(dim=1) > 0).all()
    assert indices.max() > 15 and (indices.amax(1) <= 15).float().mean() > 0.75
    batch = draw_batch(builtin_spec(), TINY, 3, 2, generator)
    assert batch.clean.shape == (3, 200, 3, 8, 8) and not batch.clean[:, 192:, 0].any()


def test_attention_written_out_equals_the_fused_operator():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 16, generator=generator) for n in (6, 2, 2))
    mask = torch.tensor([[0.0, 0.0], [0.0, -10000.0]])[:, None, None]
    fused = torch_attention(query, key, value, 4, mask)
    torch.testing.assert_close(few_keys_attention(query, key, value, 4, mask), fused)


def test_orthogonalize_brings_singular_values_near_one():
    matrices = torch.randn(3, 24, 10, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6 and values.max() < 1.3
    torch.testing.assert_close(orthogonalize(matrices.mT), orthogonalize(matrices).mT)


def test_muon_treats_a_1x1_convolution_as_its_matrix():
    weight = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    flat, conv = (torch.nn.Parameter(weight.clone().reshape(shape)) for shape in ((8, 4), (8, 4, 1, 1)))
    for value in (flat, conv):
        value.grad = torch.ones_like(value)
        Muon([value], 0.1).step()
    torch.testing.assert_close(flat, conv.flatten(1))


def test_dead_zone_of_the_flow_head_makes_small_outputs_nothing():
    first = torch.randn(1, 200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    raw = torch.full((1, 200, 3, 8, 8), 0.9 * DEAD_FLOW)
    raw[:, :192] = -0.9 * DEAD_DELTA
    indices = torch.tensor([0, 4, 15])
    clean, _ = compose_clean(raw, first, indices, dead_zone=True)
    assert not clean[:, 192:].any()
    torch.testing.assert_close(clean[:, :192], first[:, :192].expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=0)
    assert compose_clean(raw, first, indices)[0][:, 192:, 1:].all()
