"""LoRA: nothing changes at the start, at strength 0 or afterwards; merged is applied; ranks and alphas may be mixed."""

import pytest
import torch
from pack.motion.adapters.lora import LoRA, LoRAMatrices, target_names
from pack.motion.errors import CheckpointError, ConfigError
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


def test_beside_bfloat16_gradients_are_those_of_wide_copies_and_none_is_kept():
    linear = nn.Linear(12, 20, dtype=torch.bfloat16).requires_grad_(False)
    lora, kept = trained(nn.Sequential(linear), targets=("0",)), []
    layer = lora.layers["0"]
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(3)).bfloat16().requires_grad_()
    with lora.attached(), torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y) or y, lambda y: y):
        out = lora.module(x)
    out.square().sum().backward()
    assert not any(tensor.shape == x.shape and tensor.dtype == torch.float32 for tensor in kept)
    found = [layer.down.grad, layer.up.grad, x.grad]
    copies = [value.detach().clone().requires_grad_() for value in (layer.down, layer.up, x)]
    delta = torch.nn.functional.linear(torch.nn.functional.linear(copies[2].float(), copies[0]), copies[1])
    (linear(copies[2]) + (2.0 * delta).bfloat16()).square().sum().backward()
    for one, other in zip(found, copies, strict=True):
        assert torch.equal(one, other.grad) and one.abs().max() > 0


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


def mixed(net, flat=False):
    """Matrices for the layers of `net` with ranks 1, 2, … and alphas of their own."""
    generator = torch.Generator().manual_seed(4)
    layers = {}
    for rank, name in enumerate(sorted(target_names(net, ("",))), start=1):
        outside, *inside = net.get_submodule(name).weight.shape
        down, up = torch.randn(rank, *inside, generator=generator), torch.randn(outside, rank, generator=generator)
        up = up if flat else up.reshape(outside, rank, *(1 for _ in inside[1:]))
        layers[name] = LoRAMatrices(down.flatten(1) if flat else down, up, 0.5 + rank)
    return layers


class Net(nn.Module):
    """Two Linears and a convolution, each fed the same way whatever it is called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.wide, self.deep, self.picture = nn.Linear(5, 7), nn.Linear(7, 3), nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x, picture):
        return self.deep(self.wide(x)), self.picture(picture)


@pytest.mark.parametrize("flat", [False, True])
def test_layers_of_different_ranks_and_alphas_each_have_a_scale_of_their_own(flat):
    net, x, picture = Net(), torch.randn(4, 5), torch.randn(2, 3, 6, 6)
    given = mixed(net, flat)
    lora = LoRA.of_layers(net, given, "here")
    assert {layer.rank for layer in lora.layers.values()} == {1, 2, 3}
    weights = {}
    for name, (down, up, alpha) in given.items():
        product = up.double().flatten(1) @ down.double().flatten(1)
        layer = net.get_submodule(name)
        weights[name] = layer.weight.double() + 0.3 * alpha / len(down) * product.view(layer.weight.shape)
    hidden = x.double() @ weights["wide"].T + net.wide.bias.double()
    truth = hidden @ weights["deep"].T + net.deep.bias.double()
    filtered = torch.conv2d(picture.double(), weights["picture"], net.picture.bias.double(), padding=1)
    with lora.attached(0.3):
        seen = net(x, picture)
    torch.testing.assert_close(seen[0].double(), truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[1].double(), filtered, atol=1e-5, rtol=1e-5)
    merged = lora.merged(0.3)
    for name, weight in weights.items():
        torch.testing.assert_close(merged[f"{name}.weight"].double(), weight, atol=1e-5, rtol=1e-5)


def test_given_matrices_are_copied_and_lie_in_the_order_of_the_module():
    net = Net()
    given = mixed(net)
    lora = LoRA.of_layers(net, given, "here")
    assert list(lora.layers) == ["wide", "deep", "picture"] != list(given)
    assert lora.fits == {"wide.weight": (7, 5), "deep.weight": (3, 7), "picture.weight": (6, 3, 3, 3)}
    for name, (down, up, _) in given.items():
        layer = lora.layers[name]
        assert torch.equal(layer.down, down) and torch.equal(layer.up, up)
        with torch.no_grad():
            layer.down.zero_(), layer.up.zero_()
        assert down.abs().sum() > 0 and up.abs().sum() > 0


@pytest.mark.parametrize(("rank", "alpha", "words"), [
    (3, 0.0, "file: layer wide: rank is 3, alpha 0.0; .* alpha is above 0"), (3, -2.0, "alpha -2.0"),
    (3, float("inf"), "alpha inf"), (5000, 1.0, "rank is 5000"),
])  # fmt: skip
def test_numbers_that_cannot_be_are_refused_with_their_layer(rank, alpha, words):
    layers = {"wide": LoRAMatrices(torch.ones(rank, 5), torch.ones(7, rank), alpha)}
    with pytest.raises(CheckpointError, match=words):
        LoRA.of_layers(Net(), layers, "file")


def test_layers_of_another_model_are_refused_by_name():
    odd = {"wide": LoRAMatrices(torch.ones(2, 6), torch.ones(7, 2), 1.0), "gone\n": mixed(Net())["wide"]}
    with pytest.raises(CheckpointError, match=r"file: 2 of 2 adapted layers are not in this model .*'gone\\n', 'wide'"):
        LoRA.of_layers(Net(), odd, "file")
