"""Motion model files: saved and read back, recognised by names, refused whole when anything is off."""

import dataclasses
import json
import os

import pytest
import safetensors.torch
import torch
from pack.motion.builtin_model import BUILTIN_NAMES, builtin_path, bundle
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.networks import builtin_names
from pack.motion.io.networks import linear_video as motion_model_file
from pack.motion.io.networks.families import detect_family, strip_containers, weights_family
from pack.motion.io.networks.linear_video import (
    build_linear_video,
    config_from_shapes,
    describe_linear_video,
    network_shapes,
    read_linear_video,
    save_linear_video,
)
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.architecture import LINEAR_VIDEO
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MotionVocabulary

TINY = LinearVideoDiTConfig(
    in_channels=200, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
    caption_channels=8, flow_channels=8, concat_first_frame=True, frame_index_embedding=True,
    pooled_text_embedding=True, position_features=True, prediction="x0",
)  # fmt: skip
SPEC = LinearVideoSpec(
    config=TINY, latent=LatentSpec(kind="builtin", channels=200, spatial_ratio=8, scale_factor=1.0, working_size=64)
)


@pytest.fixture(scope="module")
def states():
    """Random weights of a tiny network and of its text encoder."""
    torch.manual_seed(0)
    return LinearVideoDiT(TINY).state_dict(), MotionTextEncoder(MotionVocabulary().size, 8).state_dict()


