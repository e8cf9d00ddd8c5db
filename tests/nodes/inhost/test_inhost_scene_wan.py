"""A Wan file with words of its own, in the host: core's loader builds the network that our own code builds."""

from dataclasses import replace

import comfy.model_base
import comfy.sd
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.io.networks.builtin_wan import read_builtin_wan, save_builtin_wan
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.motion.text.scene_vocabulary import word_vectors
from pack.recipes.wan import GROUPS, wan_spec


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of the sizes of motionblocks-wan, with random weights and two blocks."""
    spec = wan_spec()
    spec = replace(spec, config=replace(spec.config, num_layers=2))
    path = tmp_path_factory.mktemp("wan") / "wan.safetensors"
    torch.manual_seed(0)
    with torch.inference_mode(False):
        save_builtin_wan(path, spec, WanDiT(spec.config).state_dict(), GROUPS)
    return path


@pytest.fixture(scope="module")
def loaded(path):
    with torch.inference_mode(False):
        return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


def test_core_reads_sizes_and_heads_right_from_the_file_alone(loaded):
    network = loaded.model.diffusion_model
    assert type(loaded.model) is comfy.model_base.WAN21 and type(network) is WanModel
    assert (network.dim, network.num_heads, network.text_dim, network.ffn_dim) == (256, 2, 4096, 1024)
    assert len(network.blocks) == 2


def test_host_and_own_network_give_the_same_velocity(loaded, path):
    with torch.inference_mode(False), torch.no_grad():
        file = read_builtin_wan(path)
        latents = torch.randn(2, 16, 3, 8, 6, generator=torch.Generator().manual_seed(1))
        timestep = torch.tensor([900.0, 250.0])
        ids = torch.tensor([file.vocabulary.tokenize("red ball, on sand, moves left"), [0] * 8])
        context = word_vectors(file.vocabulary.size, 4096)[ids]
        ours = file.network()(latents, timestep, Conditions(context))
        theirs = loaded.model.diffusion_model(latents, timestep, context=context)
        assert float((ours - theirs).abs().max() / theirs.abs().max()) <= 5e-6
        other = file.network()(latents, timestep, Conditions(context.flip(0)))
        assert float((ours - other).abs().max() / ours.abs().max()) > 1e-4  # words count


def test_nothing_of_the_file_is_left_over(path, caplog):
    with torch.inference_mode(False):
        comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    assert not [line for line in caplog.messages if "left over" in line or "missing" in line]
