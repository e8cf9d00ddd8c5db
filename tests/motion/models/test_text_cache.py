"""Texts kept for a sampling run: trimming is exact, one prompt is projected once, hooked layers are never skipped."""

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.text_cache import TextCache
from pack.motion.sampling.denoiser import MotionDenoiser

TINY = LinearVideoDiTConfig(
    in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
    caption_channels=12,
)  # fmt: skip
MASK = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "qk_norm"])
def model(request):
    torch.manual_seed(0)
    changed = {**TINY.to_dict(), "qk_norm": request.param}
    return LinearVideoDiT(LinearVideoDiTConfig.from_dict(changed), dtype=torch.float64).eval()


def draw(b=4, m=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(b, 4, 3, 2, 3, generator=generator).to(dtype)
    return latents, torch.full((b,), 500.0), torch.randn(b, m, 12, generator=generator).to(dtype)


def counted(model):
    """How often the text is projected: calls of the first block's project_text."""
    calls, attention = [], model.transformer_blocks[0].attn2
    original = type(attention).project_text

    def project(states):
        calls.append(tuple(states.shape))
        return original(attention, states)

    attention.project_text = project
    return calls, lambda: delattr(attention, "project_text")


@torch.no_grad()
def test_trimmed_texts_equal_masked_ones_with_holes_and_with_an_empty_mask(model):
    latents, timestep, context = draw()
    masked = model(latents, timestep, Conditions(context, MASK))
    cache = TextCache()
    for _ in range(2):
        kept = model(latents, timestep, Conditions(context, MASK), text_cache=cache, text_keys=("a", "b", "c", "d"))
        assert (kept - masked).abs().max() <= 1e-10


@torch.no_grad()
def test_what_stands_behind_the_mask_is_never_read(model):
    latents, timestep, context = draw()
    poisoned = context.masked_fill(MASK.bool()[..., None].logical_not(), torch.nan)
    poisoned[3] = context[3]
    out = model(latents, timestep, Conditions(poisoned, MASK), text_cache=TextCache(), text_keys=(0, 1, 2, 3))
    assert out.isfinite().all()


@torch.no_grad()
def test_one_prompt_is_projected_once_however_many_rows_and_steps_read_it(model):
    latents, timestep, context = draw()
    context, mask = context[:1].expand(4, -1, -1), MASK[:1].expand(4, -1)
    masked = model(latents, timestep, Conditions(context, mask))
    calls, undo = counted(model)
    cache = TextCache()
    for _ in range(3):
        kept = model(latents, timestep, Conditions(context.clone(), mask), text_cache=cache, text_keys=("x",) * 4)
        assert (kept - masked).abs().max() <= 1e-10
    undo()
    assert calls == [(1, 2, 16)]


@torch.no_grad()
def test_rows_may_come_in_another_order_or_alone(model):
    latents, timestep, context = draw()
    masked = model(latents, timestep, Conditions(context, MASK))
    cache = TextCache()
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [1], [3, 2]):
        kept = model(
            latents[order], timestep[order], Conditions(context[order], MASK[order]), text_cache=cache,
            text_keys=tuple(order),
        )  # fmt: skip
        assert (kept - masked[order]).abs().max() <= 1e-10


@torch.no_grad()
def test_masks_between_0_and_1_stay_biases(model):
    latents, timestep, context = draw(b=1)
    mask = torch.tensor([[1, 0.9999, 1, 0.9998, 0]])
    masked = model(latents, timestep, Conditions(context, mask))
    whole = model(latents, timestep, Conditions(context[:, :4]))
    kept = model(latents, timestep, Conditions(context, mask), text_cache=TextCache(), text_keys=(0,))
    assert torch.equal(kept, masked) and not torch.allclose(kept, whole)


def test_gradients_go_round_the_cache(model):
    latents, timestep, context = draw(b=1)
    cache = TextCache()
    with torch.no_grad():
        model(latents, timestep, Conditions(context), text_cache=cache, text_keys=(0,))
    out = model(latents, timestep, Conditions(context), text_cache=cache, text_keys=(0,))
    out.sum().backward()
    assert model.transformer_blocks[0].attn2.to_v.weight.grad.abs().max() > 0
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["caption_projection.linear_1", "transformer_blocks.1.attn2.to_v"])
@torch.no_grad()
def test_a_hook_on_a_layer_that_reads_the_text_acts_at_every_step(model, name):
    latents, timestep, context = draw(b=1)
    cache = TextCache()
    before = model(latents, timestep, Conditions(context), text_cache=cache, text_keys=(0,))
    seen = []

    def change(module, args, output):
        seen.append(1)
        return output + 1

    handle = model.get_submodule(name).register_forward_hook(change)
    try:
        during = [model(latents, timestep, Conditions(context), text_cache=cache, text_keys=(0,)) for _ in range(2)]
    finally:
        handle.remove()
    assert len(seen) == 2 and torch.equal(*during) and not torch.allclose(during[0], before)
    assert torch.equal(model(latents, timestep, Conditions(context), text_cache=cache, text_keys=(0,)), before)


@torch.no_grad()
def test_a_wrong_number_of_keys_is_named(model):
    with pytest.raises(ShapeError, match="3 text keys for 4 texts"):
        latents, timestep, context = draw()
        model(latents, timestep, Conditions(context), text_cache=TextCache(), text_keys=(0, 1, 2))


@torch.no_grad()
def test_a_guided_run_projects_each_prompt_once_and_gives_the_same_video(model):
    latents, _, context = draw(b=2)
    prompts = Conditions(context[:1], MASK[:1]), Conditions(context[1:], MASK[1:2])
    calls, undo = counted(model)
    runs = [
        MotionDenoiser(model, *prompts, guidance_scale=3.0, text_cache=cache)
        for cache in (None, TextCache())
    ]
    for level in (0.9, 0.5, 0.1):
        plain, kept = (run(latents, torch.full((2,), level)) for run in runs)
        assert (plain - kept).abs().max() <= 1e-10
    undo()
    assert [shape for shape in calls if shape[0] == 1] == [(1, 2, 16), (1, 3, 16)]
