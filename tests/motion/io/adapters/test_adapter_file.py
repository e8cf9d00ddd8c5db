"""Adapter files: ours come back, other tools' act the same, and what is no plain LoRA is refused with reasons."""

import json

import pytest
import torch
from pack.motion.adapters.lora import LoRA, LoRAMatrices
from pack.motion.errors import CheckpointError
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter, save_adapter
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.motion.training.trainer import Trainer
from torch import nn
from training_toys import tiny_dit, tiny_spec, toy_dataset

TARGETS = ("attn1", "attn_temporal", "attn2", "ff")
LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_out.0",
          "transformer_blocks.1.ff.conv_inverted")  # fmt: skip


def mixed(dit):
    """A LoRA of ranks 2, 3, 4, alphas 1, 2, 3."""
    generator = torch.Generator().manual_seed(2)
    layers = {}
    for index, name in enumerate(LAYERS):
        outside, *inside = dit.get_submodule(name).weight.shape
        rank = index + 2
        down, up = torch.randn(rank, *inside, generator=generator), torch.randn(outside, rank, generator=generator)
        layers[name] = LoRAMatrices(down, up.reshape(outside, rank, *(1 for _ in inside[1:])), index + 1.0)
    return LoRA.of_layers(dit, layers, "here")


def equal(one, two):
    return list(one.layers) == list(two.layers) and all(
        layer.alpha == two.layers[name].alpha and torch.equal(layer.up, two.layers[name].up)
        and torch.equal(layer.down, two.layers[name].down) for name, layer in one.layers.items()
    )  # fmt: skip


def in_names_of(lora, tool):
    """The LoRA's tensors as a tool would write them."""
    tensors = {}
    for name, layer in lora.layers.items():
        down, up, alpha = layer.down.detach(), layer.up.detach(), torch.tensor(layer.alpha)
        if tool == "kohya":
            flat = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": alpha}
            continue
        root, ends = {"peft": ("base_model.model.", ("lora_A.weight", "lora_B.weight")),
                      "peft in training": ("base_model.model.", ("lora_A.default.weight", "lora_B.default.weight")),
                      "diffusers": ("transformer.", ("lora_A.weight", "lora_B.weight")),
                      "old diffusers": ("", ("lora.down.weight", "lora.up.weight"))}[tool]  # fmt: skip
        scaled = up * (layer.alpha / layer.rank)  # these carry no alpha: their scale is worked in
        tensors |= {f"{root}{name}.{end}": value for end, value in zip(ends, (down, scaled))}
    return tensors


def test_an_adapter_of_mixed_ranks_comes_back_with_every_scale(tmp_path):
    dit = tiny_dit(tiny_spec())
    lora = mixed(dit)
    save_adapter(tmp_path / "a.safetensors", lora, {"note": "three layers"})
    assert equal(load_adapter(tmp_path / "a.safetensors", dit), lora)
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert "diffusion_model.transformer_blocks.0.attn1.to_q.lora_down.weight" in tensors
    assert float(tensors["diffusion_model.transformer_blocks.0.attn1.to_out.0.alpha"]) == 2.0
    assert metadata["note"] == "three layers" and metadata["family"] == "lora"
    found = read_adapter(tmp_path / "a.safetensors")
    assert found.kind == "lora" and found.notes == () and found.metadata["note"] == "three layers"


@pytest.mark.parametrize("tool", ["kohya", "peft", "peft in training", "diffusers", "old diffusers"])
def test_other_tools_names_give_the_same_difference(tmp_path, tool):
    dit = tiny_dit(tiny_spec())
    lora = mixed(dit)
    write_safetensors(tmp_path / "a.safetensors", in_names_of(lora, tool), {"format": "pt"})
    found = read_adapter(tmp_path / "a.safetensors")
    back = found.build(dit)
    assert list(back.layers) == list(lora.layers)
    for name, layer in lora.layers.items():
        truth = layer.alpha / layer.rank * (layer.up.double().flatten(1) @ layer.down.double().flatten(1))
        seen = back.layers[name].scale * back.layers[name].delta().double().flatten(1)
        torch.testing.assert_close(seen, truth, atol=1e-5, rtol=1e-5)
    assert bool(found.notes) == (tool != "kohya")


def test_alpha_beside_the_matrices_counts_more_than_what_the_file_says_of_all(tmp_path):
    dit = tiny_dit(tiny_spec())
    tensors = in_names_of(mixed(dit), "diffusers")
    tensors[f"transformer.{LAYERS[1]}.alpha"] = torch.tensor(6.0)
    told = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8, "transformer.use_rslora": True})}
    write_safetensors(tmp_path / "a.safetensors", tensors, told)
    found = read_adapter(tmp_path / "a.safetensors")
    scales = {name: layer.scale for name, layer in found.build(dit).layers.items()}
    assert scales == pytest.approx({LAYERS[0]: 8 / 2**0.5, LAYERS[1]: 2.0, LAYERS[2]: 4.0})
    assert "lora_adapter_metadata" in found.notes[0] and "rs-LoRA" in found.notes[0]


