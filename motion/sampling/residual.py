"""Motion residuals as a change of variable, so that any solver may walk full latents of N frames.

A residual model predicts r = z_n - z_1 for frames 2..N. With y = z_1 + r the flow r_σ = (1 - σ)·r + σ·ε becomes
y_σ = (1 - σ)·y + σ·ε = r_σ + (1 - σ)·z_1: the state the solver walks. The network was trained to see z_1 + r_σ, that is
y_σ + σ·z_1, and the clean z_1 as first frame. Both maps are affine, so every solver step that is linear in state and
clean estimate commutes with them and nothing is approximated. Source: MiraMo Alg. 1 and Eq. 14; its frame 1 has
index 0 here.
"""

import torch
from torch import Tensor

from ..errors import ShapeError


def residual_state_to_network(state: Tensor, sigma: Tensor, first_latent: Tensor) -> Tensor:
    """What the network sees of a state: state + σ·z_1, and the clean z_1 as frame 0.

    state: (b, c, t, h, w), scaled latents at sigma. sigma: (b,) or (1,) in [0, 1]. first_latent: (b or 1, c, 1 or t,
    h, w), scaled; its frame 0 counts. Returns (b, c, t, h, w) in the dtype of state; frame 0 is first_latent exactly.
    Raises ShapeError for shapes that do not fit together.
    """
    level, start = _prepare(state, sigma, first_latent)
    moving = state[:, :, 1:] + level * start
    return torch.cat((start, moving), dim=2)


def network_velocity_to_clean(
    state: Tensor, network_input: Tensor, velocity: Tensor, sigma: Tensor, first_latent: Tensor
) -> Tensor:
    """Clean estimate of the state from the network's velocity: (y_σ + σ·z_1) - σ·v, and z_1 as frame 0.

    network_input: what `residual_state_to_network` gave, before any cast to the network's dtype. velocity:
    (b, c, t, h, w) = noise - residual; its frame 0 is not used. The other arguments as there.
    Returns (b, c, t, h, w) in the dtype of state; frame 0 is first_latent exactly. Raises ShapeError.
    """
    level, start = _prepare(state, sigma, first_latent)
    for name, tensor in (("network_input", network_input), ("velocity", velocity)):
        if tensor.shape != state.shape:
            raise ShapeError(
                f"{name} is {tuple(tensor.shape)}, the latents {tuple(state.shape)}; they must agree; the model may "
                "belong to another latent space"
            )
    moving = network_input[:, :, 1:].to(state.dtype) - level * velocity[:, :, 1:].to(state.dtype)
    return torch.cat((start, moving), dim=2)


def _prepare(state: Tensor, sigma: Tensor, first_latent: Tensor) -> tuple[Tensor, Tensor]:
    """sigma as (b or 1, 1, 1, 1, 1) and frame 0 as (b, c, 1, h, w), both like the state."""
    if state.ndim != 5 or not state.numel():
        raise ShapeError(f"latents are {tuple(state.shape)}; (b, c, t, h, w) is needed; use a video latent node")
    b, c, t, h, w = state.shape
    if sigma.ndim != 1 or sigma.shape[0] not in (1, b):
        raise ShapeError(f"sigma is {tuple(sigma.shape)}; ({b},) is needed, one level for each video")
    given = tuple(first_latent.shape)
    if len(given) != 5 or given[0] not in (1, b) or given[2] not in (1, t) or (given[1], *given[3:]) != (c, h, w):
        raise ShapeError(
            f"start image latent is {given}, the video latent {tuple(state.shape)}; ({b} or 1, {c}, 1 or {t}, {h}, "
            f"{w}) is needed; encode the start image with the VAE of this model, at the size of the video"
        )
    start = first_latent[:, :, :1].to(state).expand(b, -1, -1, -1, -1)
    return sigma.to(state).view(-1, 1, 1, 1, 1), start
