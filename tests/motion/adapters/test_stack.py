"""A stack answers like the sum of its adapters, each at its weight for this noise level, frame and token."""

import numpy as np
import pytest
import torch
from lora_toys import LATENTS, TIMESTEP, TOLD, call, mixed_lora
from pack.motion.adapters.stack import AdapterStack, StackEntry, frame_centres
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.block_adapters import BlockAdapters
from pack.motion.models.conditions import Conditions
from pack.motion.models.sana_video.network import SanaVideoConfig, SanaVideoDiT
from pack.motion.sampling.schedules import shift_sigma
from torch import nn
from training_toys import flow_spec, tiny_dit, tiny_spec

SIZE = {"num_frames": 3, "grid": (2, 2)}


def entries(dit, count=3):
    return [mixed_lora(dit, seed) for seed in range(count)]


def merged(dit, weighted, dtype=torch.float64):
    """The network with the sum of its adapters' differences in its weights, made in float64."""
    twin = tiny_dit(tiny_spec()).to(dtype)
    state = {name: value.detach().to(dtype) for name, value in dit.state_dict().items()}
    for weight, lora in weighted:
        for name, layer in lora.layers.items():
            product = layer.up.detach().to(dtype).flatten(1) @ layer.down.detach().to(dtype).flatten(1)
            state[f"{name}.weight"] += weight * layer.alpha / layer.rank * product.view(state[f"{name}.weight"].shape)
    twin.load_state_dict(state)
    return twin


def test_the_sum_of_adapters_is_the_sum_of_their_differences():
    dit = tiny_dit(tiny_spec())
    one, two, three = entries(dit)
    stack = AdapterStack((StackEntry(one, 0.5), StackEntry(two, -0.3, "0:1, 1:0"), StackEntry(three, 1.0, "0.4")))
    with stack.attached(dit, sigma=0.25, **SIZE) as slots:
        seen = call(dit)
    assert slots is None
    truth = call(merged(dit, ((0.5, one), (-0.3 * 0.25, two), (0.4, three))), torch.float64)
    torch.testing.assert_close(seen.double(), truth, atol=2e-5, rtol=1e-4)
    assert (seen.double() - call(dit).double()).abs().max() > 0.01


def test_one_adapter_acts_bit_for_bit_as_if_it_were_attached_alone_and_a_copy_adds_its_weight():
    dit = tiny_dit(tiny_spec())
    lora = mixed_lora(dit)
    with lora.attached(0.7):
        alone = call(dit)
    with AdapterStack((StackEntry(lora, 0.7, mask=torch.ones(1, 8, 8)),)).attached(dit, sigma=0.5, **SIZE):
        assert torch.equal(call(dit), alone)
    with AdapterStack((StackEntry(lora, 0.3), StackEntry(lora, 0.4))).attached(dit, sigma=0.5, **SIZE):
        torch.testing.assert_close(call(dit), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [
    {"weight": 0.0}, {"step_curve": "0.5:0, 0.6:1"}, {"frame_curve": "0"}, {"mask": torch.zeros(3, 5, 5)},
    {"frame_curve": "0.5:0, 0.6:1", "mask": torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1), "step_curve": "0.5:0,1:1"},
])  # fmt: skip
def test_weight_0_leaves_every_bit_as_it_was_by_hooking_nothing(options):
    dit = tiny_dit(tiny_spec())
    before = call(dit)
    with AdapterStack((StackEntry(mixed_lora(dit), **options),)).attached(dit, sigma=0.5, **SIZE):
        assert not any(layer._forward_hooks for layer in dit.modules())
        assert torch.equal(call(dit), before)
    with AdapterStack(()).during(dit):
        assert torch.equal(call(dit), before)