def test_an_adapter_of_mixed_ranks_trains_on_is_saved_and_loads_again(tmp_path):
    spec = tiny_spec()
    dit = tiny_dit(spec)
    save_adapter(tmp_path / "a.safetensors", mixed(dit))
    lora = load_adapter(tmp_path / "a.safetensors", dit)
    before = {name: value.detach().clone() for name, value in lora.parameters().items()}
    config = TrainingConfig.of(mode="lora", num_steps=2, learning_rate=1e-2, warmup_steps=0)
    task = adapter_task(LinearVideoTrainee(dit, spec), toy_dataset((4, 3, 4, 4)), config, adapter=lora)
    Trainer(task, config).run()
    after = lora.parameters()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    save_adapter(tmp_path / "b.safetensors", lora)
    assert equal(load_adapter(tmp_path / "b.safetensors", dit), lora)
    assert {layer.rank for layer in lora.layers.values()} == {2, 3, 4}


def test_a_name_without_dots_that_two_layers_have_is_refused_with_both(tmp_path):
    net = nn.ModuleDict({"a_b": nn.ModuleDict({"c": nn.Linear(2, 2)}), "a": nn.ModuleDict({"b_c": nn.Linear(2, 2)})})
    one = {"lora_unet_a_b_c.lora_down.weight": torch.ones(1, 2), "lora_unet_a_b_c.lora_up.weight": torch.ones(2, 1)}
    write_safetensors(tmp_path / "a.safetensors", one)
    with pytest.raises(CheckpointError, match="layer 'lora_unet_a_b_c' may be a_b.c or a.b_c of this model"):
        load_adapter(tmp_path / "a.safetensors", net)
    del net["a_b"]
    assert list(load_adapter(tmp_path / "a.safetensors", net).layers) == ["a.b_c"]
    twice = one | {"a.b_c.lora_A.weight": torch.ones(1, 2), "a.b_c.lora_B.weight": torch.ones(2, 1)}
    write_safetensors(tmp_path / "b.safetensors", twice)
    with pytest.raises(CheckpointError, match="two of its layers are a.b_c"):
        load_adapter(tmp_path / "b.safetensors", net)
    write_safetensors(tmp_path / "c.safetensors", {name.replace("_c.", "_x."): value for name, value in one.items()})
    with pytest.raises(CheckpointError, match="1 of 1 adapted layers are not in this model .*lora_unet_a_b_x"):
        load_adapter(tmp_path / "c.safetensors", net)


def test_adapter_of_another_model_or_no_adapter_is_refused_with_reasons(tmp_path):
    dit = tiny_dit(tiny_spec())
    lora = LoRA(dit, targets=TARGETS, rank=3, alpha=6.0)
    save_adapter(tmp_path / "a.safetensors", lora)
    wider = tiny_dit(tiny_spec(qk_norm=True))
    wider.transformer_blocks[1].ff = nn.Identity()
    with pytest.raises(CheckpointError, match="2 of 28 adapted layers are not in this model"):
        load_adapter(tmp_path / "a.safetensors", wider)
    write_safetensors(tmp_path / "b.safetensors", dict(dit.state_dict()))
    with pytest.raises(CheckpointError, match="b.safetensors: linear_video_dit; a LoRA is needed, with the tensors"):
        load_adapter(tmp_path / "b.safetensors", dit)
    next(iter(lora.layers.values())).up.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        save_adapter(tmp_path / "c.safetensors", lora)
    assert not (tmp_path / "c.safetensors").exists()


def test_other_kinds_of_adapters_are_refused_by_their_kind_with_a_way_out(tmp_path):
    dit = tiny_dit(tiny_spec())
    tensors = in_names_of(mixed(dit), "kohya") | {"lora_unet_x.dora_scale": torch.ones(1)}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match="a.safetensors: a DoRA; plain LoRAs are read here.* use it in ComfyUI"):
        read_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("down", "up", "alpha", "words"), [
    (torch.ones(2, 4, dtype=torch.int8), torch.ones(4, 2), torch.ones(()), r"layer 'x' is torch.int8"),
    (torch.ones(2, 4), torch.ones(4, 3), torch.ones(()), r"layer 'x' is \(2, 4\), \(4, 3\)"),
    (torch.ones(0, 4), torch.ones(4, 0), torch.ones(()), r"layer 'x' is \(0, 4\)"),
    (torch.ones(()), torch.ones(()), torch.ones(()), r"layer 'x' is \(\), \(\)"),
    (torch.ones(2, 4), torch.ones(4, 2), torch.ones(2), "layer 'x' has 2 alphas"),
])  # fmt: skip
def test_matrices_that_cannot_be_are_refused_with_their_layer(tmp_path, down, up, alpha, words):
    tensors = {"x.lora_down.weight": down, "x.lora_up.weight": up, "x.alpha": alpha}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=f"a.safetensors: {words}"):
        read_adapter(tmp_path / "a.safetensors")


def test_a_file_of_many_odd_names_is_refused_in_a_short_sentence_before_its_values_are_read(tmp_path):
    tensors = {f"layer.{rank}.lora_up.weight": torch.full((2, 2), torch.nan) for rank in range(60)}
    write_safetensors(tmp_path / "many.safetensors", tensors)
    with pytest.raises(CheckpointError, match="many.safetensors: a LoRA; .* unknown here: 'layer.0.lora_up") as caught:
        read_adapter(tmp_path / "many.safetensors")
    assert len(str(caught.value)) < 600


def test_a_file_of_a_newer_pack_is_refused(tmp_path):
    tensors = LoRA(nn.Sequential(nn.Linear(2, 2)), targets=("0",), rank=1, alpha=1.0).tensors()
    write_safetensors(tmp_path / "a.safetensors", tensors, {"family": "lora", "format_version": "2"})
    with pytest.raises(CheckpointError, match="made by version '2', this pack reads up to 1; update the pack"):
        read_adapter(tmp_path / "a.safetensors")
