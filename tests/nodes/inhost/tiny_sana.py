"""Tiny random SANA and SANA-Video weights, named and saved as the published ones, made without diffusers."""

import json

import torch
from pack.motion.io.networks.sana_layouts import sana_shapes
from pack.motion.models.sana_video.dims import SanaDims
from safetensors.torch import save_file

SIZES = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "num_cross_attention_heads": 2,
         "caption_channels": 24, "hidden_width": 80}  # fmt: skip
KINDS = {
    "wan21": {"family": "sana_video", "in_channels": 16, "patch_size": (1, 2, 2), "qk_norm": True},
    "ltx2": {"family": "sana_video", "in_channels": 128, "patch_size": (1, 1, 1), "qk_norm": True},
    "image": {"family": "sana", "in_channels": 32, "patch_size": (1, 1, 1)},
    "image15": {"family": "sana", "in_channels": 32, "patch_size": (1, 1, 1), "qk_norm": True},
}
CLASSES = {"sana": "SanaTransformer2DModel", "sana_video": "SanaVideoTransformer3DModel"}


def weights_of(kind, dtype=torch.float32):
    """Random weights, sizes and config.json of one kind of network."""
    dims = SanaDims(**SIZES, **KINDS[kind])
    draw = torch.Generator().manual_seed(3)
    state = {name: (0.2 * torch.randn(shape, generator=draw)).to(dtype) for name, shape in sana_shapes(dims).items()}
    config = {"_class_name": CLASSES[dims.family], "num_attention_heads": 2, "attention_head_dim": 16,
              "num_cross_attention_heads": 2}  # fmt: skip
    return state, dims, config


def folder_of(root, kind, name=None, **more):
    state, _, config = weights_of(kind, **more)
    folder = root / (name or f"tiny_{kind}") / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder.parent / "model_index.json").write_text("{}")
    return folder.parent.name
