"""Gemma-2 files recognised by headers, whole or refused; where tokenizers are found; instructions to the letter."""

import json
import shutil

import pytest
import tiny_gemma
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.text_encoders.gemma import GemmaConfig, open_gemma, plain_names
from pack.motion.text.instructions import INSTRUCTIONS, instruction_name, with_motion_score
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_gemma.write_folder(tmp_path_factory.mktemp("text_encoders") / "gemma-2-2b-it")


@pytest.fixture
def place(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "gemma-2-2b-it")


def change(place, weights=None, **config):
    """Rewrite weights (a function of the state dict) and values of config.json."""
    if weights is not None:
        save_file(weights(load_file(place / "model.safetensors")), place / "model.safetensors")
    values = json.loads((place / "config.json").read_text()) | config
    (place / "config.json").write_text(json.dumps(values))


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_gemma(path)
    assert "docs/models.md, Gemma-2" in str(caught.value) and str(caught.value).count("docs/models.md") == 1
    return str(caught.value)


def without(*names):
    return lambda state: {name: value for name, value in state.items() if name not in names}


def test_a_folder_reads_whole_with_its_norms_in_float32(whole):
    file = open_gemma(whole)
    assert file.config == GemmaConfig(512, 24, 48, 3, 2, 1) and file.is_instructed
    told = []
    state, need = file.read(torch.bfloat16, told.append), tiny_gemma.weights()
    assert sum(told) == sum(value.nbytes for value in need.values()) == file.source.num_bytes
    assert state.keys() == need.keys() and file.config.num_parameters == sum(value.numel() for value in need.values())
    for name, value in need.items():
        assert torch.equal(state[name], value if name.endswith("norm.weight") else value.bfloat16()), name


def test_full_size_has_the_published_number_of_parameters():
    assert GemmaConfig(256000, 2304, 9216, 26, 8, 4).num_parameters == 2_614_341_888