@pytest.fixture
def saved(tmp_path, states):
    path = tmp_path / "tiny.safetensors"
    save_linear_video(path, SPEC, *states, {"recipe": "seed 0"})
    return path


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_linear_video(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write(path, tensors, metadata=None):
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def with_spec(path, states, change):
    """Save the tiny weights under a spec whose JSON was changed by `change(values)`."""
    metadata = SPEC.to_metadata()
    values = json.loads(metadata["spec"])
    change(values)
    return write(path, states[0], {**metadata, "spec": json.dumps(values)})


def test_saved_model_reads_back_bit_for_bit_with_spec_and_metadata(saved, states):
    file = read_linear_video(saved)
    assert file.spec == SPEC and file.metadata["recipe"] == "seed 0"
    for found, truth in ((file.state_dict, states[0]), (file.text_encoder, states[1])):
        assert found.keys() == truth.keys() and all(torch.equal(found[name], truth[name]) for name in truth)


def test_built_network_computes_what_the_saved_one_did(saved, states):
    network = LinearVideoDiT(TINY)
    network.load_state_dict(states[0])
    built = build_linear_video(read_linear_video(saved))
    told = Conditions(torch.randn(1, 8, 8), pooled=torch.randn(1, 8), first_latent=torch.randn(1, 200, 1, 8, 8))
    given = torch.randn(1, 200, 3, 8, 8), torch.tensor([500.0]), told
    with torch.no_grad():
        assert torch.equal(built(*given), network.eval()(*given))
    assert not built.training and not any(p.is_meta for p in built.parameters())


def test_two_networks_built_from_one_file_share_no_weights(saved):
    file = read_linear_video(saved)
    first, second = build_linear_video(file), build_linear_video(file)
    with torch.no_grad():
        first.proj_out.weight.fill_(7)
    assert not (second.proj_out.weight == 7).any() and not (file.state_dict["proj_out.weight"] == 7).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_network_is_built_in_the_type_asked_for(saved, dtype):
    built = build_linear_video(read_linear_video(saved), dtype=dtype)
    assert {p.dtype for p in built.parameters()} == {dtype} and built.dtype == dtype


def test_float8_weights_are_refused_for_computing_with_type_and_device(tmp_path, states):
    path = tmp_path / "fp8.safetensors"
    save_linear_video(path, SPEC, {name: t.to(torch.float8_e4m3fn) for name, t in states[0].items()})
    file = read_linear_video(path)
    with pytest.raises(ConfigError, match="float8_e4m3fn cannot be computed on cpu.*use bfloat16"):
        build_linear_video(file)
    assert build_linear_video(file, dtype=torch.float32).dtype == torch.float32


def test_injected_layers_are_the_ones_used(saved):
    class Counted(torch.nn.Linear):
        pass

    class operations(torch.nn.Module):
        Linear, Conv2d, RMSNorm = Counted, torch.nn.Conv2d, torch.nn.RMSNorm

    built = build_linear_video(read_linear_video(saved), operations=operations)
    assert isinstance(built.proj_out, Counted)


def test_first_five_missing_weights_are_named_and_the_rest_counted(tmp_path, states):
    names = sorted(states[0])[:9]
    kept = {name: tensor for name, tensor in states[0].items() if name not in names}
    text = refusal(write(tmp_path / "a.safetensors", kept, SPEC.to_metadata()))
    assert "9 weights missing" in text and "and 4 more" in text


def test_extra_weight_is_refused_by_name(tmp_path, states):
    tensors = {**states[0], "blocks.extra": torch.zeros(1)}
    text = refusal(write(tmp_path / "a.safetensors", tensors, SPEC.to_metadata()))
    assert "1 weights not known (blocks.extra)" in text


@pytest.mark.parametrize("shape", [(16, 200), (17, 200, 1, 1), (16, 200, 2, 2)], ids=str)
def test_shape_mismatch_names_the_weight_and_both_shapes(tmp_path, states, shape):
    tensors = {**states[0], "patch_embed.proj.weight": torch.zeros(shape)}
    text = refusal(write(tmp_path / "a.safetensors", tensors, SPEC.to_metadata()))
    assert f"patch_embed.proj.weight: {shape} here, (16, 200, 1, 1) needed" in text


def test_header_alone_decides_so_that_a_misfit_reads_no_data(tmp_path, states, monkeypatch):
    path = write(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, SPEC.to_metadata())
    monkeypatch.setattr(motion_model_file, "read_safetensors", lambda *_: pytest.fail("data was read"))
    refusal(path)


def test_whole_number_weights_and_nan_weights_are_refused_by_name(tmp_path, states):
    tensors = {**states[0], "proj_out.bias": torch.zeros(200, dtype=torch.int64)}
    assert "proj_out.bias" in refusal(write(tmp_path / "a.safetensors", tensors, SPEC.to_metadata()))
    tensors = {**states[0], "proj_out.bias": torch.full((200,), float("nan"))}
    assert "'proj_out.bias' holds NaN" in refusal(write(tmp_path / "b.safetensors", tensors, SPEC.to_metadata()))


def test_text_encoder_of_another_width_is_refused(tmp_path, states):
    text = {f"text_encoder.{name}": t for name, t in MotionTextEncoder(13, 6).state_dict().items()}
    assert "(words, 8) is needed" in refusal(
        write(tmp_path / "a.safetensors", {**states[0], **text}, SPEC.to_metadata())
    )


@pytest.mark.parametrize("version", ["2", "999999"])
def test_newer_format_is_refused_by_version(tmp_path, states, version):
    metadata = {**SPEC.to_metadata(), "format_version": version}
    assert f"made by format version {version}" in refusal(write(tmp_path / "a.safetensors", states[0], metadata))


@pytest.mark.parametrize("version", ["", "-1", "1.0", "9" * 5000, "one"])
def test_absurd_format_version_is_refused(tmp_path, states, version):
    metadata = {**SPEC.to_metadata(), "format_version": version}
    assert len(refusal(write(tmp_path / "a.safetensors", states[0], metadata))) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("config", "num_layers", 10**9),
        ("config", "num_layers", 2.0),
        ("config", "num_layers", True),
        ("config", "num_layers", None),
        ("config", "mlp_ratio", float("nan")),
        ("config", "mlp_ratio", float("inf")),
        ("config", "num_attention_heads", -1),
        ("config", "num_cross_attention_heads", 0),
        ("config", "temporal_form", "eval"),
        ("config", "surprise", 1),
        ("sampling", "shift", 0),
        ("sampling", "num_steps", "25"),
        ("sampling", "guidance_scale", float("nan")),
        ("latent", "kind", ["builtin"]),
        ("latent", "scale_factor", 0.0),
        ("dynamics", "num_buckets", 1),
        ("dynamics", "degree_max", float("nan")),
    ],
)
def test_hostile_config_value_is_refused_by_name(tmp_path, states, part, name, value):
    path = with_spec(tmp_path / "a.safetensors", states, lambda values: values[part].update({name: value}))
    text = refusal(path)
    assert name in text or part in text


