"""Our Wan out of a file: each weight in its place and type, and the numbers that fp8 means."""

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.io.networks.wan import open_wan
from pack.motion.io.networks.wan_build import build_wan
from pack.motion.models.wan.network import WanDiT
from safetensors.torch import save_file
from wan_files import CONFIGS, T2V, as_diffusers, diffusers_config, scaled, shards_of, tiny_wan_state


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_shards_fills_the_network_with_the_same_bits(tmp_path, name):
    config, seen = CONFIGS[name], []
    state = tiny_wan_state(config)
    folder = shards_of(tmp_path / "transformer", as_diffusers(config, state), diffusers_config(config))
    network = build_wan(open_wan(folder), on_bytes=seen.append)
    found = network.state_dict()
    assert set(found) == set(state) and all(torch.equal(found[key], state[key]) for key in state)
    assert sum(seen) == sum(value.nbytes for value in state.values())
    assert not network.training and not any(value.requires_grad for value in network.parameters())
    assert set(WanDiT(config, device="meta").state_dict()) == set(state)


@pytest.mark.parametrize("form", ["plain", "older", "newer"])
def test_fp8_becomes_bfloat16_with_its_scales_and_the_patch_embedding_stays_wide(tmp_path, form):
    state = tiny_wan_state()
    if form == "plain":
        narrow = {name: value.to(torch.float8_e4m3fn) for name, value in state.items()}
        tensors, metadata, truth = narrow, {}, {name: value.double() for name, value in narrow.items()}
    else:
        tensors, metadata, truth = scaled(state, form)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    found = build_wan(open_wan(tmp_path / "a.safetensors")).state_dict()
    for name, value in found.items():
        wide = name.startswith("patch_embedding")
        assert value.dtype == (torch.float32 if wide else torch.bfloat16), name
        torch.testing.assert_close(value.double(), truth[name], rtol=2**-8, atol=1e-30)
        if wide:
            assert torch.equal(value.double(), truth[name])


def test_the_type_may_be_chosen_and_one_that_cannot_be_computed_in_is_refused(tmp_path):
    state = tiny_wan_state(dtype=torch.bfloat16)
    save_file(state, tmp_path / "a.safetensors")
    opened = open_wan(tmp_path / "a.safetensors")
    assert build_wan(opened).blocks[0].ffn[0].weight.dtype == torch.bfloat16
    wide = build_wan(opened, dtype=torch.float32)
    assert torch.equal(wide.blocks[1].ffn[2].weight, state["blocks.1.ffn.2.weight"].float())
    with pytest.raises(ConfigError, match="float8_e4m3fn cannot be computed on cpu; use bfloat16 or float32"):
        build_wan(opened, dtype=torch.float8_e4m3fn)
    assert wide.config == T2V
