"""Wan VAE files as a network of our own: both layouts bit for bit, and what is refused."""

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.vaes.wan import read_wan_vae
from pack.motion.io.vaes.wan_names import host_names
from pack.motion.models.wan.vae import WanVAE
from safetensors.torch import save_file

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def state():
    """Weights of a narrow VAE by the host's names."""
    torch.manual_seed(0)
    return {name: torch.randn_like(weight) for name, weight in WanVAE(2).state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    """Save tensors: saved(tensors) -> Path."""

    def save(tensors):
        save_file(tensors, tmp_path / "wan.safetensors")
        return tmp_path / "wan.safetensors"

    return save


def refusal(path, error=CheckpointError, **options):
    with pytest.raises(error) as caught:
        read_wan_vae(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_hosts_layout_is_read_bit_for_bit(state, saved, prefix):
    vae = read_wan_vae(saved({prefix + name: weight for name, weight in state.items()}))
    found = vae.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert not vae.training


def test_half_floats_are_worked_in_float32_and_lose_nothing(state, saved):
    halves = {name: weight.bfloat16() for name, weight in state.items()}
    found = read_wan_vae(saved(halves)).state_dict()
    assert all(found[name].dtype == torch.float32 and torch.equal(found[name], halves[name].float()) for name in halves)
    kept = read_wan_vae(saved(halves), dtype=torch.bfloat16).state_dict()
    assert all(kept[name].dtype == torch.bfloat16 and torch.equal(kept[name], halves[name]) for name in halves)


@pytest.mark.slow  # importing diffusers
def test_a_diffusers_folder_and_back_loses_no_bit(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLWan(base_dim=2)
    theirs.save_pretrained(tmp_path / "vae")
    found, need = read_wan_vae(tmp_path / "vae").state_dict(), theirs.state_dict()
    places = host_names(need)
    assert places.keys() == found.keys() and sorted(places.values()) == sorted(need)
    back = diffusers.AutoencoderKLWan(base_dim=2)
    back.load_state_dict({place: found[name] for name, place in places.items()})
    assert all(torch.equal(weight, need[name]) for name, weight in back.state_dict().items())
    assert all(torch.equal(weight, found[name]) for name, weight in read_wan_vae(tmp_path).state_dict().items())


def test_missing_unknown_and_misshapen_weights_are_named(state, saved):
    less = {name: weight for name, weight in state.items() if name != "encoder.middle.1.proj.bias"}
    text = refusal(saved(less))
    assert "1 weights missing (encoder.middle.1.proj.bias)" in text and "get it again" in text
    assert "docs/models.md, Wan 2.1 VAE" in text
    assert "1 weights not known (extra)" in refusal(saved(state | {"extra": torch.zeros(1)}))
    other = state | {"decoder.conv1.bias": torch.zeros(9)}
    assert "decoder.conv1.bias: (9,) here, (8,) needed" in refusal(saved(other))


def test_other_files_are_refused_with_the_way_out(state, saved):
    wide = state | {"decoder.head.0.gamma": torch.zeros(1025, 1, 1, 1)}
    assert "width is 1025; a Wan VAE is 1 to 1024 wide; use 96; get the file again" in refusal(saved(wide))
    whole = state | {"conv1.bias": torch.zeros(32, dtype=torch.int64)}
    text = refusal(saved(whole))
    assert "weight 'conv1.bias' is torch.int64; floating point is needed" in text
    assert "docs/models.md, Wan 2.1 VAE" in text
    text = refusal(saved({"latents_mean": torch.zeros(128), "latents_std": torch.zeros(128)}))
    assert "this is the LTX-2 VAE; the Wan 2.1 VAE is needed" in text and "docs/models.md" in text
    path = saved(state)
    path.write_bytes(path.read_bytes()[:-3])
    assert "cut off" in refusal(path)


def test_a_type_that_nothing_is_computed_in_is_refused(state, saved):
    assert "use bfloat16 or float32" in refusal(saved(state), ConfigError, dtype=torch.float8_e4m3fn)