def test_a_layer_has_one_hook_however_many_adapters_and_none_afterwards():
    dit = tiny_dit(tiny_spec())
    stack = AdapterStack(tuple(StackEntry(lora) for lora in entries(dit)))
    with pytest.raises(RuntimeError), stack.attached(dit, sigma=0.5, **SIZE):
        assert max(len(layer._forward_hooks) for layer in dit.modules()) == 1
        raise RuntimeError
    assert not any(layer._forward_hooks for layer in dit.modules())


@pytest.mark.parametrize(("ratio", "num_frames"), [(1, 5), (4, 9), (4, 1), (8, 17)])
def test_frame_curves_are_read_at_the_centre_of_the_frames_a_latent_frame_holds(ratio, num_frames):
    held = [[0], *([*range(first, first + ratio)] for first in range(1, num_frames, ratio))]
    truth = [(np.array(frames) + 0.5).mean() / num_frames for frames in held]
    assert frame_centres(num_frames, ratio) == pytest.approx(truth)
    text = "0:0, 0.3:1, 1:0.5"
    stack = AdapterStack((StackEntry(None, 2.0, frame_curve=text),), temporal_ratio=ratio)
    (found,) = stack.weights(0.5, num_frames, (2, 3))
    values = 2 * np.interp(truth, (0, 0.3, 1), (0, 1, 0.5))
    if len(truth) == 1:
        assert found == pytest.approx(values[0])
        return
    assert found.shape == (1, len(truth), 6) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), np.repeat(values[:, None], 6, 1), atol=1e-6)


def test_a_step_curve_is_read_at_the_part_of_the_shifted_schedule_that_is_done():
    stack = AdapterStack((StackEntry(None, 1.0, "0:0, 1:1"),), shift=5.0)
    for percent in (0.0, 0.2, 0.5, 0.9, 1.0):
        assert stack.weights(shift_sigma(1 - percent, 5.0), 1, (1, 1))[0] == pytest.approx(percent, abs=1e-9)
    rows = torch.tensor([shift_sigma(0.7, 5.0), shift_sigma(0.1, 5.0)], dtype=torch.float64)
    (found,) = stack.weights(rows, 3, (1, 2))
    assert found.shape == (2, 3, 2)
    torch.testing.assert_close(found[:, 2, 1], torch.tensor([0.3, 0.9]))
    assert stack.weights(torch.full((4,), 0.5), 3, (1, 2))[0] == stack.weights(0.5, 3, (1, 2))[0]


def test_weight_curves_and_mask_are_multiplied():
    mask = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    (found,) = AdapterStack((StackEntry(None, 0.5, "0.3", "0:0, 1:1", mask),)).weights(0.5, 3, (2, 4))
    frames = torch.tensor([1 / 6, 3 / 6, 5 / 6]).view(3, 1)
    torch.testing.assert_close(found[0], 0.5 * 0.3 * frames * mask.flatten(1), atol=1e-6, rtol=1e-5)


