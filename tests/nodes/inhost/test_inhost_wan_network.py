"""Our Wan against this host's own class: its weights fit as they are, and every variant gives its velocity."""

import comfy.model_management
import comfy.ops
import pytest
import tiny_wan
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.adapters.lora import LoRA
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.network import WanDiT
from tiny_wan import PER_FRAME, VARIANTS, apart, given

each_variant = pytest.mark.parametrize("name", VARIANTS)


def theirs(config, dtype=torch.float32, device=None, operations=comfy.ops.disable_weight_init):
    """The host's class of these sizes."""
    return WanModel(
        model_type="i2v" if config.image_tokens else "t2v", patch_size=(1, config.patch_size, config.patch_size),
        in_dim=config.in_channels + config.concat_channels, out_dim=config.in_channels, dim=config.width,
        ffn_dim=config.hidden_width, text_dim=config.caption_channels, num_heads=config.num_attention_heads,
        num_layers=config.num_layers, flf_pos_embed_token_number=config.position_tokens or None,
        device=device, dtype=dtype, operations=operations,
    )  # fmt: skip


def pair(name, dtype=torch.float32, **more):
    """(the host's network with every weight drawn, ours with its state dict)."""
    config = VARIANTS[name]
    host = tiny_wan.fill(theirs(config, dtype, **more))
    own = WanDiT(config, dtype=dtype)
    own.load_state_dict(host.state_dict())
    return host, own.eval()


def asked(host, latents, timestep, told):
    """The host's velocity."""
    beside = [latents] if told.concat_latents is None else [latents, told.concat_latents]
    return host(torch.cat(beside, dim=1), timestep, told.context, clip_fea=told.image_tokens)


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


def lora_gradients(network, call):
    """Gradients of a drawn LoRA beside q, k, v and o of both attentions, by the names of its parameters."""
    lora = LoRA(network.requires_grad_(False), targets=tuple(f"_attn.{part}" for part in "qkvo"), rank=2, alpha=2.0)
    draw = torch.Generator().manual_seed(5)
    for value in lora.parameters().values():
        value.data.copy_(torch.randn(value.shape, generator=draw) / 8)
    with lora.attached():
        call().square().mean().backward()
    return {part: value.grad for part, value in lora.parameters().items()}


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
