"""The LTX-2 VAE of diffusers at its own widths with the least layers, and what it makes of a few pixels."""

import torch
from diffusers import AutoencoderKLLTX2Video
from safetensors.torch import save_file


def make(folder):
    torch.manual_seed(0)
    network = AutoencoderKLLTX2Video(
        layers_per_block=(1, 0, 0, 0, 0), decoder_layers_per_block=(1, 0, 0, 1), decoder_causal=False,
        spatial_compression_ratio=32, temporal_compression_ratio=8,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.half())
        network.latents_mean.copy_(torch.randn(128).half())
        network.latents_std.copy_((torch.rand(128) + 0.5).half())
    pixels = torch.rand(1, 3, 9, 64, 64)
    with torch.no_grad():
        latents = network.encode(pixels * 2 - 1).latent_dist.mode()
        decoded = network.decode(latents).sample
    mean, std = (value.view(1, -1, 1, 1, 1) for value in (network.latents_mean, network.latents_std))
    tensors = {"pixels": pixels, "latents": (latents - mean) / std, "decoded": decoded}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "ltx2.safetensors")
    network.half().save_pretrained(folder / "vae")
