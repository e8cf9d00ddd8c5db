"""Wan files and the host: its network has our names and shapes, it loads what we convert, scales mean the same."""

import sys
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.io.networks.wan import convert_wan, open_wan
from pack.motion.io.networks.wan_names import wan_shapes
from pack.motion.models.wan.config import PUBLISHED
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
import wan_files  # noqa: E402

WIDE = {name: replace(config, caption_channels=4096) for name, config in wan_files.CONFIGS.items()}  # the host's
FORMS = ("older", "newer", "metadata") if hasattr(comfy.ops, "mixed_precision_ops") else ("older",)
ALL = {**PUBLISHED, **{f"tiny {name}": config for name, config in wan_files.CONFIGS.items()}}


@pytest.mark.parametrize("name", ALL)
def test_names_and_shapes_are_those_of_the_hosts_network(name):
    config = ALL[name]
    network = WanModel(
        "i2v" if config.image_tokens else "t2v", in_dim=16 + config.concat_channels, dim=config.width,
        ffn_dim=config.hidden_width, text_dim=config.caption_channels, num_heads=config.num_attention_heads,
        num_layers=config.num_layers, flf_pos_embed_token_number=config.position_tokens or None,
        device="meta", dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert found == wan_shapes(config)


def loaded(path):
    with torch.inference_mode(False):
        patcher = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    assert type(patcher.model.diffusion_model) is WanModel
    return patcher.model.diffusion_model


@pytest.mark.parametrize("name", WIDE)
def test_the_host_loads_what_was_converted_of_a_diffusers_folder_bit_for_bit(tmp_path, name):
    config = WIDE[name]
    state = wan_files.tiny_wan_state(config)
    folder = tmp_path / "wan" / "transformer"
    wan_files.shards_of(folder, wan_files.as_diffusers(config, state), wan_files.diffusers_config(config))
    convert_wan(folder, tmp_path / "out.safetensors")
    network = loaded(tmp_path / "out.safetensors")
    found = network.state_dict()
    assert set(found) == set(state) and all(torch.equal(found[key].float(), state[key]) for key in state)


def meant(layer, dtype):
    """The numbers that a layer of the host multiplies by."""
    scale = getattr(layer, "scale_weight", None)  # of older hosts; newer ones have tensors that know theirs
    if scale is not None:
        return layer.weight.to(dtype) * scale.to(dtype)
    return layer.weight.dequantize().to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["as it was", "converted"])
def test_the_host_means_the_numbers_that_we_read_in_scaled_files(tmp_path, form, way):
    tensors, metadata, _ = wan_files.scaled(wan_files.tiny_wan_state(WIDE["T2V"]), form)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata)
    ours = open_wan(path).state_dict(torch.float32)
    if way == "converted":
        convert_wan(path, tmp_path / "b.safetensors")
        path = tmp_path / "b.safetensors"
    patcher = comfy.sd.load_diffusion_model(str(path))
    network, count = patcher.model.diffusion_model, 0
    for name, value in ours.items():
        layer, _, leaf = name.rpartition(".")
        if name in open_wan(path).layout.scales.scales:
            found, count = meant(network.get_submodule(layer), torch.float32).detach(), count + 1
            torch.testing.assert_close(found, value, rtol=2**-7, atol=0)  # the host may keep them in bfloat16
    assert count == 20
