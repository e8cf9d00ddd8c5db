"""MIVA adapters on disk: what was saved acts as before, and files of other things are refused with a way out."""

import json
from dataclasses import replace

import pytest
import torch
from lora_toys import call
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import CheckpointError
from pack.motion.io.adapters.adapter_file import load_adapter, read_adapter, save_adapter
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS
from training_toys import tiny_dit, tiny_spec


def drawn(dit, **settings):
    adapter = MIVA(dit, MIVAConfig(rank=2, **settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in adapter.parameters().values():
            value.copy_(torch.randn(value.shape, generator=generator) / 2)
    return adapter


def stacked(dit, adapter):
    with AdapterStack((StackEntry(adapter),)).during(dit):
        return call(dit)


@pytest.mark.parametrize("settings", [{}, {"mode": "joint", "tau": 1.0, "alpha": 3.0}, {"parts": ("cfa", "ca")}])
def test_what_was_saved_acts_as_before(tmp_path, settings):
    dit = tiny_dit(tiny_spec())
    adapter, path = drawn(dit, **settings), tmp_path / "sway.safetensors"
    save_adapter(path, adapter, {"motion": "sway"})
    found = read_adapter(path)
    assert found.kind == "miva" and found.config == adapter.config and found.metadata["motion"] == "sway"
    again = load_adapter(path, tiny_dit(tiny_spec()))
    assert torch.equal(stacked(dit, again), stacked(dit, adapter))
    assert not torch.equal(stacked(dit, adapter), call(dit))


def test_an_adapter_of_another_network_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "sway.safetensors"
    save_adapter(path, drawn(tiny_dit(tiny_spec())))
    other = tiny_spec()
    object.__setattr__(other, "config", type(other.config).from_dict({**other.config.to_dict(), "num_layers": 3}))
    with pytest.raises(CheckpointError, match="num_layers is '2'; here it is '3'; use it with its own model"):
        load_adapter(path, tiny_dit(other))


@pytest.mark.parametrize(
    "metadata",
    [{}, {"adapter_config": "[]"}, {"adapter_config": '{"rank": "many"}'}, {"adapter_config": '{"mode": "both"}'},
     {"adapter_config": '{"parts": 3}'}, {"network": "[]"}],
)  # fmt: skip
def test_settings_that_cannot_be_read_are_refused_with_a_way_out(tmp_path, metadata):
    path, dit = tmp_path / "sway.safetensors", tiny_dit(tiny_spec())
    save_adapter(path, drawn(dit))
    tensors, before = read_safetensors(path)
    kept = {"family": "miva", "format_version": "1", **({**before, **metadata} if metadata else {})}
    write_safetensors(path, tensors, kept)
    with pytest.raises(CheckpointError, match="get the file again, or train it anew"):
        load_adapter(path, dit)


def test_a_file_with_a_part_missing_is_refused_by_name(tmp_path):
    path, dit = tmp_path / "sway.safetensors", tiny_dit(tiny_spec())
    save_adapter(path, drawn(dit))
    tensors, metadata = read_safetensors(path)
    del tensors["blocks.1.ca.up"]
    write_safetensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="1 tensors are missing.*blocks.1.ca.up"):
        load_adapter(path, dit)


def test_the_metadata_tells_the_network_in_plain_json(tmp_path):
    path = tmp_path / "sway.safetensors"
    save_adapter(path, drawn(tiny_dit(tiny_spec())))
    network = json.loads(read_safetensors(path)[1]["network"])
    assert network == {"architecture": "linear_video_dit", "width": 16, "num_layers": 2, "num_attention_heads": 2}


def wan_adapter(folder, concat_channels=0):
    dit = WanDiT(replace(VARIANTS["text"], in_channels=16, concat_channels=concat_channels))
    path = folder / f"{concat_channels}.safetensors"
    save_adapter(path, MIVA(dit, MIVAConfig(rank=2)))
    return dit, path


def test_adapters_of_text_to_video_and_of_image_to_video_are_not_mixed(tmp_path):
    """Of Wan 14B both have the same sizes inside."""
    (text, of_text), (image, of_image) = wan_adapter(tmp_path), wan_adapter(tmp_path, 20)
    assert read_safetensors(of_text)[1]["first_frame"] == "clean_same_t"
    assert "first_frame" not in read_safetensors(of_image)[1]
    assert load_adapter(of_text, text) and load_adapter(of_image, image)
    with pytest.raises(CheckpointError, match="made for Wan text to video .* is a model that reads the start"):
        load_adapter(of_text, image)
    with pytest.raises(CheckpointError, match="made for a model that reads the start .* is Wan text to video .16 chan"):
        load_adapter(of_image, text)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_file_may_be_kept_in_fewer_bits_and_acts_the_same_to_their_rounding(tmp_path, dtype):
    dit = tiny_dit(tiny_spec())
    adapter, path = drawn(dit), tmp_path / "sway.safetensors"
    save_adapter(path, adapter, dtype=dtype)
    tensors, _ = read_safetensors(path)
    assert {value.dtype for value in tensors.values()} == {dtype}
    again = load_adapter(path, dit)
    assert all(value.dtype == torch.float32 for value in again.parameters().values())
    acts, difference = stacked(dit, adapter) - call(dit), stacked(dit, again) - stacked(dit, adapter)
    assert difference.norm() <= 8 * torch.finfo(dtype).eps * acts.norm()
    assert (difference.norm() == 0) == (dtype == torch.float32)


def test_what_fp16_cannot_hold_is_refused_with_its_tensor(tmp_path):
    adapter, path = drawn(tiny_dit(tiny_spec())), tmp_path / "sway.safetensors"
    with torch.no_grad():
        adapter.parameters()["blocks.1.ca.up"][0, 0] = -7e4
    with pytest.raises(CheckpointError, match="blocks.1.ca.up.* reaches 7e.04, more than torch.float16 .*as bf16"):
        save_adapter(path, adapter, dtype=torch.float16)
    assert not path.exists()
    save_adapter(path, adapter, dtype=torch.bfloat16)
