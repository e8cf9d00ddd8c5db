"""Tiny random models and conditions for the tests inside a host."""

import torch
from pack.motion.io.networks.linear_video import save_linear_video
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec, SamplingDefaults

FRAMES, SIDE, CHANNELS, TEXT = 4, 6, 4, 24


def tiny_spec(*, integer_timesteps=True, objective="i2v_residual", **flags):
    config = LinearVideoDiTConfig(
        in_channels=CHANNELS, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=16,
        num_cross_attention_heads=2, caption_channels=TEXT, mlp_ratio=2.0, **flags,
    )  # fmt: skip
    latent = LatentSpec(kind="svd", channels=CHANNELS, spatial_ratio=8, scale_factor=0.18215)
    sampling = SamplingDefaults(integer_timesteps=integer_timesteps)
    return LinearVideoSpec(config=config, latent=latent, sampling=sampling, objective=objective)


def tiny_file(path, *, dtype=torch.float32, seed=0, **kind):
    """Write a model with seeded random weights; returns its spec."""
    spec = tiny_spec(**kind)
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(seed)
        state = LinearVideoDiT(spec.config).state_dict()
        save_linear_video(path, spec, {name: tensor.detach().to(dtype) for name, tensor in state.items()})
    return spec


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(seed=1, *, first=None, bucket=12, tokens=5):
    """A CONDITIONING as a text encoder and Photo to Video give it; two tokens are padding."""
    mask = torch.ones(1, tokens)
    mask[:, -2:] = 0
    extra = {"pooled_output": randn(1, TEXT, seed=seed + 50), "attention_mask": mask}
    if first is not None:
        extra["first_latent"] = first
    if bucket is not None:
        extra["motion_bucket_id"] = bucket
    return [[randn(1, tokens, TEXT, seed=seed), extra]]


def first_latent(seed=3):
    """Unscaled latent of a start image (1, c, 1, h, w)."""
    return randn(1, CHANNELS, 1, SIDE, SIDE, seed=seed) * 4


def start(batch=1, first=None):
    first = first_latent() if first is None else first
    return {"samples": first.repeat(batch, 1, FRAMES, 1, 1)}
