"""LoRA: nothing changes at the start, at strength 0 or afterwards; merged is applied; files are whole or refused."""

import pytest
import torch
from pack.motion.adapters.lora import LoRA, target_names
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.adapters.lora import load_lora, save_lora
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.conditions import Conditions
from torch import nn
from training_toys import TEXT, tiny_dit, tiny_spec

TARGETS = ("attn1", "attn_temporal", "attn2", "ff")


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 3, 4, 4, generator=generator, dtype=dtype)
    return latents, torch.tensor([300.0, 700.0]), Conditions(torch.randn(2, 3, TEXT, generator=generator, dtype=dtype))


def trained(dit, **options):
    """A LoRA whose `up` is not zero."""
    lora = LoRA(dit, **{"targets": TARGETS, "rank": 3, "alpha": 6.0} | options)
    generator = torch.Generator().manual_seed(2)
    for layer in lora.layers.values():
        layer.up.data.copy_(torch.randn(layer.up.shape, generator=generator) * 0.1)
    return lora


def test_fresh_adapter_and_strength_0_leave_every_bit_as_it_was():
    dit = tiny_dit(tiny_spec())
    before = dit(*inputs())
    with LoRA(dit, targets=TARGETS, rank=4, alpha=4.0).attached():
        assert torch.equal(dit(*inputs()), before)
    lora = trained(dit)
    with lora.attached(0.0):
        assert torch.equal(dit(*inputs()), before)
    with lora.attached():
        assert not torch.equal(dit(*inputs()), before)
    assert torch.equal(dit(*inputs()), before)


def test_adapter_adds_the_low_rank_product_to_linear_and_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv = nn.Linear(5, 7), nn.Conv2d(3, 6, 3, stride=2, padding=1)

    torch.manual_seed(0)
    net = Net()
    lora = trained(net, targets=("linear", "conv"), rank=2, alpha=8.0)
    x, picture = torch.randn(4, 5), torch.randn(2, 3, 9, 9)
    for name, value, apply in (("linear", x, net.linear), ("conv", picture, net.conv)):
        layer, twin = lora.layers[name], getattr(net, name)
        product = layer.up.double().flatten(1) @ layer.down.double().flatten(1)
        weight = twin.weight.double() + 0.5 * 4 * product.view_as(twin.weight)
        with lora.attached(0.5):
            seen = apply(value)
        if name == "linear":
            truth = value.double() @ weight.T + twin.bias.double()
        else:
            truth = torch.conv2d(value.double(), weight, twin.bias.double(), stride=2, padding=1)
        torch.testing.assert_close(seen.double(), truth, atol=1e-5, rtol=1e-5)


def test_merged_weights_answer_like_the_attached_adapter():
    spec = tiny_spec()
    dit = tiny_dit(spec)
    lora = trained(dit)
    with lora.attached(0.7):
        applied = dit(*inputs())
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    twin = tiny_dit(spec, seed=5)
    twin.load_state_dict(lora.merged(0.7))
    torch.testing.assert_close(twin(*inputs()), applied, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in dit.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in lora.merged(0.0).items())


def test_adapters_come_off_in_any_order_and_only_the_adapter_gets_gradients():
    dit = tiny_dit(tiny_spec()).requires_grad_(False)
    before, one, two = dit(*inputs()), trained(dit), trained(dit, targets=("ff",))
    first, second = one.attached(), two.attached()
    first.__enter__(), second.__enter__()
    dit(*inputs()).square().mean().backward()
    first.__exit__(None, None, None), second.__exit__(None, None, None)
    assert torch.equal(dit(*inputs()), before)
    assert all(value.grad is None for value in dit.parameters())
    assert all(value.grad is not None for lora in (one, two) for value in lora.parameters().values())


def test_adapter_comes_off_when_the_block_raises_and_cannot_be_attached_twice():
    dit = tiny_dit(tiny_spec())
    lora, before = trained(dit), dit(*inputs())
    with pytest.raises(ConfigError, match="attached already"), lora.attached(), lora.attached():
        pass
    with pytest.raises(RuntimeError), lora.attached():
        raise RuntimeError
    assert torch.equal(dit(*inputs()), before)
    with pytest.raises(ConfigError, match="finite"), lora.attached(float("nan")):
        pass


def test_adapter_beside_bfloat16_weights_stays_float32_and_answers_in_bfloat16():
    dit = tiny_dit(tiny_spec()).bfloat16()
    lora = trained(dit)
    given = inputs(torch.bfloat16)
    with lora.attached():
        seen = dit(*given)
    assert seen.dtype == torch.bfloat16 and next(iter(lora.parameters().values())).dtype == torch.float32


