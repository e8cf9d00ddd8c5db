"""A larger built-in network that starts out doing what a smaller one does: twice the picture, patch 2, more blocks.

A token of the larger network covers 16x16 px of its 128 px picture, which is what a token of the smaller one covers of
the same picture at 64 px. So each input layer is preceded by "halve the picture", and the output layer followed by
"double the picture", both linear in this latent space and folded into the weights. Added blocks add nothing at first.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..motion.errors import CheckpointError
from ..motion.layers.block_dct import APPEARANCE_CHANNELS, coefficients_to_pixels, pixels_to_coefficients
from ..motion.layers.warp import fold_grid, unfold_grid
from ..motion.models.heads.flow_codec import LATENT_CHANNELS

PATCH = 2
_INPUTS = ("patch_embed.proj.weight", "first_frame_embed.proj.weight")


def halve(latents: Tensor) -> Tensor:
    """(b, 200, 2h, 2w) latents -> (b, 200, h, w) of the picture at half the size; flow in px halves."""
    pixels = F.avg_pool2d(coefficients_to_pixels(latents[:, :APPEARANCE_CHANNELS]), 2)
    flow = F.avg_pool2d(unfold_grid(latents[:, APPEARANCE_CHANNELS:], 1.0), 2) / 2
    return torch.cat((pixels_to_coefficients(pixels), fold_grid(flow, 1.0)), 1)


def double(latents: Tensor) -> Tensor:
    """(b, 200, h, w) latents -> (b, 200, 2h, 2w) of the picture at twice the size; flow in px doubles."""
    pixels = coefficients_to_pixels(latents[:, :APPEARANCE_CHANNELS]).repeat_interleave(2, -1).repeat_interleave(2, -2)
    flow = unfold_grid(latents[:, APPEARANCE_CHANNELS:], 1.0).repeat_interleave(2, -1).repeat_interleave(2, -2) * 2
    return torch.cat((pixels_to_coefficients(pixels), fold_grid(flow, 1.0)), 1)


def grown_state(small: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a fresh larger network (its state dict) replaced by those of a smaller one, patch 1, equal width.

    Raises CheckpointError when the two do not belong together.
    """
    state = {name: value.clone() for name, value in fresh.items()}
    unknown = sorted(set(small) - set(fresh))
    if unknown or small["proj_out.weight"].shape[0] != LATENT_CHANNELS:
        raise CheckpointError(f"weights {unknown[:5]} have no place in the larger network; use one of its own kind")
    for name, value in small.items():
        if name in _INPUTS:
            state[name] = _input(value.float())
        elif name.startswith("proj_out"):
            state[name] = _output(value.float())
        elif value.shape == fresh[name].shape:
            state[name] = value.float()
        else:
            raise CheckpointError(f"{name} is {tuple(value.shape)} there and {tuple(fresh[name].shape)} here")
    for name in state:
        added = name.startswith("transformer_blocks") and name not in small
        if added and ("to_out" in name or "conv_point" in name):
            state[name] = torch.zeros_like(state[name])
    return state


def grown_embedding(small: Tensor, fresh: Tensor) -> Tensor:
    """Rows of the words both know from the smaller text encoder, the others fresh."""
    return torch.cat((small.float(), fresh[len(small) :]))


def _input(weight: Tensor) -> Tensor:
    """(d, 200, 1, 1) -> (d, 200, 2, 2): applied after `halve`."""
    places = torch.eye(LATENT_CHANNELS * PATCH**2).view(-1, LATENT_CHANNELS, PATCH, PATCH)
    halved = halve(places)[:, :, 0, 0]  # (800, 200)
    return (halved @ weight.flatten(1).T).T.reshape(len(weight), LATENT_CHANNELS, PATCH, PATCH).contiguous()


def _output(weight: Tensor) -> Tensor:
    """(200, d) or (200,) -> (800, d) or (800,): followed by `double`; rows in the order (row, column, channel)."""
    doubled = double(torch.eye(LATENT_CHANNELS).view(-1, LATENT_CHANNELS, 1, 1))  # (200, 200, 2, 2)
    return rearrange(doubled, "i c p q -> (p q c) i") @ weight
