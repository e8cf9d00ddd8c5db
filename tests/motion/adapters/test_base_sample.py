"""Which base an adapter was trained beside, told by a few of its values."""

import json

import pytest
import torch
from pack.motion.adapters.base_sample import CHANNELS, ENTRY, BaseSample, other_base_note, wan_sample
from pack.motion.adapters.lora import LoRA
from pack.motion.io.adapters.adapter_file import read_adapter, save_adapter
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS, fill

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


def network(seed=0):
    return fill(WanDiT(VARIANTS["text"]), seed)


def sample(of, dtype=torch.float32):
    return wan_sample(len(of.blocks), lambda name: of.get_parameter(name).to(dtype))


def test_it_holds_256_values_of_the_weights_it_names():
    of = network()
    found = sample(of)
    norms = [of.blocks[n].self_attn.norm_q.weight for n in (0, 1, 1)]
    assert len(found.values) == 256 and found.number_type == "float32"
    for place, weight in zip((0, 64, 128, 192), (*norms, of.head.modulation.flatten())):
        assert found.values[place] == weight[0].item() and found.values[place + 63] == weight[-1].item()
    assert BaseSample.in_metadata(found.to_metadata()) == found


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("other", KINDS, ids=str)
def test_the_same_weights_in_two_number_types_are_one_base_and_a_percent_more_is_not(kind, other):
    of = network()
    assert not sample(of, kind).is_of_another_base_than(sample(of, other))
    assert sample(of, kind).is_of_another_base_than(sample(network(seed=1), other))
    with torch.no_grad():
        for value in of.parameters():
            value.mul_(1.01)
    told = sample(of, kind).is_of_another_base_than(sample(network(), other))
    assert told == (max(torch.finfo(kind).eps, torch.finfo(other).eps) < 0.01)


@pytest.mark.parametrize("entry", ["", "{", "[]", "3", json.dumps({"number_type": "int4", "values": [1.0]}),
                                   json.dumps({"number_type": "float32", "values": ["a"]})])  # fmt: skip
def test_an_entry_that_cannot_be_compared_says_nothing(entry):
    assert BaseSample.in_metadata({ENTRY: entry}) is None and BaseSample.in_metadata({}) is None
    assert other_base_note({ENTRY: entry}, sample(network()), 4) == ""


@pytest.mark.parametrize("entry", ["", "four", "9" * 9, "-1"])
def test_a_number_of_channels_that_cannot_be_one_says_nothing(entry):
    assert other_base_note({CHANNELS: entry}, sample(network()), 4) == ""


def test_a_lora_file_says_when_it_meets_another_base_than_its_own(tmp_path):
    own, other = network(), network(seed=1)
    lora = LoRA(own, targets=("self_attn",), rank=1, alpha=1.0)
    save_adapter(tmp_path / "a.safetensors", lora, {**sample(own).to_metadata(), "expert": "high_noise"})
    file = read_adapter(tmp_path / "a.safetensors")
    assert file.build(other) and file.notes_on(own) == ()
    assert "trained on another base (high noise) than this model" in file.notes_on(other)[0]
    assert file.notes_on(torch.nn.Linear(2, 2)) == ()


def test_a_lora_file_of_text_to_video_says_so_beside_image_to_video(tmp_path):
    own, other = network(), fill(WanDiT(VARIANTS["image without tokens"]))
    lora = LoRA(own, targets=("self_attn",), rank=1, alpha=1.0)
    save_adapter(tmp_path / "a.safetensors", lora, {**sample(own).to_metadata(), CHANNELS: "4"})
    file = read_adapter(tmp_path / "a.safetensors")
    assert file.build(other) and file.notes_on(own) == ()
    assert "trained on a Wan with 4 input channels, this model has 12" in file.notes_on(other)[0]
