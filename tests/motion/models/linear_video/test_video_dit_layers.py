"""What the fused flow owes to its surroundings: hooks act, chunks change nothing, tokens are never written into."""

import dataclasses

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video import blocks as linear_video_blocks
from pack.motion.models.linear_video.blocks import TokenStream
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.module_weights import plain_weights
from torch import nn

TINY = LinearVideoDiTConfig(
    in_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
    caption_channels=12,
)  # fmt: skip
LAYERS = [
    f"transformer_blocks.{index}.{name}" for index, name in enumerate(
        ("attn1.to_v", "attn1.to_out.0", "attn_temporal.to_v", "attn2.to_q", "attn2.to_out.0", "ff.conv_inverted",
         "ff.conv_depth", "ff.conv_point")
    ) for index in (index % 2,)
]  # fmt: skip


def build(dtype=torch.float64, **more):
    torch.manual_seed(0)
    return LinearVideoDiT(TINY, dtype=dtype, **more).eval()


def draw(b=2, t=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(b, 4, t, 2, 3, generator=generator).to(dtype)
    return latents, torch.full((b,), 500.0), Conditions(torch.randn(b, 3, 12, generator=generator).to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_hook_on_any_layer_acts_like_the_weight_it_stands_for(name, grad):
    """The hook adds a tenth of the layer's own answer; a copy of the model has that in its weights."""
    hooked, changed, given = build(), build(), draw()
    handle = hooked.get_submodule(name).register_forward_hook(lambda module, args, out: out * 1.1)
    with torch.no_grad():
        for value in changed.get_submodule(name).parameters():
            value *= 1.1
    with torch.set_grad_enabled(grad):
        out, expected = hooked(*given), changed(*given)
        handle.remove()
        assert (out - expected).abs().max() <= 1e-10
        assert (out - hooked(*given)).abs().max() >= 1e-6


MODULES = {"attn1": "to_out.0", "attn_temporal": "to_out.0", "attn2": "to_out.0", "ff": "conv_point"}  # way out of each


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("grad", [False, True])
def test_a_hook_on_a_whole_module_fires_once_a_block_and_acts_like_the_weights_on_its_way_out(name, grad):
    """Tokens in, tokens out; a change of either reaches the result, and without the hook every bit is as before."""
    hooked, changed, given, seen = build(), build(), draw(), []
    block, scaled = hooked.transformer_blocks[1], changed.transformer_blocks[1]
    for value in scaled.get_submodule(f"{name}.{MODULES[name]}").parameters():
        value.data *= 1.1

    def watch(module, args, out):
        seen.append((args[0].shape, out.shape))
        return out * 1.1

    with torch.set_grad_enabled(grad):
        before = hooked(*given)
        handle = block.get_submodule(name).register_forward_hook(watch)
        assert (hooked(*given) - changed(*given)).abs().max() <= 1e-10
        assert seen == [((2, 5, 6, 16), (2, 5, 6, 16))]
        handle.remove()
        handle = block.get_submodule(name).register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
        assert (hooked(*given) - before).abs().max() >= 1e-6
        handle.remove()
        assert torch.equal(hooked(*given), before)


@torch.no_grad()
def test_a_hook_that_changes_nothing_changes_no_more_than_rounding():
    model, given, fired = build(torch.float32), draw(dtype=torch.float32), []
    before = model(*given)
    for block in model.transformer_blocks:
        for name in MODULES:
            block.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: fired.append(name))
    assert torch.allclose(model(*given), before, atol=1e-6) and fired == list(MODULES) * 2


def test_a_backward_hook_on_a_whole_module_fires():
    model, seen = build(), []
    for name in MODULES:
        module = model.transformer_blocks[0].get_submodule(name)
        module.register_full_backward_hook(lambda module, before, after, name=name: seen.append((name, after[0].shape)))
    model(*draw()).sum().backward()
    assert seen == [(name, (2, 5, 6, 16)) for name in reversed(MODULES)]


@torch.no_grad()
def test_a_replaced_forward_of_a_whole_module_is_called():
    model, given = build(), draw()
    attention = model.transformer_blocks[0].attn1
    plain, kept = model(*given), attention.forward
    attention.forward = lambda x, around: 2 * kept(x, around)
    assert (model(*given) - plain).abs().max() >= 1e-6
    del attention.forward
    assert torch.equal(model(*given), plain)


@torch.no_grad()
def test_inputs_that_a_hook_keeps_are_not_written_into():
    model, kept = build(), []
    for block in model.transformer_blocks:
        block.attn2.to_q.register_forward_hook(lambda module, args, out: kept.append((args[0], args[0].clone())))
    model(*draw())
    assert len(kept) == 2 and all(torch.equal(held, copy) for held, copy in kept)


@torch.no_grad()
def test_a_replaced_forward_is_called():
    model, plain = build(), build()
    layer = model.transformer_blocks[0].attn2.to_out[0]
    layer.forward = lambda x: nn.functional.linear(x, 2 * layer.weight, 2 * layer.bias)
    plain.transformer_blocks[0].attn2.to_out[0].weight *= 2
    plain.transformer_blocks[0].attn2.to_out[0].bias *= 2
    assert (model(*draw()) - plain(*draw())).abs().max() <= 1e-10


@torch.no_grad()
def test_a_resolver_that_gives_no_weights_changes_nothing_and_one_that_does_is_used():
    from contextlib import nullcontext

    given, asked = draw(), []

    def doubled(module, like):
        asked.append(module)
        with plain_weights(module, like) as found:
            return nullcontext(found and tuple(part if part is None else 2 * part for part in found))

    expected = build()(*given)
    silent = build(weights_of=lambda module, like: nullcontext())
    assert (silent(*given) - expected).abs().max() <= 1e-10
    telling = build(weights_of=doubled)
    out = telling(*given)
    assert set(telling.transformer_blocks[0].ff.children()) <= set(asked)
    for layer in set(asked):
        for value in layer.parameters():
            value *= 2
    telling.weights_of = plain_weights
    assert (telling(*given) - out).abs().max() <= 1e-10


@pytest.mark.parametrize("plain", [True, False])
@torch.no_grad()
def test_chunks_of_frames_change_nothing(monkeypatch, plain):
    from contextlib import nullcontext

    model = build(**{} if plain else {"weights_of": lambda module, like: nullcontext()})
    whole = model(*draw())
    frames, original = [], linear_video_blocks.MixFFN._mix_frames

    def watch(self, x, *more):
        frames.append(len(x))
        return original(self, x, *more)

    monkeypatch.setattr(linear_video_blocks.MixFFN, "_mix_frames", watch)
    monkeypatch.setattr(linear_video_blocks, "UNCHUNKED_BYTES", 1000)
    parts = model(*draw())
    assert sum(frames) == 2 * 10 and max(frames) <= 2
    assert (parts - whole).abs().max() <= 1e-10


@torch.no_grad()
def test_plain_weights_are_given_for_plain_layers_only():
    x = torch.zeros(1, 4)
    layer = nn.Linear(4, 4)
    with plain_weights(layer, x) as found:
        assert found[0] is layer.weight and found[1] is layer.bias
    hooked, replaced, other_type = (nn.Linear(4, 4) for _ in range(3))
    hooked.register_forward_pre_hook(lambda module, args: None)
    replaced.forward = lambda x: x
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    for module, like in ((hooked, x), (replaced, x), (other_type, x.half()), (parametrised, x), (nn.SiLU(), x)):
        with plain_weights(module, like) as found:
            assert found is None
    with torch.autocast("cpu", torch.bfloat16), plain_weights(layer, x.bfloat16()) as found:
        assert found[0].dtype == torch.bfloat16


@pytest.mark.parametrize("grad", [False, True])
def test_block_patches_and_hooks_on_blocks_see_complete_tokens(grad):
    model, given, seen = build(), draw(), []
    with torch.set_grad_enabled(grad):
        expected = model(*given)

        def watch(index, call, hidden_states):
            copy = hidden_states.clone()
            out = call(hidden_states)
            assert torch.equal(hidden_states, copy)
            seen.append(out.detach().clone())
            return out

        assert (model(*given, run_block=watch) - expected).abs().max() <= 1e-10
        hooked = []
        model.transformer_blocks[0].register_forward_hook(lambda module, args, out: hooked.append(out.detach()))
        assert (model(*given) - expected).abs().max() <= 1e-10
    assert (hooked[0] - seen[0]).abs().max() <= 1e-10


def test_autocast_trains_near_float32():
    model, given = build(torch.float32), draw(dtype=torch.float32)
    exact = model(*given)
    exact.square().mean().backward()
    grads = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*given)
    out.float().square().mean().backward()
    assert (out.float() - exact).norm() <= 0.03 * exact.norm()
    for name in ("transformer_blocks.0.ff.conv_depth.weight", "transformer_blocks.1.attn1.to_v.weight"):
        value = model.get_parameter(name).grad
        assert value.dtype == torch.float32 and (value - grads[name]).norm() <= 0.1 * grads[name].norm()


@torch.no_grad()
def test_autocast_without_gradients_runs():
    model, given = build(torch.float32), draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*given)
    assert (out.float() - model(*given)).norm() <= 0.03 * out.float().norm()


@torch.no_grad()
def test_a_stream_adds_each_part_once_in_its_turn():
    x, y, z = torch.randn(3, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    stream = TokenStream(x, "auto")
    assert stream.settle() is x
    stream.add(y)
    stream.add(z, bias=torch.ones(4))
    assert torch.allclose(stream.settle(), x + y + z + 1)
    assert stream.settle() is stream.x


@torch.no_grad()
def test_torch_kernels_by_name_change_nothing_here():
    model, given = build(), draw()
    expected = model(*given)
    model.kernels = "torch"
    assert torch.equal(model(*given), expected)


@torch.no_grad()
def test_wide_models_take_one_frame_at_a_time_when_frames_are_few():
    ffn = linear_video_blocks.MixFFN(dataclasses.replace(TINY, mlp_ratio=16.0), operations=nn, device="meta")
    x = torch.empty(2, 10**6, TINY.width, device="meta")
    assert ffn._chunk(x) == 1 and ffn._chunk(x[:, :4]) == 2
