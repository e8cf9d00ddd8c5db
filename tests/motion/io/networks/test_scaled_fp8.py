"""Scales of fp8 weights, told and checked by headers in both forms; what is quantised otherwise is refused."""

import json

import pytest
import torch
import wan_files
from pack.motion.errors import CheckpointError
from pack.motion.io.networks.scaled_fp8 import FORMATS, check_format, find_scales, format_text, read_format
from pack.motion.models.stored_layers import dequantised

FP8, F32, LAYER = torch.float8_e4m3fn, torch.float32, "blocks.0.self_attn.q"
FORMS = ("older", "newer", "metadata")


def found(tensors, metadata=None):
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return find_scales("w", shapes, {name: value.dtype for name, value in tensors.items()}, metadata or {}, {})


def refusal(tensors, metadata=None):
    with pytest.raises(CheckpointError) as caught:
        found(tensors, metadata)
    text = str(caught.value)
    assert text.startswith("w: ") and "bf16, fp16 or fp8_scaled file" in text
    return text


@pytest.mark.parametrize("form", FORMS)
def test_each_weight_finds_its_scale_and_nothing_else_is_taken_for_a_weight(form):
    state = wan_files.tiny_wan_state()
    tensors, metadata, _ = wan_files.scaled(state, form)
    scales = found(tensors, metadata)
    assert scales.form == ("scale_weight" if form == "older" else "weight_scale")
    assert set(scales.scales) == {name for name in tensors if tensors[name].dtype == FP8 and name != "scaled_fp8"}
    assert set(tensors) - set(scales.scales.values()) - set(scales.beside) == set(state)


def test_scales_of_a_layers_input_and_weights_without_scales_are_no_scales():
    plain = {f"{LAYER}.weight": torch.zeros(2, 2, dtype=FP8), "norm.weight": torch.ones(2)}
    assert found(plain).form == "" and not found(plain).scales
    tensors, _, _ = wan_files.scaled({f"{LAYER}.weight": torch.ones(2, 2)}, "older")
    scales = found(tensors | {f"{LAYER}.scale_input": torch.ones(())})
    assert scales.scales == {f"{LAYER}.weight": f"{LAYER}.scale_weight"}
    assert set(scales.beside) == {"scaled_fp8", f"{LAYER}.scale_input"}


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_scale_is_refused_with_the_weight_and_the_name_it_needs(form):
    tensors, metadata, _ = wan_files.scaled(wan_files.tiny_wan_state(), form)
    leaf = "scale_weight" if form == "older" else "weight_scale"
    tensors.pop(f"{LAYER}.{leaf}")
    text = refusal(tensors, metadata)
    assert f"1 fp8 weights have no scale ('{LAYER}.weight' needs '{LAYER}.{leaf}')" in text


def test_a_marked_file_with_no_scale_at_all_is_refused():
    text = refusal({"scaled_fp8": torch.empty(2, dtype=FP8), f"{LAYER}.weight": torch.zeros(2, 2, dtype=FP8)})
    assert "1 fp8 weights have no scale" in text


def test_a_scale_without_its_weight_is_refused():
    tensors, _, _ = wan_files.scaled(wan_files.tiny_wan_state(), "older")
    assert "scales have no weight ('blocks.9.ffn.0.scale_weight')" in refusal(
        tensors | {"blocks.9.ffn.0.scale_weight": torch.ones(())}
    )


def test_scales_of_both_forms_in_one_file_are_refused():
    tensors, _, _ = wan_files.scaled(wan_files.tiny_wan_state(), "older")
    assert "of two kinds" in refusal(tensors | {f"{LAYER}.weight_scale": torch.ones(())})
    assert "of two kinds" in refusal(tensors, {"_quantization_metadata": "{}"})


@pytest.mark.parametrize("scale", [torch.ones(2, 1), torch.ones(0), torch.ones((), dtype=torch.int32)])
def test_a_scale_that_is_not_one_number_is_refused(scale):
    tensors, _, _ = wan_files.scaled({f"{LAYER}.weight": torch.ones(2, 2)}, "newer")
    assert "one number for the whole weight" in refusal(tensors | {f"{LAYER}.weight_scale": scale})


@pytest.mark.parametrize(("tensors", "words"), [
    ({f"{LAYER}.weight": torch.zeros(2, 2, dtype=torch.int8), f"{LAYER}.weight_scale": torch.ones(())}, "torch.int8"),
    ({f"{LAYER}.weight": torch.zeros(2, 1, dtype=torch.uint8), f"{LAYER}.weight_scale_2": torch.ones(())}, "nvfp4"),
    ({f"{LAYER}.weight": torch.zeros(2, 1, dtype=torch.uint8)}, "int8, nvfp4, mxfp8 and int4 are not read"),
    ({f"{LAYER}.weight": torch.zeros(2, 1, dtype=torch.int8), f"{LAYER}.weight_s_rel": torch.ones(())}, "int4"),
])  # fmt: skip
def test_weights_quantised_otherwise_are_refused_by_name(tensors, words):
    assert words in refusal(tensors)


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is not JSON"), ("[]", "no 'layers'"), ('{"layers": 3}', "no 'layers'"), ("", "is not JSON"),
    (json.dumps({"layers": {LAYER: {"format": "nvfp4"}}}), "quantised as 'nvfp4'"), ("[" * 10**5, "is not JSON"),
    (json.dumps({"layers": {LAYER: {"format": "float8_e5m2"}}}), "is said to be float8_e5m2"),
    (json.dumps({"layers": {LAYER: 7}}), "quantised as ''"), (json.dumps({"layers": {"no": {}}}), "'no.weight' needs"),
])  # fmt: skip
def test_metadata_that_says_something_else_is_refused(text, words):
    tensors, _, _ = wan_files.scaled({f"{LAYER}.weight": torch.ones(2, 2)}, "metadata")
    assert words in refusal(tensors, {"_quantization_metadata": text})


@pytest.mark.parametrize("value", [torch.ones(3), torch.zeros(4097, dtype=torch.uint8)])
def test_what_a_layer_says_of_itself_is_short_text(value):
    tensors, _, _ = wan_files.scaled({f"{LAYER}.weight": torch.ones(2, 2)}, "newer")
    assert "no short text" in refusal(tensors | {f"{LAYER}.comfy_quant": value})


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_a_layers_text_is_read_as_it_was_written_and_must_fit_its_weight(dtype):
    raw = torch.tensor(list(format_text(dtype)), dtype=torch.uint8)
    assert FORMATS[read_format("w", "a.comfy_quant", raw)] == dtype
    with pytest.raises(CheckpointError, match="its weight is torch.bfloat16"):
        check_format("w", "a", read_format("w", "a.comfy_quant", raw), torch.bfloat16)
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_format("w", "a.comfy_quant", raw[:-1])


@pytest.mark.parametrize("stored", FORMATS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_fp8_value_times_its_scale_is_the_product_in_float64_rounded_once(stored, dtype):
    every = torch.arange(256, dtype=torch.uint8).view(stored)
    every = every[every.float().isfinite()]
    for scale in (torch.tensor(0.0123), torch.tensor([3.0e-4]), torch.tensor(1.0, dtype=torch.bfloat16)):
        made = dequantised(every, scale, dtype)
        truth = (every.double() * scale.double()).float().to(dtype)
        assert made.dtype == dtype and torch.equal(made, truth)
    assert torch.equal(dequantised(every, None, dtype), every.double().to(dtype))
