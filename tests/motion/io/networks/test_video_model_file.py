"""Any weights that the loader takes: told apart by headers, checked before they are read, described in words."""

import dataclasses
import json
import math
import struct

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.networks.linear_video import save_linear_video
from pack.motion.io.networks.sana_layouts import sana_shapes, to_nvlabs_names
from pack.motion.io.networks.video_model import open_video_model, read_video_model, row_by_name
from pack.motion.io.networks.video_model_file import describe
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec
from pack.motion.models.sana_video.dims import SanaDims
from pack.motion.models.sana_video.network import SanaVideoDiT
from pack.motion.models.sana_video.spec import SanaVideoSpec, sana_video_spec
from safetensors.torch import save_file

PUBLISHED = SanaDims(
    family="sana_video", in_channels=16, patch_size=(1, 2, 2), num_layers=20, num_attention_heads=20,
    attention_head_dim=112, num_cross_attention_heads=20, hidden_width=6720, qk_norm=True,
)  # fmt: skip
TINY = SanaDims(
    family="sana_video", in_channels=16, patch_size=(1, 2, 2), num_layers=1, num_attention_heads=2,
    attention_head_dim=14, num_cross_attention_heads=2, caption_channels=6, hidden_width=84, qk_norm=True,
)  # fmt: skip
CONFIG = {"_class_name": "SanaVideoTransformer3DModel", "num_attention_heads": 2, "attention_head_dim": 14,
          "num_cross_attention_heads": 2}  # fmt: skip


def tiny_state(dims=TINY):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw) for name, shape in sana_shapes(dims).items()}


def saved(path, state, config=CONFIG):
    save_file({name: value.contiguous() for name, value in state.items()}, path, {"config": json.dumps(config)})
    return path


def test_sizes_of_the_published_weights_give_the_published_network_and_sampling():
    spec = sana_video_spec(PUBLISHED)
    assert spec == SanaVideoSpec() and spec.space.kind == "wan21" and spec.row == "SANA-Video 480p"
    state = SanaVideoDiT(spec.config, device="meta").state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == sana_shapes(PUBLISHED)
    assert sum(value.numel() for value in state.values()) == 2_056_862_144
    sampling = spec.sampling
    assert (sampling.shift, sampling.num_steps, sampling.guidance_scale) == (8.0, 50, 6.0)
    assert (sampling.num_frames, sampling.fps, sampling.integer_timesteps) == (81, 16.0, True)


@pytest.mark.parametrize("naming", ["diffusers", "nvlabs"])
@pytest.mark.parametrize("kind, row", [("480p", "SANA-Video 480p"), ("720p", "SANA-Video 720p"), ("0.6b", "SANA 0.6B"),
                                       ("1.6b", "SANA 1.6B"), ("1.5", "SANA-1.5")])  # fmt: skip
def test_published_sizes_are_recognised_without_a_config_in_both_namings(tmp_path, naming, kind, row):
    """Files of full size, without the bytes: the header is real, the rest a hole in the file."""
    image = dict(num_layers=20, num_attention_heads=70, num_cross_attention_heads=20, hidden_width=5600)
    dims = {
        "480p": PUBLISHED, "720p": dataclasses.replace(PUBLISHED, in_channels=128, patch_size=(1, 1, 1)),
        "0.6b": SanaDims(), "1.6b": SanaDims(**image), "1.5": SanaDims(**image, qk_norm=True),
    }[kind]  # fmt: skip
    entries, end = {}, 0
    for name, shape in sana_shapes(dims, naming).items():
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    path = tmp_path / "weights.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    opened = open_video_model(path)
    assert opened.row == row and opened.layout.dims == dims and opened.num_bytes == end


@pytest.mark.parametrize("hidden", [83, 84, 100, 447])
def test_every_hidden_width_survives_the_way_through_a_ratio(hidden):
    assert sana_video_spec(dataclasses.replace(TINY, hidden_width=hidden)).config.hidden_width == hidden


@pytest.mark.parametrize("change, words", [
    ({"in_channels": 17}, "17 latent channels and patch 2: no VAE"), ({"patch_size": (2, 2, 2)}, "patches of 2 latent"),
    ({"family": "sana"}, "SANA image model"),
])  # fmt: skip
def test_sizes_that_nothing_decodes_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        sana_video_spec(dataclasses.replace(TINY, **change))


def test_diffusers_and_nvlabs_names_give_the_same_weights_of_ours(tmp_path):
    state = tiny_state()
    files = [saved(tmp_path / "a.safetensors", state), saved(tmp_path / "b.safetensors", to_nvlabs_names(TINY, state))]
    one, two = (read_video_model(path) for path in files)
    assert one.spec == two.spec and "diffusers" in one.title and "NVlabs" in two.title
    for file in (one, two):
        assert all(torch.equal(file.state_dict[name], value) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["ema.", "model.diffusion_model.", "module."])
