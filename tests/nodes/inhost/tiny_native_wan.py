"""Tiny random MODELs of the host's own Wan, from core's loader: width 256, two heads, as few blocks as asked for."""

import functools

import comfy.sd
import torch
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.nodes.host.conditions import tell
from tiny_wan import fill

SIZES = {"num_attention_heads": 2, "attention_head_dim": 128, "hidden_width": 512}
TEXT = 4096  # core's loader knows no other width


def config(kind="text", blocks=2) -> WanConfig:
    """kind: text, image, or expert: an A14B expert of image to video, which has no CLIP vision layers."""
    beside = {} if kind == "text" else {"concat_channels": 20, "image_tokens": kind == "image"}
    return WanConfig(num_layers=blocks, **SIZES, **beside)


def weights(kind="text", blocks=2, seed=0) -> dict[str, torch.Tensor]:
    """A state dict as the world's files have it; nobody writes into its tensors."""
    return dict(_drawn(kind, blocks, seed))


@functools.cache
def _drawn(kind, blocks, seed):
    with torch.inference_mode(False):
        return {name: value.detach() for name, value in fill(WanDiT(config(kind, blocks)), seed).state_dict().items()}


def native(kind="text", blocks=2, seed=0, **options):
    """A MODEL as Load Diffusion Model gives it. options: of core's loader, such as dtype."""
    return loaded(weights(kind, blocks, seed), **options)


def loaded(state, **options):
    """The MODEL that core's loader makes of a state dict."""
    return comfy.sd.load_diffusion_model_state_dict(dict(state), model_options={"dtype": torch.float32, **options})


FRAMES, SIDE = 5, 8  # latent
GRID = (SIDE // 2, SIDE // 2)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first_latent(batch=1, seed=3):
    """Unscaled latent of a start image (b, 16, 1, h, w)."""
    return 2 * randn(batch, 16, 1, SIDE, SIDE, seed=seed)


def prompt(seed=1, first=None, **more):
    """A CONDITIONING as a text encoder and Photo to Video give it."""
    told = [[randn(1, 5, TEXT, seed=seed), more]]
    return told if first is None else tell(told, first_latent=first, first_latent_space="wan21")


def sample(core, model, *, first=None, sampler="euler", steps=2, cfg=3.0, batch=1, seed=5, **more):
    """What KSampler makes of noise and two prompts: (b, 16, 5, 8, 8), unscaled."""
    given = {"positive": prompt(1, first), "negative": prompt(2, first), "denoise": 1.0} | more
    latent = {"samples": torch.zeros(batch, 16, FRAMES, SIDE, SIDE)}
    return core("KSampler", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name=sampler, scheduler="simple",
                latent_image=latent, **given)[0]["samples"]  # fmt: skip
