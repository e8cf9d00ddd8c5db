"""Tiny random MODELs of the host's own Wan, from core's loader: width 256, two heads, as few blocks as asked for."""

import comfy.sd
import torch
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from tiny_wan import fill

SIZES = {"num_attention_heads": 2, "attention_head_dim": 128, "hidden_width": 512}
TEXT = 4096  # core's loader knows no other width


def config(kind="text", blocks=2) -> WanConfig:
    """kind: text, image, or expert: an A14B expert of image to video, which has no CLIP vision layers."""
    beside = {} if kind == "text" else {"concat_channels": 20, "image_tokens": kind == "image"}
    return WanConfig(num_layers=blocks, **SIZES, **beside)


def weights(kind="text", blocks=2, seed=0) -> dict[str, torch.Tensor]:
    """A state dict as the world's files have it."""
    with torch.inference_mode(False):
        return {name: value.detach() for name, value in fill(WanDiT(config(kind, blocks)), seed).state_dict().items()}


def native(kind="text", blocks=2, seed=0, **options):
    """A MODEL as Load Diffusion Model gives it. options: of core's loader, such as dtype."""
    return loaded(weights(kind, blocks, seed), **options)


def loaded(state, **options):
    """The MODEL that core's loader makes of a state dict."""
    return comfy.sd.load_diffusion_model_state_dict(dict(state), model_options={"dtype": torch.float32, **options})
