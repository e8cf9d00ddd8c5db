"""VAE files told apart by their headers: what is taken, under which names, and what is refused with the way out."""

import json

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.vaes import ltx2_names as ltx2_vae_names
from pack.motion.io.vaes import wan_names as wan_vae_names
from pack.motion.io.vaes.dcae import SANA, dcae_network
from pack.motion.io.vaes.recognise import open_vae
from safetensors.torch import save_file

NAME = "diffusion_pytorch_model.safetensors"
PUBLIC = {  # the config.json that lies in vae/ of the published SANA folders
    "_class_name": "AutoencoderDC", "_diffusers_version": "0.32.0", "attention_head_dim": 32, "decoder_act_fns": "silu",
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3, "decoder_layers_per_block": [3] * 6,
    "decoder_norm_types": "rms_norm", "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "Conv", "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "in_channels": 3, "latent_channels": 32, "scaling_factor": 0.41407, "upsample_block_type": "interpolate",
}  # fmt: skip
DCAE = {"encoder.down_blocks.3.0.attn.to_qkv_multiscale.0.proj_in.weight": (2, 1, 5, 5)}
WAN = {"decoder.mid_block.resnets.0.norm1.gamma": (8, 1, 1, 1), "post_quant_conv.weight": (16, 16, 1, 1, 1),
       "decoder.norm_out.gamma": (8, 1, 1, 1)}  # fmt: skip
LTX2 = {"latents_mean": (128,), "latents_std": (128,)}


@pytest.fixture
def folder(tmp_path):
    """Make a VAE folder of these shapes and config: folder(shapes, config) -> Path."""

    def make(shapes, config=None, name=NAME):
        path = tmp_path / "vae"
        path.mkdir(exist_ok=True)
        save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path / name)
        if config is not None:
            (path / "config.json").write_text(json.dumps(config))
        return path

    return make


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_vae(path)
    text = str(caught.value)
    assert "docs/models.md" in text and text.count("docs/models.md") == 1, text
    return text


def names_of(network):
    with torch.device("meta"):
        return list(network().state_dict())


def test_published_config_gives_the_network_that_is_assumed_without_one(folder):
    file = open_vae(folder(DCAE, PUBLIC))
    assert file.space.kind == "dcae" and file.source.row == "DC-AE"
    assert file.config == dcae_network(None, "x") and "scaling_factor" not in file.config
    assert SANA["scaling_factor"] == 0.41407


@pytest.mark.slow  # importing diffusers
@pytest.mark.parametrize("kind, network, back", [
    (wan_vae_names, "AutoencoderKLWan", "convert_wan_vae_to_diffusers"),
    (ltx2_vae_names, "AutoencoderKLLTX2Video", "convert_ltx2_vae_to_diffusers"),
])  # fmt: skip
def test_names_go_back_to_diffusers_through_its_own_converter(kind, network, back):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders import single_file_utils

    names = names_of(getattr(diffusers, network))
    ours = kind.host_names(names)
    assert list(ours.values()) == names
    theirs = getattr(single_file_utils, back)({name: diffusers_name for name, diffusers_name in ours.items()})
    assert all(name == value for name, value in theirs.items()) and theirs.keys() == set(names)


@pytest.mark.parametrize("prefix", ["", "vae.", "model.", "first_stage_model."])
def test_host_names_are_taken_as_they_are_with_any_prefix(folder, prefix):
    shapes = {"decoder.middle.0.residual.0.gamma": (8, 1, 1, 1), "conv2.weight": (16, 16, 1, 1, 1),
              "decoder.head.0.gamma": (96, 1, 1, 1)}  # fmt: skip
    file = open_vae(folder({prefix + name: shape for name, shape in shapes.items()}) / NAME)
    assert file.space.kind == "wan21" and file.shapes == shapes and file.config == {"dim": 96}
    assert file.read().keys() == shapes.keys()