def test_names_of_the_host_and_of_transformers_are_one():
    for prefix in ("", "model.", "gemma2_2b.transformer.model.", "text_encoders.gemma2_2b.transformer.model."):
        names = [prefix + "layers.0.mlp.up_proj.weight", prefix + "norm.weight"]
        assert plain_names(names) == {"layers.0.mlp.up_proj.weight": names[0], "norm.weight": names[1]}
    unneeded = ["lm_head.weight", "gemma2_2b.logit_scale", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert not plain_names(unneeded)


def test_numbers_that_shapes_do_not_tell_come_from_the_config(place):
    change(place, rms_norm_eps=1e-5, attn_logit_softcapping=None, rope_parameters={"rope_theta": 500.0})
    config = open_gemma(place).config
    assert (config.rms_norm_eps, config.attn_logit_softcapping, config.rope_theta) == (1e-5, None, 500.0)
    (place / "config.json").unlink()
    assert open_gemma(place / "model.safetensors").config == GemmaConfig(512, 24, 48, 3, 2, 1)


def test_base_and_instructed_are_told_apart_by_name_alone(place, tmp_path):
    for name, need in (("gemma-2-2b", False), ("gemma_2_2b_IT_bf16", True), ("credits", False), ("SANA-Video", True)):
        folder = shutil.copytree(place, tmp_path / "others" / name)
        assert open_gemma(folder).is_instructed == need, name
    change(folder.rename(tmp_path / "others" / "mine"), _name_or_path="google/gemma-2-2b-it")
    assert open_gemma(tmp_path / "others" / "mine").is_instructed


@pytest.mark.parametrize("gone", ["layers.1.mlp.up_proj.weight", "norm.weight", "layers.2.input_layernorm.weight"])
def test_a_missing_weight_is_named(place, gone):
    change(place, without(gone))
    assert gone in refusal(place)


def test_missing_layers_are_noticed_by_config_and_by_the_width_of_a_public_model(place, tmp_path):
    last = [name for name in tiny_gemma.weights() if name.startswith("layers.2.")]
    change(place, without(*last))
    assert "11 weights are missing" in refusal(place)
    path = tmp_path / "gemma_2_2b_it.safetensors"
    save_file(tiny_gemma.weights(hidden=2304, vocab=8, layers=1), path)
    assert "275 weights are missing" in refusal(path)


def test_an_unknown_weight_and_a_wrong_shape_are_named(place):
    change(place, lambda state: {**state, "layers.0.self_attn.extra.weight": torch.zeros(2)})
    assert "extra" in refusal(place)
    change(place, without("layers.0.self_attn.extra.weight"))
    change(place, lambda state: {**state, "layers.1.mlp.down_proj.weight": torch.zeros(24, 47)})
    assert "(24, 47); (24, 48) is needed" in refusal(place)


@pytest.mark.parametrize("config, says", [
    ({"model_type": "gemma3_text"}, "gemma3_text"), ({"hidden_size": 2304}, "2304"), ({"head_dim": 128}, "head_dim"),
    ({"query_pre_attn_scalar": 144}, "query_pre_attn_scalar"), ({"num_hidden_layers": "3"}, "num_hidden_layers"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers"), ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ({"attn_logit_softcapping": -1}, "attn_logit_softcapping"), ({"attn_logit_softcapping": []}, "softcapping"),
    ({"attn_logit_softcapping": 0}, "softcapping"), ({"attn_logit_softcapping": False}, "softcapping"),
    ({"rope_theta": True}, "rope_theta"),
    ({"hidden_activation": "silu"}, "hidden_activation"), ({"num_key_value_heads": 2}, "num_key_value_heads"),
])  # fmt: skip
def test_a_config_of_another_model_is_refused(place, config, says):
    change(place, **config)
    assert says in refusal(place)


@pytest.mark.parametrize("state, says", [
    ({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(2, 2)}, "T5"),
    ({"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)}, "CLIP text encoder"),
    ({"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2), "model.embed_tokens.weight": torch.zeros(2, 2)},
     "not Gemma-2"),
    (tiny_gemma.weights(prefix="model.") | {"model.layers.0.self_attn.q_norm.weight": torch.zeros(256)}, "Gemma-3"),
    (tiny_gemma.weights() | {"layers.0.mlp.up_proj.weight_scale": torch.ones(1)}, "quantised"),
    (tiny_gemma.weights() | {"scaled_fp8": torch.zeros(0)}, "quantised"),
    (tiny_gemma.weights() | {"layers.0.mlp.up_proj.weight": torch.zeros(48, 24, dtype=torch.int8)}, "int8"),
    ({"patch_embed.proj.weight": torch.zeros(2, 2, 1, 1), "transformer_blocks.0.ff.conv_inverted.weight":
      torch.zeros(2, 2, 1, 1)}, "SANA image model"),
    ({"something": torch.zeros(1)}, "something"),
])  # fmt: skip
def test_other_models_are_refused_by_name(tmp_path, state, says):
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    assert says in refusal(path)


def test_the_tokenizer_is_looked_for_in_order(place, tmp_path):
    model = (place / "tokenizer.model").read_bytes()
    assert open_gemma(place).tokenizer.place == str(place / "tokenizer.model")
    (place / "tokenizer.model").unlink()
    (place / "tokenizer.json").write_text("{}")
    assert open_gemma(place).tokenizer.kind == "tokenizer.json"
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(model)
    assert open_gemma(place).tokenizer.place == str(tmp_path / "tokenizer" / "tokenizer.model")
    change(place, lambda state: {**state, "spiece_model": torch.frombuffer(bytearray(model), dtype=torch.uint8)})
    found = open_gemma(place).tokenizer
    assert found.data == model and found.place == "inside the file"
    assert "spiece_model" not in open_gemma(place).read(torch.float32)


def test_no_tokenizer_lists_every_place_tried(place, tmp_path):
    (place / "tokenizer.model").unlink()
    said = refusal(place)
    for folder in (place, tmp_path / "tokenizer"):
        assert str(folder / "tokenizer.model") in said and str(folder / "tokenizer.json") in said
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        open_gemma(place, json_too=False)


@pytest.mark.parametrize("text, says", [
    (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"), (b"<!DOCTYPE html>", "HTML"),
    (b"", "empty"), (bytes(100), "zeros"),
])  # fmt: skip
def test_a_tokenizer_that_was_not_downloaded_is_told_apart(place, text, says):
    (place / "tokenizer.model").write_bytes(text)
    assert says in refusal(place)


def test_an_embedded_tokenizer_of_another_type_is_refused(place):
    change(place, lambda state: {**state, "spiece_model": torch.zeros(4, 4)})
    assert "spiece_model" in refusal(place)


@pytest.mark.slow  # importing diffusers
def test_instructions_are_those_of_the_pipelines():
    import inspect

    pipelines = pytest.importorskip("diffusers")
    for name, pipeline in (("image", pipelines.SanaPipeline), ("video", pipelines.SanaVideoPipeline)):
        lines = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        assert INSTRUCTIONS[name] == "\n".join(lines) and len(lines) == 8
        assert instruction_name(INSTRUCTIONS[name]) == name
    assert INSTRUCTIONS["none"] == "" and instruction_name("x") == "own"


def test_motion_score_is_twice_the_dynamics():
    assert with_motion_score("a cat ", 15) == "a cat motion score: 30."
    assert with_motion_score("", 0) == " motion score: 0."
    for dynamics in (-1, 20, 1.0, True):
        with pytest.raises(ConfigError, match="0 to 19"):
            with_motion_score("a", dynamics)