@pytest.mark.parametrize("spec", ["", "{", "[]", "3", '{"surprise": 1}', '{"config": []}', "[" * 100_000, "9" * 5000])
def test_spec_that_is_not_our_json_is_refused(tmp_path, states, spec):
    refusal(write(tmp_path / "a.safetensors", states[0], {**SPEC.to_metadata(), "spec": spec}))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PKL"])
def test_pickled_checkpoint_is_refused_by_name_and_conversion_explained(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x02.")
    text = refusal(path)
    assert "pickle" in text and "convert" in text and ".safetensors" in text


def test_saving_weights_that_do_not_fit_or_are_not_finite_writes_nothing(tmp_path, states):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="weights missing"):
        save_linear_video(path, SPEC, {"proj_out.bias": states[0]["proj_out.bias"]})
    with pytest.raises(CheckpointError, match="NaN"):
        save_linear_video(path, SPEC, {**states[0], "proj_out.bias": torch.full((200,), float("nan"))})
    with pytest.raises(ConfigError, match="family"):
        save_linear_video(path, SPEC, *states, {"family": "x"})
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_published_layout_has_720_weights_and_its_config_comes_from_shapes():
    for preset in (LinearVideoSpec.paper_dcae(), LinearVideoSpec.ref_sdvae_p2()):
        shapes = network_shapes(preset.config)
        assert len(shapes) == 720
        assert config_from_shapes(shapes) == preset.config


@pytest.mark.parametrize("config", [
    LinearVideoDiTConfig(num_layers=20, num_attention_heads=70, num_cross_attention_heads=20, qk_norm=True),
    LinearVideoDiTConfig(num_layers=1, motion_buckets=0, mlp_ratio=3.0),
])  # fmt: skip
def test_config_of_other_sizes_comes_from_shapes(config):
    found = config_from_shapes(network_shapes(config))
    assert dataclasses.asdict(found) == dataclasses.asdict(config)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.", "ema.", "diffusion_model.", "model.diffusion_model.", "module."])
def test_layout_without_metadata_is_read_under_every_container_prefix(tmp_path, prefix):
    config = LinearVideoDiTConfig(num_layers=1, mlp_ratio=0.5)
    state = {name: torch.zeros(shape, dtype=torch.float8_e5m2) for name, shape in network_shapes(config).items()}
    file = read_linear_video(write(tmp_path / "a.safetensors", {prefix + name: t for name, t in state.items()}))
    assert file.spec == dataclasses.replace(LinearVideoSpec.paper_dcae(), config=config)
    assert file.state_dict.keys() == state.keys() and file.text_encoder is None


def test_ema_half_is_preferred_when_both_are_in_the_file():
    assert strip_containers(["model.a", "ema.a"]) == {"a": "ema.a"}
    assert strip_containers(["model.a", "other.b"]) == {"model.a": "model.a", "other.b": "other.b"}


@pytest.mark.parametrize(("heads", "channels", "words"), [(4, 32, "cross-attention heads"), (36, 16, "latent space")])
def test_what_shapes_cannot_tell_asks_for_metadata(tmp_path, heads, channels, words):
    config = LinearVideoDiTConfig(in_channels=channels, num_layers=1, num_attention_heads=heads, mlp_ratio=0.5,
                                  num_cross_attention_heads=2)  # fmt: skip
    state = {name: torch.zeros(s, dtype=torch.float8_e5m2) for name, s in network_shapes(config).items()}
    text = refusal(write(tmp_path / "a.safetensors", state))
    assert words in text and "metadata" in text


