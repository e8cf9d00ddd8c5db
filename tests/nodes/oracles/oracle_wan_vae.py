"""The Wan 2.1 VAE of diffusers with random float16 weights at full width (the oldest host knows no other), and what it
makes of a few pixels."""

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file


def make(folder):
    torch.manual_seed(0)
    network = AutoencoderKLWan().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.half())
    pixels = torch.rand(1, 3, 5, 16, 32)  # (b, c, t, h, w) in [0, 1]
    with torch.no_grad():
        latents = network.encode(pixels * 2 - 1).latent_dist.mode()
        decoded = network.decode(latents).sample
    network.half().save_pretrained(folder / "vae")
    save_file({"pixels": pixels, "latents": latents.contiguous(), "decoded": decoded.contiguous()},
              folder / "wan.safetensors")  # fmt: skip