def test_prefixes_of_training_tools_are_stripped(tmp_path, prefix):
    state = tiny_state()
    path = saved(tmp_path / "a.safetensors", {prefix + name: value for name, value in state.items()})
    assert read_video_model(path).state_dict.keys() == state.keys()


def test_everything_is_refused_by_headers_before_a_tensor_is_read(tmp_path, monkeypatch):
    from pack.motion.io.files import weight_folder

    monkeypatch.setattr(weight_folder, "read_safetensors", lambda *given, **more: pytest.fail("read"))
    state = tiny_state()
    open_video_model(saved(tmp_path / "good.safetensors", state))
    state.pop("caption_norm.weight")
    with pytest.raises(CheckpointError, match="caption_norm.weight"):
        open_video_model(saved(tmp_path / "bad.safetensors", state))
    with pytest.raises(CheckpointError, match="17 latent channels"):
        wide = tiny_state() | {"patch_embedding.weight": torch.zeros(28, 17, 1, 2, 2),
                               "proj_out.weight": torch.zeros(68, 28), "proj_out.bias": torch.zeros(68)}  # fmt: skip
        open_video_model(saved(tmp_path / "odd.safetensors", wide))


def test_whole_numbers_in_place_of_weights_are_refused(tmp_path):
    state = tiny_state() | {"caption_norm.weight": torch.ones(28, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match="caption_norm.weight.*int8; floating point"):
        read_video_model(saved(tmp_path / "a.safetensors", state))


def test_models_of_our_own_are_read_as_before_and_described(tmp_path):
    config = LinearVideoDiTConfig(
        in_channels=32, num_layers=1, num_attention_heads=1, num_cross_attention_heads=1, caption_channels=6
    )
    spec, path = LinearVideoSpec(config=config), tmp_path / "ours.safetensors"
    state = LinearVideoDiT(config).state_dict()
    save_linear_video(path, spec, state)
    file = read_video_model(path)
    assert file.spec == spec and all(torch.equal(file.state_dict[name], value) for name, value in state.items())
    text = describe(file)
    assert "linear video model (saved by MotionBlocks, i2v_residual)" in text and "DC-AE f32c32 (row DC-AE)" in text
    assert "any number of frames" in text and "25 steps, cfg 5.5" in text


def test_description_names_parameters_vae_text_encoder_and_defaults(tmp_path):
    text = describe(read_video_model(saved(tmp_path / "a.safetensors", tiny_state())))
    count = sum(value.numel() for value in tiny_state().values())
    for words in (f"{count:,} parameters", "1 blocks 28 wide", "Wan 2.1 VAE", "4k+1 frames", "Gemma-2", "shift 8"):
        assert words in text, text


@pytest.mark.parametrize("state, words", [
    ({"blocks.0.cross_attn.q.lora_A.weight": (4, 4)}, "a LoRA for Wan"),
    ({"double_blocks.0.a": (4,), "single_blocks.0.a": (4,)}, "a Flux image model"),
    ({"decoder.conv_in.weight": (4,), "encoder.conv_in.weight": (4,)}, "a VAE"),
    ({"what": (4,)}, "not a model known here"),
    ({"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 4)}, "a LoRA"),
])  # fmt: skip
def test_other_families_are_refused_by_name_with_what_is_needed(tmp_path, state, words):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in state.items()}, path)
    with pytest.raises(CheckpointError, match=f"(?s){words}.*SANA-Video.*docs/models.md, table Networks"):
        open_video_model(path)


@pytest.mark.parametrize("name, row", [
    ("diffusion_models/SANA-Video_2B_480p_diffusers", "SANA-Video 480p"),
    ("SANA-Video_2B_480p_diffusers/transformer", "SANA-Video 480p"),
    ("x/SANA_Video_2B_720p_LTXVAE.safetensors", "SANA-Video 720p"), ("x/SANA1.5_1.6B_1024px_diffusers", "SANA-1.5"),
    ("x/Sana_600M_512px_diffusers", "SANA 0.6B"), ("x/Sana_1600M_1024px_diffusers", "SANA 1.6B"),
    ("x/my_video_model.safetensors", "table Networks"),
])  # fmt: skip
def test_broken_files_point_to_the_row_that_their_name_tells(name, row):
    assert row_by_name(name) == row


def test_latent_space_of_a_file_carries_its_own_channels_and_cells():
    space = LinearVideoSpec(latent=LatentSpec(kind="dcae")).space
    assert (space.kind, space.channels, space.multiple) == ("dcae", 32, 32)
    assert LinearVideoSpec.ref_sdvae_p2().space.multiple == 16
