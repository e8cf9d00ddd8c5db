"""What the network is shown at a noise level, and how wrong its answer is, sample by sample.

velocity = noise - clean. i2v_residual: the network sees the clean first frame z1 and z1 + r_sigma, and only the N - 1
later frames count (miramo §4, Alg. 1 and Eq. 14). t2v: it sees noised frames, and all of them count.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.heads.flow_head import INDEX_UNIT, compose_clean
from ..models.model_spec import LinearVideoSpec
from ..sampling.residual import residual_state_to_network
from ..sampling.schedules import TRAIN_TIMESTEPS, shift_sigma
from .config import TrainingConfig

SIGMA_LOW, SIGMA_TOP = 1e-3, 0.999  # 0 and 1 are never asked for
LEAST_DIVISOR = 0.1  # x0 errors are divided by sigma to weigh like a velocity, but by no less
STILL_WEIGHT = 4.0  # of the flow loss of samples in which nothing moves: "still" has to be still
STILL_FLOW = 1e-3  # latent units of flow below which nothing moves


def draw_sigma(config: TrainingConfig, spec: LinearVideoSpec, generator: torch.Generator) -> float:
    """Noise level of one sample, after the flow shift.

    logit_normal: sigmoid of a unit normal, on the model's table of 1/1000 where it was trained on whole timesteps;
    uniform: even. A share of `top_noise_share` sits at 0.999.
    """
    even, normal, top = torch.rand(2, generator=generator), torch.randn((), generator=generator), config.top_noise_share
    base = float(torch.sigmoid(normal) if config.sigma_sampling == "logit_normal" else even[0])
    if spec.sampling.integer_timesteps:
        base = int(base * TRAIN_TIMESTEPS) / TRAIN_TIMESTEPS
    sigma = shift_sigma(base, config.shift if config.shift is not None else spec.sampling.shift)
    return SIGMA_TOP if float(even[1]) < top else min(max(sigma, SIGMA_LOW), SIGMA_TOP)


def network_input(clean: Tensor, noise: Tensor, sigma: Tensor, objective: str) -> Tensor:
    """What the network sees. clean, noise: (b, c, t, h, w), scaled. sigma: (b,). Returns the same shape."""
    level = sigma.view(-1, 1, 1, 1, 1)
    state = (1 - level) * clean + level * noise
    return residual_state_to_network(state, sigma, clean) if objective == "i2v_residual" else state


def sample_losses(
    raw: Tensor, clean: Tensor, noise: Tensor, sigma: Tensor, spec: LinearVideoSpec, *, flow_weight: float,
    add_detail: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Loss of each sample (b,) float32 from the head's raw output; latents as in `network_input`.

    add_detail: what a skip head makes of the clean estimate.
    velocity: squared error of the velocity. x0: squared error of the clean latents / sigma, which is the velocity's.
    Flow head: that on appearance, where the warp is held still so that flow learns from its own truth alone, plus
    flow_weight times the L1 of flow over the root of the frame index; no dead zone, which would have no gradient.
    """
    raw, config = raw.float(), spec.config
    skip = 1 if spec.objective == "i2v_residual" else 0
    if config.prediction == "velocity":
        first = clean[:, :, :1] if skip else 0.0
        return _mean((raw - (noise - (clean - first)))[:, :, skip:].square())
    indices = torch.arange(clean.shape[2], device=clean.device)
    found = compose_clean(raw, clean[:, :, :1], indices, detach_warp=True)[0] if config.flow_channels else raw
    found = found if add_detail is None else add_detail(found)
    error = (found - clean)[:, :, skip:]
    divisor = sigma.clamp_min(LEAST_DIVISOR).view(-1, 1, 1, 1, 1)
    shown = config.in_channels - config.flow_channels
    loss = _mean((error[:, :shown] / divisor).square())
    if not config.flow_channels:
        return loss
    truth = clean[:, shown:, skip:]
    growth = (indices[skip:].float() / INDEX_UNIT).sqrt().view(1, 1, -1, 1, 1)
    still = truth.abs().amax((1, 2, 3, 4)) < STILL_FLOW
    weight = flow_weight * torch.where(still, STILL_WEIGHT, 1.0)
    return loss + weight * _mean(error[:, shown:].abs() / growth)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)
