"""Which Wan a set of weights is, told by names and shapes; relatives and broken sets are refused by name."""

import functools
import json
import random

import pytest
import torch
import wan_files
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.networks.wan_layouts import detect_wan, expert_of
from pack.motion.io.networks.wan_names import wan_shapes
from pack.motion.models.wan.config import PUBLISHED

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.")


def detected(shapes, path="w.safetensors", dtypes=None, **options):
    return detect_wan(path, shapes, dtypes or dict.fromkeys(shapes, torch.bfloat16), **options)


def refusal(shapes, **options):
    with pytest.raises(CheckpointError) as caught:
        detected(shapes, **options)
    assert str(caught.value).startswith("w.safetensors: ")
    return str(caught.value)


@pytest.mark.parametrize("naming", ["host", "diffusers"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_told_from_shapes_alone_in_both_namings(name, naming):
    layout = detected(wan_shapes(PUBLISHED[name], naming))
    assert (layout.config, layout.naming, layout.expert) == (PUBLISHED[name], naming, "")
    assert list(layout.names) == list(wan_shapes(PUBLISHED[name]))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_stripped_and_names_lead_back_to_the_files_own(prefix):
    shapes = {prefix + name: shape for name, shape in wan_shapes(wan_files.T2V).items()}
    assert detected(shapes).names == {name: prefix + name for name in wan_shapes(wan_files.T2V)}


@pytest.mark.parametrize(("path", "expert"), [
    ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "high_noise"), ("wan2.2_i2v_low_noise_14B.safetensors", "low_noise"),
    ("Wan2_2-T2V-A14B_HIGH_fp8_scaled.safetensors", "high_noise"), ("Wan2.2-A14B-LowNoise.safetensors", "low_noise"),
    ("low_noise_model/diffusion_pytorch_model.safetensors.index.json", "low_noise"), ("high_noise_model", "high_noise"),
    ("wan2.1_t2v_14B_low_vram.safetensors", ""), ("wan2.2_high_noise_and_low_noise.safetensors", ""),
    ("wan2.1_t2v_14B_fp16.safetensors", ""), ("wan2.2_slow_thigh.safetensors", ""), ("a/transformer_2", "low_noise"),
])  # fmt: skip
def test_the_expert_is_told_by_the_name_of_file_or_folder(path, expert):
    assert expert_of(path, {}) == expert


def test_transformer_is_the_high_noise_expert_where_a_second_stands_beside_it(tmp_path):
    assert expert_of(tmp_path / "transformer", {}) == ""
    (tmp_path / "transformer_2").mkdir()
    assert expert_of(tmp_path / "transformer", {}) == "high_noise"
    assert expert_of(tmp_path / "transformer" / "weights.safetensors", {}) == "high_noise"


def test_the_user_comes_before_the_metadata_and_that_before_the_name():
    path, metadata = "wan2.2_high_noise.safetensors", {"expert": "low_noise"}
    assert expert_of(path, metadata) == "low_noise" and expert_of(path, {"expert": "?"}) == "high_noise"
    assert expert_of(path, metadata, "high_noise") == "high_noise"
    with pytest.raises(ConfigError, match="expert is 'both'; high_noise or low_noise is needed"):
        expert_of(path, metadata, "both")


def test_a_model_with_image_tokens_has_no_experts():
    shapes = wan_shapes(wan_files.CONFIGS["I2V"])
    assert detected(shapes, "wan2.2_high_noise.safetensors").expert == ""
    assert detected(wan_shapes(wan_files.T2V), "wan2.2_high_noise.safetensors").expert == "high_noise"


@pytest.mark.parametrize(("title", "name"), [
    ("Wan VACE", "vace_patch_embedding.weight"), ("Wan VACE", "vace_blocks.0.after_proj.weight"),
    ("Fun-Camera", "control_adapter.conv.weight"), ("S2V", "casual_audio_encoder.encoder.final_linear.weight"),
    ("HuMo", "audio_proj.audio_proj_glob_1.layer.bias"), ("Animate", "face_adapter.fuser_blocks.0.k_norm.weight"),
    ("SCAIL", "patch_embedding_pose.weight"), ("SCAIL", "patch_embedding_mask.weight"),
    ("WanDancer", "patch_embedding_global.weight"), ("Fun-Control", "ref_conv.weight"),
])  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_relatives_are_refused_by_name_with_a_way_out(title, name, prefix):
    shapes = {prefix + key: shape for key, shape in {**wan_shapes(wan_files.T2V), name: (1,)}.items()}
    text = refusal(shapes)
    assert title in text and name in text and "text-to-video, image-to-video" in text and "ComfyUI's own nodes" in text


@pytest.mark.parametrize(("channels", "out", "words"), [
    (48, 48, "5B model of Wan 2.2.*16: the A14B models"), (48, 16, "Fun-Control, which reads a control video.*Fun-InP"),
    (52, 16, "Fun-Control"), (32, 16, "32 channels in and 16 out; 16, or 36"), (17, 16, "17 channels in"),
])  # fmt: skip
@pytest.mark.parametrize("naming", ["host", "diffusers"])
def test_models_of_other_channels_are_refused_by_name(channels, out, words, naming):
    shapes = wan_shapes(wan_files.T2V, naming) | {"patch_embedding.weight": (128, channels, 1, 2, 2)}
    head = "head.head" if naming == "host" else "proj_out"
    shapes |= {f"{head}.weight": (4 * out, 128), f"{head}.bias": (4 * out,)}
    with pytest.raises(CheckpointError, match=words):
        detected(shapes)


@pytest.mark.parametrize("shapes", [
    {"a": (1,)}, {"patch_embed.proj.weight": (8, 4, 1, 1), "transformer_blocks.0.ff.conv_point.weight": (8, 8)}, {},
])  # fmt: skip
def test_a_file_of_another_family_is_refused_with_what_is_needed(shapes):
    text = refusal(shapes)
    assert "no Wan video model" in text and "image-to-video" in text and "docs/models.md" in text


def test_two_layouts_mixed_are_refused_with_a_name_of_each():
    ours, theirs = wan_shapes(wan_files.T2V), wan_shapes(wan_files.T2V, "diffusers")
    mixed = {name: s for name, s in ours.items() if "blocks.1." not in name}
    mixed |= {name: shape for name, shape in theirs.items() if "blocks.1." in name}
    text = refusal(mixed)
    assert "two layouts mixed" in text and "text_embedding.0" in text and "blocks.1.attn1" in text and "again" in text
    half = {("model.diffusion_model." if "blocks.1." in name else "") + name: shape for name, shape in ours.items()}
    assert "have a prefix ('model.diffusion_model.blocks.1." in refusal(half)


@pytest.mark.parametrize("naming", ["host", "diffusers"])
@pytest.mark.parametrize("name", wan_files.CONFIGS)
def test_every_single_missing_extra_or_misshapen_weight_is_refused(name, naming):
    shapes = wan_shapes(wan_files.CONFIGS[name], naming)
    for gone in shapes:
        if gone.endswith(("emb_pos", "pos_embed")):
            continue  # without it the set is another whole one
        with pytest.raises(CheckpointError):
            detected({key: shape for key, shape in shapes.items() if key != gone})
        with pytest.raises(CheckpointError):
            detected(shapes | {gone: (*shapes[gone], 2)})
    assert "1 weights not known (blocks.0.extra.weight)" in refusal(shapes | {"blocks.0.extra.weight": (1,)})


@pytest.mark.parametrize(("config", "heads"), [
    ({"_class_name": "WanModel", "num_heads": 2}, 2), ({"_class_name": "Neighbour", "num_heads": 2}, 1), ({}, 1),
    ({"_class_name": "WanTransformer3DModel", "num_attention_heads": 4, "attention_head_dim": 32}, 4), (None, 1),
])  # fmt: skip
def test_heads_are_those_of_its_config_and_else_128_wide(config, heads):
    sizes = detected(wan_shapes(wan_files.T2V), config=config).config
    assert (sizes.num_attention_heads, sizes.attention_head_dim) == (heads, 128 // heads)


@pytest.mark.parametrize(("change", "words"), [
    ({"num_attention_heads": 3}, "'3' heads"), ({"num_attention_heads": "1"}, "'1' heads"),
    ({"attention_head_dim": 64}, "heads of '64'"), ({"in_channels": 36}, "in_channels is '36', 16 is needed"),
    ({"num_layers": 3}, "num_layers is '3', 2"), ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'"),
    ({"cross_attn_norm": False}, "cross_attn_norm is 'False'"), ({"eps": 1e-5}, "eps is '1e-05', 1e-06"),
    ({"num_attention_heads": True}, "'True' heads"), ({"ffn_dim": [24]}, "ffn_dim is '[24]'"),
])  # fmt: skip
def test_a_config_of_another_network_is_refused(change, words):
    config = wan_files.diffusers_config(wan_files.T2V)
    assert detected(wan_shapes(wan_files.T2V, "diffusers"), config=config).config == wan_files.T2V
    text = refusal(wan_shapes(wan_files.T2V, "diffusers"), config=config | change)
    assert words in text and "both again" in text


def test_a_width_that_does_not_tell_its_heads_asks_for_the_config():
    from dataclasses import replace

    odd = replace(wan_files.T2V, num_attention_heads=3, attention_head_dim=32)
    assert "width 96" in refusal(wan_shapes(odd)) and "config.json beside" in refusal(wan_shapes(odd))
    assert detected(wan_shapes(odd), config={"_class_name": "WanModel", "num_heads": 3}).config == odd


@pytest.mark.parametrize("change", [
    {"patch_embedding.weight": ()}, {"patch_embedding.weight": (0, 0, 1, 0, 0)}, {"img_emb.proj.1.weight": ()},
    {"patch_embedding.weight": (128, 16, 2, 2, 2)}, {"patch_embedding.weight": (128, 16, 1, 2, 3)},
    {"head.head.weight": (63, 128)}, {"head.head.weight": (0, 0)}, {"blocks.0.ffn.0.weight": (0, 128)},
    {"text_embedding.0.weight": (128, 2**31 - 1)}, {"img_emb.emb_pos": (1, 2**31 - 1, 1)},
    {f"blocks.{number}.norm3.weight": (128,) for number in range(300)},
])  # fmt: skip
def test_shapes_that_no_network_has_are_refused(change):
    refusal(wan_shapes(wan_files.T2V) | change)


def test_metadata_names_layers_with_the_prefix_of_the_file():
    prefix = wan_files.PREFIX
    tensors, _, _ = wan_files.scaled(wan_files.tiny_wan_state(), "metadata")
    shapes = {prefix + name: tuple(value.shape) for name, value in tensors.items()}
    dtypes = {prefix + name: value.dtype for name, value in tensors.items()}
    layers = {name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in dtypes
              if dtypes[name] == torch.float8_e4m3fn}  # fmt: skip
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    layout = detected(shapes, dtypes=dtypes, metadata=metadata)
    assert len(layout.scales.said) == len(layers) == len(layout.scales.scales) == 20
    assert "blocks.0.self_attn.q" in layout.scales.said


NAMES = ("", ".", "blocks.", "blocks.0.", "\n", "blocks.99999.x", "ema.", "scaled_fp8", "weight", ".weight_scale",
         "vae.a", "blocks.\u0663.a", "blocks.0.ffn.0.comfy_quant", "blocks.0.ffn.0.scale_weight",
         "blocks.0.ffn.0.weight_scale")  # fmt: skip
VALUES = (None, True, -1, 0, 2**70, 1.5, float("nan"), "x", [], {}, [1, [2]], "\0", "\ud800")
SAID = ("{}", "[]", '{"layers":{"":{}}}', '{"layers":{"blocks.0.ffn.0":{"format":[]}}}', "nan", "1e999", "null")
KINDS = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool, torch.float64)


@functools.cache
def whole(form):
    """The header of a whole file: (shapes, types, metadata)."""
    state = wan_files.tiny_wan_state()
    plain = wan_files.as_diffusers(wan_files.T2V, state), {}, {}
    tensors, metadata, _ = wan_files.scaled(state, form) if form else plain
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return shapes, {name: value.dtype for name, value in tensors.items()}, metadata


def spoiled(seed):
    """A header with up to three faults: (shapes, types, config, metadata)."""
    draw = random.Random(seed)
    shapes, dtypes, metadata = map(dict, whole(draw.choice(("older", "newer", "metadata", "", ""))))
    config = wan_files.diffusers_config(wan_files.T2V)
    for _ in range(draw.randint(1, 3)):
        name, way = draw.choice(list(shapes)), draw.randrange(6)
        if way == 0:
            shapes.pop(name)
        elif way == 1:
            shapes[name] = tuple(draw.choice((0, 1, 2, 128, 2**31 - 1)) for _ in range(draw.randint(0, 6)))
        elif way == 2:
            dtypes[name] = draw.choice(KINDS)
        elif way == 3:
            config[draw.choice([*config, "num_heads", "image_dim"])] = draw.choice(VALUES)
        elif way == 4:
            shapes[draw.choice((*NAMES, name[:-1], name.upper()))] = shapes[name]
        else:
            metadata["_quantization_metadata"] = draw.choice(SAID)
    return shapes, {name: dtypes.get(name, torch.float32) for name in shapes}, config, metadata


def test_hostile_headers_are_read_or_refused_and_nothing_else():
    came = []
    for seed in range(200):
        shapes, dtypes, config, metadata = spoiled(seed)
        try:
            came.append(detected(shapes, dtypes=dtypes, config=config, metadata=metadata).naming)
        except CheckpointError as error:
            came.append(str(error).partition(":")[0])
    assert came.count("w.safetensors") > 140 and came.count("host") + came.count("diffusers") > 10