def test_svd_vae_gets_the_shapes_of_the_host_and_its_last_convolution_folded(folder):
    shapes = {"encoder.mid_block.attentions.0.to_q.weight": (64, 64), "encoder.conv_out.weight": (8, 64, 3, 3),
              "encoder.conv_out.bias": (8,), "quant_conv.weight": (8, 8, 1, 1), "quant_conv.bias": (8,),
              "decoder.up_blocks.0.resnets.1.temporal_res_block.conv2.weight": (64, 64, 3, 1, 1)}  # fmt: skip
    file = open_vae(folder(shapes, {"_class_name": "AutoencoderKLTemporalDecoder"}))
    assert file.space.kind == "svd" and file.config == {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    assert file.shapes == {
        "encoder.mid.attn_1.q.weight": (64, 64, 1, 1), "encoder.conv_out.weight": (8, 64, 3, 3),
        "encoder.conv_out.bias": (8,), "decoder.up.3.block.1.time_stack.out_layers.3.weight": (64, 64, 3, 1, 1),
    }  # fmt: skip
    assert file.read().keys() == file.shapes.keys()


@pytest.mark.parametrize("change, words", [
    ({"latent_channels": 16}, "4 is needed"), ({"block_out_channels": [128, 256]}, "4 are needed"),
    ({"layers_per_block": 1}, "2 is needed"), ({"scaling_factor": 1.0}, "0.18215 is needed"),
])  # fmt: skip
def test_svd_configs_that_are_not_svds_are_refused(folder, change, words):
    assert words in refusal(folder({"decoder.x.temporal_res_block.y": (1,)}, change))


def test_ltx2_config_of_diffusers_becomes_the_hosts(folder):
    said = {"_class_name": "AutoencoderKLLTX2Video", "layers_per_block": [4, 6, 6, 2, 2], "decoder_causal": False}
    file = open_vae(folder(LTX2, said))
    assert file.shapes == {f"per_channel_statistics.{name}-of-means": (128,) for name in ("mean", "std")}
    assert [kind for kind, _ in file.config["encoder_blocks"]] == [
        "res_x", "compress_space_res", "res_x", "compress_time_res", "res_x", "compress_all_res", "res_x",
        "compress_all_res", "res_x",
    ]  # fmt: skip
    assert [values["num_layers"] for kind, values in file.config["encoder_blocks"][::2]] == [4, 6, 6, 2, 2]
    assert not file.config["causal_decoder"] and not file.config["timestep_conditioning"]
    assert open_vae(folder(LTX2)).config == file.config  # a bare file is taken for LTX-2.0's


def test_ltx2_of_the_host_brings_its_own_config(folder):
    shapes = {"per_channel_statistics.mean-of-means": (128,), ltx2_vae_names.ENCODER_END: (129, 1024, 1, 1, 1)}
    path = folder(shapes)
    own = {"vae": {"latent_channels": 128, "blocks": []}}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path / NAME, {"config": json.dumps(own)})
    assert open_vae(path / NAME).config == own["vae"]


@pytest.mark.parametrize("blocks, words", [
    ([["res_x", {"num_layers": 10**9}]], "'num_layers': 1000000000; no more than 64 are possible"),
    ([["res_x", {"num_layers": 4}]] * 65, "'encoder_blocks': 65 entries; no more than 64"),
    ([["compress_all_res", {"multiplier": 1e12}]], "'multiplier': 1000000000000.0; no more than 65536"),
])  # fmt: skip
def test_a_config_of_sizes_that_never_end_is_refused_before_a_network_is_built(folder, blocks, words):
    shapes = {"per_channel_statistics.mean-of-means": (128,), ltx2_vae_names.ENCODER_END: (129, 1024, 1, 1, 1)}
    path = folder(shapes)
    own = {"vae": {"latent_channels": 128, "encoder_blocks": blocks}}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path / NAME, {"config": json.dumps(own)})
    with pytest.raises(CheckpointError, match=words):
        open_vae(path / NAME)


def others():
    """(name, shapes, config, words of the message) of what this loader does not take."""
    wide = {"decoder.mid_block.resnets.0.norm1.gamma": (8,), "post_quant_conv.weight": (48, 48, 1, 1, 1)}
    yield "its makers' names", {"encoder.stages.0.x": (1,), "decoder.stages.0.y": (1,)}, None, "ends in -diffusers"
    yield "Wan 2.2", wide, None, "48 latent channels, most likely Wan 2.2's; the Wan 2.1 VAE, with 16, is needed"
    yield "Qwen-Image", WAN, {"_class_name": "AutoencoderKLQwenImage"}, "AutoencoderKLQwenImage of diffusers"
    yield "no decoder", {name: WAN[name] for name in list(WAN)[:2]}, None, "no decoder.head.0.gamma"
    yield "LTX-Video", LTX2 | {"decoder.time_embedder.x": (1,)}, None, "LTX-2.0's is needed"
    first = {"per_channel_statistics.mean-of-means": (128,), ltx2_vae_names.ENCODER_END: (129, 512, 1, 1, 1)}
    yield "first LTX-Video", first, None, "the VAE of LTX-Video, whose encoder ends 512 wide"
    yield "half an LTX-2", {"per_channel_statistics.mean-of-means": (128,)}, None, "no encoder; LTX-2.0's"
    yield "LTX-2.4", {"per_channel_statistics.mean-of-means": (128,), "decoder.conv_in_x_t.weight": (1,)}, None, "later"
    yield "SD", {"encoder.conv_in.weight": (1,), "decoder.conv_in.weight": (1,)}, None, "use the core node Load VAE"
    yield "a network", {"patch_embed.proj.weight": (1,), "x.ff.conv_inverted.weight": (1,)}, None, "a SANA image model"
    yield "a text encoder", {"self_attn.q_proj.weight": (1,), "embed_tokens.weight": (1,)}, None, "choose the VAE"
    yield "unknown", {"a": (1,)}, None, "no VAE is known with these tensor names"


