"""A small Wan whose heads look along time or stay in space as they are told, and a clip for it."""

import math

import torch
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.trainees.wan import WanTrainee
from tiny_wan import fill

HEADS, WIDTH, LAYERS = 4, 64, 2
CONFIG = WanConfig(num_layers=LAYERS, num_attention_heads=HEADS, attention_head_dim=WIDTH, hidden_width=64,
                   caption_channels=12)  # fmt: skip
PLANTED = torch.tensor([[True, False, True, False], [False, False, False, True]])


def planted(network, kinds, strength=6.0):
    """Heads that look along time where `kinds` says so, else in space: by a bias on rotary numbers, without content."""
    turning = WIDTH - 4 * (WIDTH // 6)
    with torch.no_grad():
        for block, row in zip(network.blocks, kinds):
            for layer in (block.self_attn.q, block.self_attn.k):
                layer.weight.zero_()
                for head, is_temporal in enumerate(row):
                    bias = layer.bias[head * WIDTH : (head + 1) * WIDTH]
                    bias.zero_()
                    if is_temporal:
                        bias[turning:] = math.sqrt(turning / (WIDTH - turning))
                    else:
                        bias[:turning] = 1.0
            block.self_attn.norm_q.weight.fill_(strength)
            block.self_attn.norm_k.weight.fill_(1.0)
    return network


def trainee(kinds=PLANTED, config=CONFIG, **more):
    return WanTrainee(planted(fill(WanDiT(config)), kinds), WanSpec(config, text_tokens=6), **more)


def batch(frames=5, side=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {"latents": torch.randn(1, 16, frames, side, side, generator=draw),
            "context": torch.randn(1, 6, 12, generator=draw)}  # fmt: skip