def token_loop(dit, lora, weights):
    """The network at float64 with each token's own weight, by layers that multiply before they add."""
    twin = tiny_dit(tiny_spec()).double()
    twin.load_state_dict(dit.state_dict())
    mean = float(weights.mean())
    for name, layer in lora.layers.items():
        down, up = layer.down.detach().double(), layer.up.detach().double()
        text = ".attn2.to_k" in name or ".attn2.to_v" in name
        inside = name.startswith("transformer_blocks") or name in ("patch_embed.proj", "proj_out")
        values = torch.full_like(weights, mean) if text or not inside else weights

        def hook(module, args, output, down=down, up=up, scale=layer.alpha / layer.rank, values=values, name=name):
            x = args[0]
            if x.ndim == 4 and isinstance(module, nn.Conv2d):
                out = torch.conv2d(torch.conv2d(x, down, None, module.stride, module.padding), up)
                return output + scale * out * values.reshape(3, 1, *out.shape[2:]).repeat(len(x) // 3, 1, 1, 1)
            out = x @ down.T @ up.T
            if bool((values == mean).all()):
                return output + scale * out * mean
            return output + (scale * out.reshape(-1, 3, 4, out.shape[-1]) * values.view(1, 3, 4, 1)).reshape(out.shape)

        twin.get_submodule(name).register_forward_hook(hook)
    return call(twin, torch.float64)


@pytest.mark.parametrize("chunked", [False, True])
def test_each_frame_and_token_gets_its_own_weight_in_every_layer(monkeypatch, chunked):
    from pack.motion.models.linear_video import blocks

    dit = tiny_dit(tiny_spec())
    lora = mixed_lora(dit, targets=("",))
    assert {"patch_embed.proj", "proj_out", "time_embed.linear", "transformer_blocks.0.attn2.to_k"} <= set(lora.layers)
    mask = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(5))
    truth = token_loop(dit, lora, (mask.double() * torch.tensor([1 / 6, 0.5, 5 / 6]).view(3, 1, 1)).flatten(1))
    if chunked:  # the feed-forward goes through a few frames at a time, which begin in the middle of a video
        monkeypatch.setattr(blocks, "UNCHUNKED_BYTES", 1)
        monkeypatch.setattr(blocks.MixFFN, "_chunk", lambda self, x: 2)
    stack = AdapterStack((StackEntry(lora, frame_curve="0:0, 1:1", mask=mask),))
    with torch.no_grad(), stack.attached(dit, sigma=0.5, **SIZE):
        seen = call(dit)
    torch.testing.assert_close(seen.double(), truth, atol=2e-5, rtol=1e-4)
    with torch.no_grad(), stack.during(dit):
        assert torch.equal(call(dit), seen)


def test_during_a_run_each_call_is_weighed_by_its_own_noise_level_and_nothing_stays():
    dit = tiny_dit(tiny_spec())
    lora, before = mixed_lora(dit), call(dit)
    stack = AdapterStack((StackEntry(lora, 1.0, "0:0, 1:1"),), shift=3.0)
    with stack.during(dit):
        for sigma in (0.9, 0.2, 1.0):
            level = torch.full((2,), 1000 * sigma)
            seen = dit(LATENTS, level, TOLD)
            percent = 1 - sigma / (3 - 2 * sigma)
            with lora.attached(0.0):
                plain = dit.predict_raw(LATENTS, level, TOLD)  # not the network's own call: nothing is held on it
            with lora.attached(percent):
                torch.testing.assert_close(dit.predict_raw(LATENTS, level, TOLD), seen, atol=1e-5, rtol=1e-4)
            assert torch.equal(plain, seen) == (sigma == 1.0)
        with pytest.raises(ShapeError):
            dit(LATENTS[:, :3], TIMESTEP, TOLD)  # held on the layers, and off again though the call fails
        assert not any(layer._forward_hooks for layer in dit.transformer_blocks.modules())
    assert torch.equal(call(dit), before) and not dit._forward_hooks and not dit._forward_pre_hooks


