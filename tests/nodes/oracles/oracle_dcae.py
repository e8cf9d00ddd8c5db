"""A tiny DC-AE f32c32 of diffusers as its folder, and what it makes of a video of random pictures.

Widths are cut; stages, blocks and switches are those of the published config (vae/config.json of the SANA folders).
"""

import json

import torch
from diffusers import AutoencoderDC
from safetensors.torch import save_file

WIDTHS = [32, 32, 64, 64, 64, 64]
CONFIG = {
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32, "decoder_act_fns": "silu",
    "decoder_norm_types": "rms_norm", "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": WIDTHS, "decoder_block_out_channels": WIDTHS,
    "encoder_layers_per_block": [1, 1, 1, 1, 1, 1], "decoder_layers_per_block": [1, 1, 1, 1, 1, 1],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]], "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "scaling_factor": 0.41407,
}  # fmt: skip


def make(folder):
    torch.manual_seed(0)
    shapes = {}
    for name, blocks in (("conv", CONFIG), ("shuffle", CONFIG | {"upsample_block_type": "pixel_shuffle",
                                                                "downsample_block_type": "pixel_unshuffle"})):
        network = AutoencoderDC(**blocks).eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        network.save_pretrained(folder / name)
        pixels = torch.rand(2, 3, 3, 64, 96)  # (b, t, c, h, w) in [0, 1]
        with torch.no_grad():
            latents = network.encode(pixels.flatten(0, 1) * 2 - 1).latent
            decoded = network.decode(latents).sample
        tensors = {"pixels": pixels, "latents": latents.unflatten(0, (2, 3)), "decoded": decoded.unflatten(0, (2, 3))}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    with torch.device("meta"):
        public = AutoencoderDC(
            **CONFIG | {"encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                        "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                        "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3] * 6}
        )  # fmt: skip
    shapes = {name: list(tensor.shape) for name, tensor in public.state_dict().items()}
    (folder / "public_shapes.json").write_text(json.dumps(shapes))
