"""A Wan file as a base to train beside: types and places of its weights, its numbers, what is held while it is read."""

import gc
import weakref

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.networks.frozen_wan import frozen_wan
from pack.motion.io.networks.wan import open_wan
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from safetensors.torch import save_file
from wan_files import CONFIGS, QUANTISED, T2V, as_diffusers, scaled, tiny_wan_state

FP8 = torch.float8_e4m3fn
STORED = ("plain fp8", "older", "newer", "metadata")


def written(path, how, config=T2V):
    """(opened file, the numbers that it means in float64)."""
    state = {name: value / value[0].numel() ** 0.5 for name, value in tiny_wan_state(config).items()}
    if how in ("older", "newer", "metadata"):
        tensors, metadata, truth = scaled(state, how)
    else:
        narrow = {"plain fp8": FP8, "bf16": torch.bfloat16, "fp32": torch.float32}[how]
        tensors, metadata = {name: value.to(narrow) for name, value in state.items()}, None
        truth = {name: value.double() for name, value in tensors.items()}
    save_file(tensors, path / "wan.safetensors", metadata)
    return open_wan(path / "wan.safetensors"), truth


def velocity(network, dtype):
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 16, 2, 4, 4, generator=draw).to(dtype)
    return network(latents, torch.tensor([400.0]), Conditions(torch.randn(1, 3, 8, generator=draw).to(dtype)))


@pytest.mark.parametrize("how", [*STORED, "bf16", "fp32"])
@torch.no_grad()
def test_the_network_has_the_numbers_that_the_file_means(tmp_path, how):
    opened, truth = written(tmp_path, how)
    network = frozen_wan(opened, dtype=torch.float32)
    exact = WanDiT(T2V, dtype=torch.float64)
    exact.load_state_dict(truth)
    found, expected = velocity(network, torch.float32), velocity(exact, torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    assert not any(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("how", STORED)
def test_fp8_stays_fp8_in_the_linears_and_the_rest_is_of_the_type_it_computes_in(tmp_path, how):
    network = frozen_wan(written(tmp_path, how)[0])
    for name, value in network.named_parameters():
        narrow = name.endswith(QUANTISED) or (how == "plain fp8" and name.endswith(".weight") and value.ndim == 2)
        wide = torch.float32 if name.startswith("patch_embedding") else torch.bfloat16
        assert value.dtype == (FP8 if narrow else wide), name
    assert (how == "plain fp8") == (network.blocks[0].ffn[0].weight_scale is None)
    assert velocity(network, torch.bfloat16).isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_is_whole_and_lies_where_it_is_told_to(tmp_path, name):
    state = as_diffusers(CONFIGS[name], tiny_wan_state(CONFIGS[name]))
    save_file(state, tmp_path / "wan.safetensors")
    sizes = []
    network = frozen_wan(open_wan(tmp_path / "wan.safetensors"), device="meta", blocks_on_cpu=1, on_bytes=sizes.append)
    places = {name: value.device.type for name, value in network.named_parameters()}
    assert {name for name, place in places.items() if place == "cpu"} == {
        name for name in places if name.startswith("blocks.1.")
    }  # fmt: skip
    assert sum(sizes) == sum(value.nbytes for value in state.values())


def test_one_weight_is_held_beside_the_network_and_none_in_float32(tmp_path, monkeypatch):
    opened, _ = written(tmp_path, "older")
    source, alive, most = type(opened.source), [], [0]
    read_all = source.opened

    def watched(self):
        return _Watched(read_all(self), alive, most)

    monkeypatch.setattr(source, "opened", watched)
    frozen_wan(opened, device="meta")
    gc.collect()
    assert most[0] <= 3 and not [one for one in alive if one() is not None]


class _Watched:
    """A reader that counts which of the tensors it gave are still there."""

    def __init__(self, inner, alive, most):
        self.inner, self.alive, self.most = inner, alive, most

    def __enter__(self):
        read = self.inner.__enter__()

        def counted(name):
            tensor = read(name)
            self.alive.append(weakref.ref(tensor))
            self.most[0] = max(self.most[0], sum(one() is not None for one in self.alive))
            return tensor

        return counted

    def __exit__(self, *error):
        return self.inner.__exit__(*error)


def test_blocks_and_types_that_cannot_be_are_refused_and_a_scale_that_is_missing(tmp_path):
    opened, _ = written(tmp_path, "bf16")
    with pytest.raises(ConfigError, match="blocks_on_cpu is 3; this model has 2 blocks, so 0 to 2 is needed"):
        frozen_wan(opened, blocks_on_cpu=3)
    with pytest.raises(ConfigError, match="dtype is torch.int8; float32, bfloat16 or float16 is needed"):
        frozen_wan(opened, dtype=torch.int8)
    tensors, metadata, _ = scaled(tiny_wan_state(), "older")
    del tensors["blocks.1.ffn.0.scale_weight"]
    save_file(tensors, tmp_path / "lost.safetensors", metadata)
    with pytest.raises(CheckpointError, match="1 fp8 weights have no scale .*blocks.1.ffn.0.*get the bf16, fp16 or"):
        open_wan(tmp_path / "lost.safetensors")