def test_rows_at_different_noise_levels_are_weighed_each_by_its_own():
    dit = tiny_dit(tiny_spec())
    stack = AdapterStack((StackEntry(mixed_lora(dit, targets=("",)), 1.0, "0:0, 1:1"),))
    with stack.during(dit):
        both = call(dit)
        alone = [dit(LATENTS[row, None], TIMESTEP[row, None], Conditions(TOLD.context[row, None])) for row in (0, 1)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_a_clip_that_is_asked_at_fewer_places_is_weighed_at_the_frames_its_blocks_see():
    spec = flow_spec()
    dit = tiny_dit(spec).eval()
    lora = mixed_lora(dit)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, spec.config.in_channels, 9, 4, 4, generator=generator)
    told = Conditions(torch.randn(1, 3, 12, generator=generator), pooled=torch.randn(1, 12, generator=generator),
                      first_latent=latents[:, :, :1])  # fmt: skip
    told = told.at_places(torch.stack((torch.arange(9) / 2, torch.arange(9.0))))
    curve = told.curve
    stack = AdapterStack((StackEntry(lora, frame_curve="0:0, 1:1"),))
    seen = []
    name = "transformer_blocks.0.attn1.to_q"
    lora.layers[name].register_forward_hook(lambda layer, args, output: seen.append(output))
    arguments = latents, torch.tensor([500.0]), told
    with torch.no_grad(), stack.during(dit):
        moved = dit(*arguments)
    assert len(curve.frames) == 5 and seen[0].shape[:2] == (5, 16) and moved.isfinite().all()
    weights = stack.weights(0.5, 9, (4, 4))[0][0, curve.frames]
    with torch.no_grad(), stack.attached(dit, sigma=0.5, num_frames=9, grid=(4, 4), frames=curve.frames):
        got = []
        handle = dit.get_submodule(name).register_forward_hook(lambda layer, args, y: got.append((args, y)))
        dit(*arguments)
        handle.remove()
    (x,), out = got[0]
    added = out - x @ dit.get_submodule(name).weight.T
    truth = lora.layers[name].scale * seen[1] * weights.unsqueeze(-1)
    torch.testing.assert_close(added, truth, atol=1e-4, rtol=1e-3)


def test_an_adapter_of_another_network_is_refused_by_number_and_weight():
    dit, other = tiny_dit(tiny_spec()), nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.Linear(2, 2)])})
    stack = AdapterStack((StackEntry(mixed_lora(dit)),))
    with pytest.raises(ConfigError, match=r"adapter 1 of the stack \(lora\) .* this one has no such weight"), \
            stack.attached(other, sigma=0.5, **SIZE):  # fmt: skip
        pass
    wider = tiny_dit(tiny_spec())
    wider.transformer_blocks[0].attn1.to_q = nn.Linear(16, 17, bias=False)
    with pytest.raises(ConfigError, match=r"attn1.to_q.weight is \(16, 16\); this one has it as \(17, 16\)"), \
            stack.attached(wider, sigma=0.5, **SIZE):  # fmt: skip
        pass
    assert not any(layer._forward_hooks for layer in wider.modules())


def test_adapters_inside_blocks_are_refused_for_networks_without_such_places():
    class Inside:
        kind, layers, fits, slots = "inside", {}, {}, BlockAdapters()

    sana = SanaVideoDiT(SanaVideoConfig(num_layers=1, num_attention_heads=2, attention_head_dim=8, caption_channels=4,
                                        num_cross_attention_heads=2))  # fmt: skip
    stack = AdapterStack((StackEntry(Inside()),))
    with pytest.raises(ConfigError, match="SANA-Video takes no adapters in its blocks"), stack.during(sana):
        pass


@pytest.mark.parametrize("options", [{"weight": float("nan")}, {"weight": float("inf")}, {"step_curve": "a"},
                                     {"frame_curve": "0:1,0:2"}])  # fmt: skip
def test_weights_and_curves_that_cannot_be_are_refused_when_the_entry_is_made(options):
    with pytest.raises(ConfigError):
        StackEntry(None, **options)


def test_a_mask_of_another_video_is_refused_and_one_of_the_right_length_may_be_used_for_several_sizes():
    mask = torch.rand(9, 8, 8, generator=torch.Generator().manual_seed(1))
    entry = StackEntry(None, mask=mask)
    mask.zero_()  # the entry has its own
    stack = AdapterStack((entry,), temporal_ratio=4)
    assert stack.weights(0.5, 9, (2, 2))[0].shape == (1, 3, 4) and stack.weights(0.5, 9, (4, 4))[0].shape == (1, 3, 16)
    assert len(entry._token_masks) == 1
    with pytest.raises(ShapeError, match="mask has 9 frames; 1 is needed, or 33 .* not its latent frames"):
        stack.weights(0.5, 33, (2, 2))
