"""A reference and skeletons in front of what the host's Wan samples: the sampler sees the target alone.

The given frames are put before the target at every call of the network, always clean, and taken off its answer. So
every sampler and every other node works as on any video. Source: FramePrompt, arXiv 2506.17301, Sec. 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motion.errors import ConfigError, ShapeError
from ...motion.models.wan.config import MASK_CHANNELS
from ...motion.sequence.layout import SequenceLayout
from .base import check_latents
from .native_wan import SPACE, native_wan, refuse_context_windows
from .native_wan_attention import overridden
from .native_wan_blocks import KEY as ADAPTERS
from .native_wan_run import more_frames

KEY = "motionblocks_prefix"
KINDS = (WrappersMP.DIFFUSION_MODEL, WrappersMP.PREPARE_SAMPLING, WrappersMP.OUTER_SAMPLE)


@dataclass(frozen=True, eq=False)
class SequencePrefix:
    """What stands before the target. given: (1, 16, given_latents, h, w), unscaled, on the CPU.

    clean_timestep: the network is told noise level 0 of the given frames. segment: they look at one another alone,
    never at the target.
    """

    layout: SequenceLayout
    given: Tensor
    clean_timestep: bool = False
    segment: bool = False


def put_before(model, prefix: SequencePrefix):
    """A copy of a plain Wan MODEL that is sampled behind `prefix`, in place of one that it had.

    Raises ConfigError for other MODELs, and for one with adapters that would take the given frames for the video's.
    LoRAs that are laid on stay, and see the whole sequence.
    """
    native_wan(model)
    _refuse_adapters(model)
    copy = taken_off(model)
    for kind, wrapper in zip(KINDS, (around_a_call(prefix), around_loading(prefix), around_a_run(prefix))):
        copy.add_wrapper_with_key(kind, KEY, wrapper)
    calls = copy.wrappers[WrappersMP.DIFFUSION_MODEL]
    if ADAPTERS in calls:  # the first is the outermost
        calls[ADAPTERS] = calls.pop(ADAPTERS)
    copy.set_attachments(KEY, prefix)
    return copy


def taken_off(model):
    """A copy of a MODEL without a prefix, and with all that others set."""
    copy = model.clone()
    for kind in KINDS:
        copy.remove_wrappers_with_key(kind, KEY)
    copy.remove_attachments(KEY)
    return copy


def around_a_run(prefix: SequencePrefix) -> Callable:
    """OUTER_SAMPLE wrapper: refuse what the frames before the target do not fit. Raises ConfigError, ShapeError."""

    def wrapper(executor, noise, *args, **kwargs):
        guider, layout = executor.class_obj, prefix.layout
        refuse_context_windows(guider.model_options)
        native_wan(guider.model_patcher)
        _refuse_adapters(guider.model_patcher)
        _refuse_more_frames(guider.conds)
        check_latents(noise, SPACE)
        wanted = (layout.target_latents, *prefix.given.shape[3:])
        if tuple(noise.shape[2:]) != wanted:
            frames, cell = noise.shape[2], SPACE.spatial_ratio
            raise ShapeError(
                f"the latent has {frames} latent frames of {noise.shape[4] * cell}x{noise.shape[3] * cell} px, the "
                f"poses {wanted[0]} of {wanted[2] * cell}x{wanted[1] * cell}; connect the output latent of Pose Video "
                "to the sampler"
            )
        return executor(noise, *args, **kwargs)

    return wrapper


def around_loading(prefix: SequencePrefix) -> Callable:
    """PREPARE_SAMPLING wrapper: memory is estimated for the whole sequence."""

    def wrapper(executor, model, noise_shape, *args, **kwargs):
        shape = list(noise_shape)
        shape[2] += prefix.layout.given_latents
        return executor(model, shape, *args, **kwargs)

    return wrapper


def around_a_call(prefix: SequencePrefix) -> Callable:
    """DIFFUSION_MODEL wrapper: the given frames go before x and come off the answer."""
    count = prefix.layout.given_latents

    def wrapper(executor, x, t, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **more):
        options = transformer_options or {}
        whole = torch.cat((_given(prefix, x), x), dim=2)
        if prefix.clean_timestep:
            t = t.view(len(x), -1).expand(-1, x.shape[2])
            t = torch.cat((t.new_zeros(len(x), count), t), dim=1)
        if prefix.segment:
            options = overridden(options, _in_segments(count, whole.shape[2]))
        return executor(whole, t, context, clip_fea, time_dim_concat, options, **more)[:, :, count:]

    return wrapper


def _given(prefix: SequencePrefix, x: Tensor) -> Tensor:
    """The given frames as the network reads them, a row for each of x."""
    latents = SPACE.scaled(prefix.given.to(x))
    if x.shape[1] != SPACE.channels:  # read once more beside the latents, behind a mask that says they are given
        latents = torch.cat((latents, torch.ones_like(latents[:, :MASK_CHANNELS]), latents), dim=1)
    return latents.expand(len(x), -1, -1, -1, -1)


def _in_segments(given: int, frames: int) -> Callable:
    """Attention in which tokens of the first `given` of `frames` frames look at those of these alone."""

    def attend(ask: Callable, *args, **kwargs) -> Tensor:
        q, k, v, *rest = args
        if q.shape[1] != k.shape[1] or q.shape[1] % frames:
            return ask(*args, **kwargs)  # text and pictures
        cut = q.shape[1] // frames * given
        first = ask(q[:, :cut], k[:, :cut], v[:, :cut], *rest, **kwargs)
        return torch.cat((first, ask(q[:, cut:], k, v, *rest, **kwargs)), dim=1)

    return attend


def _refuse_adapters(model) -> None:
    stack = model.get_attachment(ADAPTERS)
    entries = () if stack is None else stack.entries
    if any(entry.adapter.slots is not None or entry.frame_curve or entry.mask is not None for entry in entries):
        raise ConfigError(
            "this MODEL has motion adapters, or LoRAs with a frame curve or a mask, which would take the reference and "
            "the skeletons for frames of the video; leave these out, or Pose Video"
        )


def _refuse_more_frames(conds: Mapping) -> None:
    if found := more_frames(conds):
        raise ConfigError(
            f"a prompt brings {found}, whose frames would stand between those of the sequence; disconnect the node "
            "that adds them"
        )
