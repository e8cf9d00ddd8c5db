"""A small SVD VAE of diffusers with its four stages, and what it makes of 16 frames, 14 of them decoded together."""

import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file


def make(folder):
    torch.manual_seed(0)
    network = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
    ).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    pixels = torch.rand(16, 3, 32, 48)
    with torch.no_grad():
        latents = network.encode(pixels * 2 - 1).latent_dist.mode()
        runs = [network.decode(part, num_frames=len(part)).sample for part in latents.split(14)]
    network.save_pretrained(folder / "vae")
    tensors = {"pixels": pixels, "latents": latents, "decoded": torch.cat(runs)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "svd.safetensors")