SANA = ["patch_embed.proj.weight", "caption_norm.weight", "transformer_blocks.0.ff.conv_inverted.weight"]
NVLABS = ["x_embedder.proj.weight", "t_block.1.weight", "blocks.0.mlp.inverted_conv.conv.weight"]
FOREIGN = {
    "Wan 2.1 or 2.2 video": ["patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.modulation"],
    "LoRA for Wan": ["diffusion_model.blocks.0.cross_attn.q.lora_A.weight"],
    "LoRA for Flux": ["transformer.single_transformer_blocks.0.attn.to_q.lora_down.weight"],
    "LoRA for Stable Diffusion XL": ["lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q.lora_up.weight"],
    "LoRA for a Stable Diffusion UNet": ["lora_unet_down_blocks_0_attentions_0.lora_down.weight", "x.alpha"],
    "LoRA for this pack": ["transformer_blocks.0.attn_temporal.to_q.lora_A.weight"],
    "SANA image model (diffusers": SANA,
    "SANA-Sprint": [*SANA, "time_embed.guidance_embedder.linear_1.weight"],
    "SANA image model (NVlabs": ["model.diffusion_model." + name for name in NVLABS],
    "SANA-Video model (NVlabs": [*NVLABS, "blocks.0.mlp.t_conv.weight"],
    "SANA-Video model (diffusers": ["patch_embedding.weight", "transformer_blocks.0.ff.conv_temp.weight"],
    "Stable Diffusion UNet": ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.output_blocks.0"],
    "Stable Diffusion XL UNet": ["input_blocks.0.0.weight", "label_emb.0.0.weight", "output_blocks.0.0.weight"],
    "whole Stable Diffusion XL": ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in",
                                  "conditioner.embedders.1.model.ln_final.weight"],
    "Stable Diffusion 3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "Flux image model": ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"],
    "LTX-Video": ["model.diffusion_model.patchify_proj.weight"],
    "Wan VAE": ["decoder.middle.0.residual.0.gamma", "encoder.downsamples.0.residual.0.gamma"],
    "a VAE": ["encoder.conv_in.weight", "decoder.conv_in.weight"],
    "T5 text encoder": ["encoder.block.0.layer.0.SelfAttention.q.weight"],
    "CLIP text encoder": ["text_model.encoder.layers.0.self_attn.q_proj.weight"],
    "language model": ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"],
    "ControlNet": ["control_model.input_blocks.0.0.weight"],
    "not a model known here": ["a", "b"],
}  # fmt: skip


@pytest.mark.parametrize("family", FOREIGN)
def test_foreign_file_is_named_with_what_is_needed_and_its_first_names(tmp_path, family):
    names = FOREIGN[family]
    text = refusal(write(tmp_path / "a.safetensors", {name: torch.zeros(1) for name in names}))
    assert family in text and "linear video model" in text and sorted(names)[0][:50] in text


def test_patch_of_five_axes_tells_sana_video_from_sana():
    names = NVLABS[:1] + NVLABS[2:]
    assert "SANA-Video" in detect_family(names, {NVLABS[0]: (8, 4, 1, 2, 2)})
    assert "SANA image" in detect_family(names, {NVLABS[0]: (8, 4, 2, 2)})


def test_what_a_file_says_it_is_comes_before_what_its_names_tell():
    shapes = {"patch_embedding.weight": (8, 16, 1, 2, 2), "blocks.0.self_attn.q.weight": (8, 8)}
    said = {"family": LINEAR_VIDEO.name}
    assert weights_family(shapes, {}) == "a Wan 2.1 or 2.2 video model"
    assert weights_family(shapes, said) == LINEAR_VIDEO.name


def test_header_is_enough_to_describe_a_file(saved, tmp_path):
    family, spec, metadata = describe_linear_video(saved)
    assert (family, spec, metadata["recipe"]) == ("linear_video_dit", SPEC, "seed 0")
    other = write(tmp_path / "o.safetensors", {"input_blocks.0": torch.zeros(1), "output_blocks.0": torch.zeros(1)})
    assert describe_linear_video(other)[:2] == ("a Stable Diffusion UNet", None)


def test_bundle_puts_network_words_and_codec_together(saved):
    model = bundle(read_linear_video(saved), dtype=torch.bfloat16)
    assert model.dit.dtype == torch.bfloat16 and model.text_encoder.embedding.weight.dtype == torch.float32
    assert model.codec.working_size == 64 and model.text_encoder.vocabulary_size == model.vocabulary.size


def test_model_made_with_other_motions_or_for_another_vae_is_refused(tmp_path, states):
    path = tmp_path / "a.safetensors"
    save_linear_video(path, SPEC, states[0], MotionTextEncoder(5, 8).state_dict())
    with pytest.raises(CheckpointError, match="made with 4 motions"):
        bundle(read_linear_video(path))
    save_linear_video(path, SPEC, states[0])
    with pytest.raises(CheckpointError, match="no text encoder"):
        bundle(read_linear_video(path))


def test_unknown_builtin_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="motionblocks-tiny"):
        builtin_path("../secret")
    assert all(builtin_path(name).parent == builtin_names.WEIGHTS for name in BUILTIN_NAMES)
