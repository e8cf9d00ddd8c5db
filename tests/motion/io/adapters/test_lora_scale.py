"""The scale of LoRA layers without an alpha: from metadata, from PEFT's config, or 1."""

import json
import math
from pathlib import Path

import pytest
from pack.motion.errors import CheckpointError
from pack.motion.io.adapters.lora_scale import MAX_CONFIG, declared_scale

FILE = Path("a.safetensors")
INSIDE = "lora_adapter_metadata"


def scale(metadata, layer="x.to_q", rank=8, path=FILE):
    return declared_scale(path, metadata).alpha_of(layer, rank) / rank


def test_nothing_said_means_that_a_difference_counts_once():
    assert scale({}) == scale({}, rank=3) == 1.0 and declared_scale(FILE, {}).source == ""


@pytest.mark.parametrize("entry", ["lora_alpha", "network_alpha", "alpha"])
def test_a_plain_entry_is_divided_by_each_layers_rank(entry):
    assert scale({entry: "16"}) == 2.0 and scale({entry: "16"}, rank=4) == 4.0


@pytest.mark.parametrize("component", ["transformer.", "unet.", ""])
def test_diffusers_entry_gives_alpha_patterns_and_the_root_of_rs_lora(component):
    values = {"lora_alpha": 16, "alpha_pattern": {"to_k": 4, "x.to_v": 2}, "use_rslora": False, "r": 8}
    told = {INSIDE: json.dumps({f"{component}{name}": value for name, value in values.items()}), "alpha": "99"}
    assert scale(told) == 2.0 and scale(told, "x.to_k") == 0.5 and scale(told, "x.to_v") == 0.25
    assert scale(told, "x.not_to_k") == 2.0
    rooted = {INSIDE: json.dumps({f"{component}lora_alpha": 16, f"{component}use_rslora": True})}
    assert scale(rooted) == pytest.approx(16 / math.sqrt(8), rel=1e-12)


def test_a_text_encoders_alpha_is_not_the_models():
    assert scale({INSIDE: json.dumps({"text_encoder.lora_alpha": 16})}) == 1.0


def test_pefts_config_beside_its_own_file_is_read(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 32, "r": 8}))
    assert scale({}, path=tmp_path / "adapter_model.safetensors") == 4.0
    assert scale({}, path=tmp_path / "other.safetensors") == 1.0
    (tmp_path / "adapter_config.json").write_text("{" + " " * MAX_CONFIG)
    with pytest.raises(CheckpointError, match="over 1048576 bytes"):
        declared_scale(tmp_path / "adapter_model.safetensors", {})


@pytest.mark.parametrize(("metadata", "words"), [
    ({"alpha": "much"}, "its alpha is 'much'; a number above 0 is needed"),
    ({"alpha": "nan"}, "its alpha is 'nan'"), ({"lora_alpha": "0"}, "its lora_alpha is '0'"),
    ({INSIDE: "{"}, "no JSON"), ({INSIDE: "[]"}, "is a list"), ({INSIDE: '{"lora_alpha": true}'}, "'True'"),
    ({INSIDE: '{"lora_alpha": [1]}'}, "number above 0"), ({INSIDE: f'{{"lora_alpha": {"9" * 400}}}'}, "number above 0"),
    ({INSIDE: '{"lora_alpha": 1, "alpha_pattern": [1]}'}, "names and numbers"),
    ({INSIDE: '{"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}'}, r"the expression '\(a\+\)\+\$'"),
    ({INSIDE: '{"lora_alpha": 1, "alpha_pattern": {"a": -1}}'}, "alpha_pattern is '-1'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_its_file_and_place(metadata, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        declared_scale(FILE, metadata)
    assert str(caught.value).startswith("a.safetensors: ")
