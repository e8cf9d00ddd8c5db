"""Our Wan against this host's own class: its weights fit as they are, and every variant gives its velocity."""

import sys
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.ops
import pytest
import tiny_wan
import torch
from comfy.ldm.modules.attention import attention_pytorch
from host_wan import asked, lora_gradients, pair, theirs
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from tiny_wan import PER_FRAME, VARIANTS, apart, given

BENCHMARKS = str(Path(__file__).resolve().parents[3] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    from ledger_common import Ledger
finally:
    sys.path.remove(BENCHMARKS)

each_variant = pytest.mark.parametrize("name", VARIANTS)


@each_variant
@pytest.mark.parametrize("operations", ["disable_weight_init", "manual_cast"])
def test_every_variant_gives_the_hosts_velocity(name, operations):
    host, own = pair(name, operations=getattr(comfy.ops, operations))
    latents, timestep, told = given(VARIANTS[name])
    for each in (timestep, PER_FRAME):
        expected = asked(host, latents, each, told)
        assert expected.std() > 0.5 and apart(own(latents, each, told), expected) <= 5e-6
    assert apart(own(latents, PER_FRAME, told), own(latents, timestep, told)) > 0.01


def test_the_hosts_layers_serve_our_network():
    host, own = pair("image")
    served = WanDiT(VARIANTS["image"], operations=comfy.ops.manual_cast, dtype=torch.float16)
    served.load_state_dict(host.state_dict())
    plain = WanDiT(VARIANTS["image"])
    plain.load_state_dict({name: value.float() for name, value in served.state_dict().items()})
    inputs = given(VARIANTS["image"])
    assert apart(served(*inputs), plain(*inputs)) <= 5e-6 and apart(served(*inputs), own(*inputs)) > 1e-5


@pytest.mark.parametrize("title", PUBLISHED)
def test_names_and_shapes_of_every_published_size_are_the_hosts(title):
    config = PUBLISHED[title]
    shapes = [{name: tuple(value.shape) for name, value in network.state_dict().items()}
              for network in (theirs(config, device="meta"), WanDiT(config, device="meta"))]  # fmt: skip
    assert shapes[0] == shapes[1] and len(shapes[0]) > 800


@each_variant
def test_a_lora_of_the_attentions_gets_the_gradients_it_gets_at_the_host(name, monkeypatch):
    if hasattr(comfy.model_management, "in_training"):  # else newer hosts turn by an operator without gradients
        monkeypatch.setattr(comfy.model_management, "in_training", True)
    with torch.inference_mode(False):
        (host, own), inputs = pair(name), given(VARIANTS[name])
        expected = lora_gradients(host, lambda: asked(host, *inputs))
        found = lora_gradients(own, lambda: own(*inputs))
    assert found.keys() == expected.keys() and len(expected) >= 2 * 2 * 8
    for part, value in expected.items():
        assert value.abs().max() > 0 and apart(found[part], value) <= 1e-4, part


@each_variant
def test_bfloat16_strays_no_further_from_float64_than_the_host_does(name):
    host, own = pair(name, torch.bfloat16)
    precise = WanDiT(VARIANTS[name], dtype=torch.float64)
    precise.load_state_dict(host.state_dict())
    assert own.patch_embedding.weight.dtype == torch.float32
    ours, hosts = [], []
    for seed in range(2):
        latents, timestep, told = given(VARIANTS[name], torch.bfloat16, seed=seed)
        truth = precise(latents.double(), timestep, told.to("cpu", torch.float64))
        ours.append(apart(own(latents, timestep, told), truth))
        hosts.append(apart(asked(host, latents, timestep, told), truth))
    assert 1e-4 < sum(ours) <= 1.5 * sum(hosts)


def counted(call, *inputs):
    """Operators that move memory, and bytes alive at the widest moment."""
    with torch.no_grad(), Ledger() as ledger:
        call(*inputs)
    return ledger.launches, ledger.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_variant
def test_a_call_takes_no_more_operators_and_bytes_than_at_the_host(name, dtype, monkeypatch):
    if hasattr(comfy.model_management, "in_training"):  # else newer hosts turn by an operator that hides its own
        monkeypatch.setattr(comfy.model_management, "in_training", True)
    monkeypatch.setattr("comfy.ldm.wan.model.optimized_attention", attention_pytorch)  # as on a card
    counts = {"ours": [], "host": []}
    for layers in (1, 2):
        config = replace(VARIANTS[name], num_layers=layers, attention_head_dim=64, hidden_width=512)
        host, own = tiny_wan.fill(theirs(config, dtype)), WanDiT(config, dtype=dtype)
        own.load_state_dict(host.state_dict())
        inputs = given(config, dtype, size=(3, 24, 32))
        counts["ours"].append(counted(own, *inputs))
        counts["host"].append(counted(asked, host, *inputs))
    (one, _), (two, peak) = counts["ours"]
    (host_one, _), (host_two, host_peak) = counts["host"]
    assert 30 < two - one <= 1.05 * (host_two - host_one) and one <= 1.05 * host_one
    assert 0.85 * host_peak <= peak <= 1.05 * host_peak