@pytest.mark.parametrize("shapes, config, words", [row[1:] for row in others()], ids=[row[0] for row in others()])
def test_other_files_are_refused_by_name(folder, shapes, config, words):
    assert words in refusal(folder(shapes, config))


@pytest.mark.parametrize("change, words", [
    ({"scaling_factor": 0.3189}, "0.41407, SANA's latent space, is needed"),
    ({"latent_channels": 128}, "32 (f32c32) is needed"),
    ({"encoder_out_shortcut": False}, "True is all that ComfyUI's DC-AE has"),
    ({"decoder_conv_act_fn": "silu"}, "relu is all that ComfyUI's DC-AE has"),
    ({"encoder_block_out_channels": [128, 256]}, "a list of 6 (f32)"),
    ({"decoder_layers_per_block": [3, 3, 3, 3, 3, 10**9]}, "numbers from 0 to 64"),
    ({"decoder_block_types": "Mystery"}, "6 of ResBlock, EfficientViTBlock"),
    ({"decoder_norm_types": ["rms_norm"] * 5}, "6 of rms_norm"),
    ({"attention_head_dim": True}, "a number from 1 to 1024"),
    ({"upsample_block_type": "magic"}, "interpolate or pixel_shuffle"),
    ({"encoder_qkv_multiscales": [[], [], [], [4], [5], [5]]}, "lists of odd sizes"),
    ({"use_magic": 1}, "sets 'use_magic', which is not known here"),
])  # fmt: skip
def test_dcae_configs_that_the_host_cannot_compute_are_refused(folder, change, words):
    assert words in refusal(folder(DCAE, PUBLIC | change))


@pytest.mark.parametrize("change, words", [
    ({"block_out_channels": [64] * 4}, "as LTX-2.0 has it"), ({"timestep_conditioning": True}, "False is needed"),
    ({"layers_per_block": [1, 2]}, "5 numbers up to 64"), ({"decoder_layers_per_block": [5, 5, 5, 0]}, "at least 1"),
    ({"encoder_spatial_padding_mode": "reflect"}, "zeros is needed"),
])  # fmt: skip
def test_ltx2_configs_that_the_host_cannot_compute_are_refused(folder, change, words):
    assert words in refusal(folder(LTX2, {"_class_name": "AutoencoderKLLTX2Video"} | change))


def test_broken_downloads_are_refused_with_their_row(folder, tmp_path):
    path = folder(DCAE, PUBLIC)
    weights = path / NAME
    whole = weights.read_bytes()
    for content, words in [
        (whole[:-7], "cut off: "), (b"<!DOCTYPE html><html>", "an HTML page"), (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer"),
    ]:  # fmt: skip
        weights.write_bytes(content)
        assert words in refusal(path)
    weights.rename(path / f"{NAME}.incomplete")
    assert "a download that did not end" in refusal(path)
    index = {"weight_map": {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}}
    (path / "x.safetensors.index.json").write_text(json.dumps(index))
    assert "2 of 2 files that it names are missing" in refusal(path)
    (path / "x.safetensors.index.json").unlink()
    (path / "x.bin").write_bytes(b"\x80\x02")
    (path / f"{NAME}.incomplete").unlink()
    assert "only pickled weights" in refusal(path)


def test_missing_and_misshapen_weights_are_named_with_the_row(folder):
    file = open_vae(folder(WAN))
    with pytest.raises(CheckpointError, match="1 weights missing \\(x\\).*docs/models.md, Wan 2.1 VAE"):
        file.check_shapes(file.shapes | {"x": (1,)})
    with pytest.raises(CheckpointError, match="of another shape"):
        file.check_shapes(file.shapes | {"decoder.head.0.gamma": (96, 1, 1, 1)})
    file.check_shapes(file.shapes | {"statistics": (1,)}, unread=("statistics",))


def test_part_of_a_whole_diffusers_folder_is_found(folder, tmp_path):
    folder(DCAE, PUBLIC)
    (tmp_path / "model_index.json").write_text("{}")
    assert open_vae(tmp_path).space.kind == "dcae"
