"""What a model may take of this machine: the host's estimate for it, and refusals with numbers instead of a crash.

The host moves other models out of the way and streams weights that do not fit on the device; what one call of the
network needs beside its weights must fit, and nothing can be done about it later than before the first call.
"""

import math

import torch

from ...motion.errors import ConfigError, ShapeError
from ..host import devices

MARGIN = 1.1  # of what the host is asked to keep free: allocators round up, libraries take workspaces
LATENTS_HELD = 5  # float32 copies a sampler of the host cannot do without: noise, state, two sums, clean estimate
GIB = 2**30


def step_memory(model, shape, *, fused_norms: bool = False) -> int:
    """Bytes that one call of a MODEL's network takes beside its weights; shape: (b, c, t, h, w) of the latents.

    fused_norms: what it takes at least, where torch needs no copies for a norm.
    """
    computes_in = getattr(model, "manual_cast_dtype", None) or model.get_dtype()
    return model.architecture.memory.step_bytes(
        model.spec.config, tuple(shape), itemsize=computes_in.itemsize, kernels=model.diffusion_model.kernels,
        fused_norms=fused_norms,
    )  # fmt: skip


def least_memory(model, shape) -> int:
    """Bytes without which latents (b, c, t, h, w) cannot be sampled: one call, and what the sampler holds meanwhile."""
    return step_memory(model, shape, fused_norms=True) + LATENTS_HELD * 4 * math.prod(shape)


def refuse_what_cannot_fit(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: refuse a video that no amount of unloading makes room for. Raises ShapeError.

    It runs before the host loads the model. What counts is one prompt's call on the whole device, or, where the
    device is the CPU, the weights beside it; context windows of other nodes cut the video up and are let through.
    """
    guider = executor.class_obj
    noise = args[0] if args else kwargs["noise"]
    if guider.model_options.get("context_handler") is None and getattr(noise, "ndim", 0) == 5:
        check_step_fits(guider.model_patcher, noise.shape)
    return executor(*args, **kwargs)


def check_step_fits(patcher, shape) -> None:
    """Compare what sampling takes at least with all memory of its device. Raises ShapeError with both and ways out."""
    device = patcher.load_device
    weights = patcher.model_size() if device.type == "cpu" else 0
    need, total = least_memory(patcher.model, shape), devices.total_memory(device)
    if need + weights <= total:
        return
    space = patcher.model.spec.space
    b, _, t, h, w = shape
    fitting = math.floor(t * (total - weights) / need)
    frames = [(count - 1) * space.temporal_ratio + 1 for count in (t, fitting)]
    fewer = f"fewer frames (about {frames[1]} fit at this size)" if fitting > 0 else "fewer frames"
    beside = f" beside {weights / GIB:.1f} GiB of weights" if weights else ""
    raise ShapeError(
        f"{b} video(s) of {frames[0]} frames, {w * space.spatial_ratio}x{h * space.spatial_ratio} px, need about "
        f"{need / GIB:.1f} GiB to be sampled{beside}; {device} has {total / GIB:.1f} GiB: make {fewer}, a "
        "smaller size or fewer videos at a time"
    )


def check_weights_fit(name: str, num_bytes: int) -> None:
    """Refuse weights that this machine's memory cannot hold; the host keeps them there. Raises ConfigError."""
    total = devices.total_memory(torch.device("cpu"))
    if num_bytes > total:
        raise ConfigError(
            f"{name}: its weights take {num_bytes / GIB:.1f} GiB; this machine has {total / GIB:.1f} GiB of memory; "
            "choose a smaller weight_dtype (bf16 halves float32, fp8 halves it again) or a smaller model of "
            "docs/models.md"
        )


def check_number_type(dtype: torch.dtype) -> None:
    """Refuse 8-bit weights on a device that cannot hold or convert them. Raises ConfigError."""
    device = devices.compute_device()
    if dtype.itemsize == 1 and not devices.can_cast(device, dtype):
        raise ConfigError(
            f"weight_dtype is {str(dtype).removeprefix('torch.')}; {device} cannot convert such weights; choose bf16 "
            "or default (docs/models.md says what each weight file holds)"
        )
