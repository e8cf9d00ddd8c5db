"""LoRAs that do something, and a call of the tiny motion model."""

import torch
from pack.motion.adapters.lora import LoRA, LoRAMatrices, target_names
from pack.motion.models.conditions import Conditions
from training_toys import TEXT

_chance = torch.Generator().manual_seed(1)
LATENTS, TIMESTEP = torch.randn(2, 4, 3, 4, 4, generator=_chance), torch.tensor([300.0, 700.0])
TOLD = Conditions(torch.randn(2, 3, TEXT, generator=_chance))


def call(dit, dtype=torch.float32, **options):
    """The model's answer to two videos of three frames of 2x2 tokens."""
    return dit(LATENTS.to(dtype), TIMESTEP, TOLD.to("cpu", dtype), **options)


def mixed_lora(module, seed=0, targets=("attn1", "attn_temporal", "attn2", "ff")):
    """Ranks of 1 to 3 and alphas of their own, layer by layer; neither matrix is zero."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for index, name in enumerate(target_names(module, targets)):
        outside, *inside = module.get_submodule(name).weight.shape
        rank = index % 3 + 1
        down = torch.randn(rank, *inside, generator=generator) / 8
        up = torch.randn(outside, rank, *(1 for _ in inside[1:]), generator=generator) / 4
        layers[name] = LoRAMatrices(down, up, 0.5 + index % 5)
    return LoRA.of_layers(module, layers, "here")
