"""Tiny Wan networks of every variant, and inputs for them."""

import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.config import IMAGE_WIDTH, WanConfig

SIZES = {"in_channels": 4, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 20, "hidden_width": 56,
         "caption_channels": 12}  # fmt: skip
VARIANTS = {
    "text": WanConfig(**SIZES),
    "image": WanConfig(concat_channels=8, image_tokens=True, **SIZES),
    "first and last": WanConfig(concat_channels=8, image_tokens=True, position_tokens=6, **SIZES),
    "image without tokens": WanConfig(concat_channels=8, **SIZES),
}
ROWS, FRAMES, HEIGHT, WIDTH, TOKENS = 2, 3, 6, 10, 3  # latent cells; image tokens


def fill(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight drawn, so that none is hidden by a zero or a one; the network, for use."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            is_norm = "norm" in name and name.endswith("weight")
            value.copy_(1 + drawn / 4 if is_norm else drawn / max(value[0].numel(), 1) ** 0.5)
    return network.eval()


def given(
    config: WanConfig, dtype=torch.float32, *, seed=1, size=(FRAMES, HEIGHT, WIDTH)
) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    """Latents, of an odd size, a timestep a row, and what the variant is told."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    told = {"context": drawn(ROWS, 7, config.caption_channels)}
    if config.concat_channels:
        told["concat_latents"] = drawn(ROWS, config.concat_channels, *size)
    if config.image_tokens:
        told["image_tokens"] = drawn(ROWS, TOKENS, IMAGE_WIDTH)
    latents = drawn(ROWS, config.in_channels, *size)
    return latents, torch.tensor([987.25, 41.5]), Conditions(**told)


PER_FRAME = torch.tensor([[0.0, 500.5, 999.75], [3.25, 250.0, 0.0]])  # a noise level a latent frame


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest number of `other`."""
    return ((one.double() - other.double()).abs().max() / other.double().abs().max()).item()
