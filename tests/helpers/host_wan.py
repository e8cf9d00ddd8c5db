"""The host's own Wan class beside ours, for tests and benchmarks that run inside a host."""

import comfy.ops
import tiny_wan
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.adapters.lora import LoRA
from pack.motion.models.wan.network import WanDiT
from tiny_wan import VARIANTS


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
    """(the host's network of a tiny variant with every weight drawn, ours with its state dict)."""
    config = VARIANTS[name]
    host = tiny_wan.fill(theirs(config, dtype, **more))
    own = WanDiT(config, dtype=dtype)
    own.load_state_dict(host.state_dict())
    return host, own.eval()


def asked(host, latents, timestep, told):
    """The host's velocity."""
    beside = [latents] if told.concat_latents is None else [latents, told.concat_latents]
    return host(torch.cat(beside, dim=1), timestep, told.context, clip_fea=told.image_tokens)


def lora_gradients(network, call):
    """Gradients of a drawn LoRA beside q, k, v and o of both attentions, by the names of its parameters."""
    lora = LoRA(network.requires_grad_(False), targets=tuple(f"_attn.{part}" for part in "qkvo"), rank=2, alpha=2.0)
    draw = torch.Generator().manual_seed(5)
    for value in lora.parameters().values():
        value.data.copy_(torch.randn(value.shape, generator=draw) / 8)
    with lora.attached():
        call().square().mean().backward()
    return {part: value.grad for part, value in lora.parameters().items()}