def test_targets_are_parts_of_names_or_globs_and_never_depthwise_convolutions():
    dit = tiny_dit(tiny_spec())
    assert target_names(dit, ("*.1.attn1.to_q",)) == ["transformer_blocks.1.attn1.to_q"]
    names = target_names(dit, ("ff",))
    assert len(names) == 4 and not any("conv_depth" in name for name in names)
    with pytest.raises(ConfigError, match="holds any of nowhere; layers that take a LoRA here: patch_embed.proj"):
        LoRA(dit, targets=("nowhere",), rank=2, alpha=2.0)
    for rank, alpha in ((0, 1.0), (5000, 1.0), (2, 0.0), (2, float("nan"))):
        with pytest.raises(ConfigError, match="rank is"):
            LoRA(dit, targets=TARGETS, rank=rank, alpha=alpha)


def test_same_seed_draws_the_same_adapter():
    dit = tiny_dit(tiny_spec())
    one, two, other = (LoRA(dit, targets=("ff",), rank=2, alpha=2.0, seed=seed).parameters() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_saved_adapter_comes_back_with_its_scale(tmp_path):
    dit = tiny_dit(tiny_spec())
    lora = trained(dit, targets=("*.0.attn1.to_q", "conv_inverted"))
    save_lora(tmp_path / "a.safetensors", lora, {"note": "two layers"})
    back = load_lora(tmp_path / "a.safetensors", dit)
    assert list(back.layers) == list(lora.layers) and (back.rank, back.alpha) == (3, 6.0)
    assert all(torch.equal(value, back.parameters()[name]) for name, value in lora.parameters().items())
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert "diffusion_model.transformer_blocks.0.attn1.to_q.lora_down.weight" in tensors
    assert float(tensors["diffusion_model.transformer_blocks.0.attn1.to_q.alpha"]) == 6.0
    assert metadata["note"] == "two layers" and metadata["family"] == "lora"


def test_adapter_of_another_model_or_no_adapter_is_refused_with_reasons(tmp_path):
    dit = tiny_dit(tiny_spec())
    save_lora(tmp_path / "a.safetensors", trained(dit))
    wider = tiny_dit(tiny_spec(qk_norm=True))
    wider.transformer_blocks[1].ff = nn.Identity()
    with pytest.raises(CheckpointError, match="2 of 28 adapted layers are not in this model"):
        load_lora(tmp_path / "a.safetensors", wider)
    from pack.motion.io.files.atomic import write_safetensors

    write_safetensors(tmp_path / "b.safetensors", dict(dit.state_dict()))
    with pytest.raises(CheckpointError, match="linear_video_dit; a LoRA with the tensors"):
        load_lora(tmp_path / "b.safetensors", dit)
    lora = trained(dit)
    next(iter(lora.layers.values())).up.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save_lora(tmp_path / "c.safetensors", lora)
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(("alpha", "words"), [(0.0, "alpha 0.0; .* alpha is above 0"), (-2.0, "alpha -2.0")])
def test_an_adapter_whose_numbers_cannot_be_is_refused_with_its_file(tmp_path, alpha, words):
    from pack.motion.io.adapters.lora import write_lora

    dit = tiny_dit(tiny_spec())
    layers = {name: (layer.down, layer.up, alpha) for name, layer in trained(dit).layers.items()}
    write_lora(tmp_path / "off.safetensors", layers, {})
    with pytest.raises(CheckpointError, match=f"off.safetensors: rank is 3, {words}"):
        load_lora(tmp_path / "off.safetensors", dit)


def test_an_adapter_of_whole_numbers_and_one_of_many_ranks_are_refused_with_their_file(tmp_path):
    from pack.motion.io.adapters.lora import write_lora

    dit = tiny_dit(tiny_spec())
    layers = {name: (layer.down.to(torch.int8), layer.up, 2.0) for name, layer in trained(dit).layers.items()}
    write_lora(tmp_path / "whole.safetensors", layers, {})
    with pytest.raises(CheckpointError, match="whole.safetensors: layer .* is torch.int8"):
        load_lora(tmp_path / "whole.safetensors", dit)
    layers = {f"layer.{rank}": (torch.ones(rank, 2), torch.ones(2, rank), 1.0) for rank in range(1, 60)}
    write_lora(tmp_path / "many.safetensors", layers, {})
    with pytest.raises(CheckpointError, match="many.safetensors: its layers have ranks") as caught:
        load_lora(tmp_path / "many.safetensors", dit)
    assert len(str(caught.value)) < 300
