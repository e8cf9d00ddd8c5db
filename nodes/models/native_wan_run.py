"""What a run of the host's sampler does for motion adapters on its Wan: around the run, a step and a network's call.

Everything is put into options that belong to this run or this call, so that nothing stays when it ends or fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...motion.adapters.notes import largest_sum, levels_note, motion_entries, replaces_text, sum_note
from ...motion.adapters.stack import AdapterStack, StackEntry
from ...motion.errors import ConfigError, ShapeError
from ...motion.models.block_adapters import BlockAdapters
from ...motion.models.subject_masks import SubjectMasks
from ..host import devices
from ..host.conditions import read
from .as_trained import say, too_strong, twice_the_time
from .base import check_latents, first_latent_of
from .native_wan import SPACE, native_wan, refuse_context_windows
from .native_wan_blocks import KEY, WanCall, lend_our_blocks, refuse_patches_over_ours
from .native_wan_masks import MASKS, FirstMask, around_a_step, begun, masked_adapter, refuse_run

SHIFT = f"{KEY}_shift"  # in transformer_options: of the schedule that this run samples with
MORE_FRAMES = {  # keys of prompts that put frames beside the video's, and what a message calls them
    "time_dim_concat": "subject images (Wan Phantom)", "context_latents": "context videos (Bernini)",
    "reference_latents": "reference latents",
}  # fmt: skip


class TrainedLevels(NamedTuple):
    """What a file says of an entry of the stack: the least and the largest noise level it was trained at."""

    entry: StackEntry
    name: str
    levels: tuple[float, float]


def around_a_run(
    stack: AdapterStack, clean_first_frame: bool, levels: Sequence[TrainedLevels] = (), first: FirstMask | None = None
) -> Callable:
    """OUTER_SAMPLE wrapper. clean_first_frame: the start image stands clean in frame 1 at every call.

    levels: those whose noise levels are looked at; a run beside them is told. first: what a masked adapter needs.

    Raises ConfigError and ShapeError before the host loads the model.
    """

    def wrapper(
        executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None,
        *args, **kwargs,
    ):  # fmt: skip
        given = (noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, *args)
        guider = executor.class_obj
        options = guider.model_options["transformer_options"]
        refuse_context_windows(guider.model_options)
        wan = native_wan(guider.model_patcher)
        check_latents(noise, SPACE)
        refuse_patches_over_ours(options, len(wan.blocks))
        _refuse_more_frames(guider.conds)
        options[SHIFT] = getattr(guider.model_patcher.get_model_object("model_sampling"), "shift", stack.shift)
        asked = [float(sigma) for sigma in sigmas[:-1]]
        beside = [levels_note(*told, asked, options[SHIFT]) for told in levels]
        say(_notes(guider, _sampled(stack, options), options, noise.shape) + [note for note in beside if note])
        if not clean_first_frame:
            return executor(*given, **kwargs)
        start, masked = _start_latent(guider.conds, noise), masked_adapter(stack)
        model = guider.model_patcher.model
        steps = [hold_first_frame(model.process_latent_in(start))]
        if masked is not None:
            refuse_run(options, sampler, len(noise))
            steps.append(around_a_step(begun(masked, first, model, sigmas, noise.shape, seed)))
        _add_step_wrappers(options, steps)
        ends_clean = float(sigmas[-1]) == 0  # asked now: uni_pc writes into the sigmas
        out = executor(*given, **kwargs)
        if not ends_clean:  # noise is left for another expert: frame 1 must have its share of it
            return out
        return torch.cat((start.to(out).expand(len(out), -1, -1, -1, -1), out[:, :, 1:]), dim=2)

    return wrapper


def hold_first_frame(shown: Tensor) -> Callable:
    """APPLY_MODEL wrapper: `shown` (b or 1, c, 1, h, w) is frame 1 of what the network sees, and of the clean estimate.

    Rows are the videos of the batch, once for each prompt. Raises ShapeError where the host cut the picture up.
    """

    def wrapper(executor, x, *args, **kwargs):
        if x.shape[3:] != shown.shape[3:] or x.shape[0] % shown.shape[0]:
            raise ShapeError(
                f"the video is sampled in parts of {tuple(x.shape)}, the start image has {tuple(shown.shape)}; prompts "
                "for areas do not work with motion adapters: use one prompt for the whole picture"
            )
        first = shown.to(x).repeat(x.shape[0] // shown.shape[0], 1, 1, 1, 1)
        out = executor(torch.cat((first, x[:, :, 1:]), dim=2), *args, **kwargs)
        return torch.cat((first.to(out), out[:, :, 1:]), dim=2)

    return wrapper


def around_a_call(stack: AdapterStack) -> Callable:
    """DIFFUSION_MODEL wrapper: hold the stack on the network for one call, at its noise level and size.

    The call is never compiled: hooks and adapters are new at every call, for which torch would compile it anew, and the
    host's node lets it not look at what transformer_options hold.
    """

    @torch.compiler.disable
    def wrapper(executor, x, t, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **more):
        network, options = executor.class_obj, transformer_options or {}
        size = _size(x.shape)
        level = (t if t.ndim == 1 else t.amax(1)).double() / 1000  # a clean frame has 0
        devices.bring((value for entry in stack.entries for value in entry.adapter.parameters().values()), x.device)
        masks = options.get(MASKS)
        with _heard(_sampled(stack, options), masks).attached(network, sigma=level, **size) as adapters:
            options = {**lend_our_blocks(options), KEY: call_of(network, adapters, x, t, clip_fea, masks)}
            return executor(x, t, context, clip_fea, time_dim_concat, options, **more)

    return wrapper


def call_of(
    network: nn.Module, adapters: BlockAdapters | None, x: Tensor, t: Tensor, clip_fea: Tensor | None,
    masks: SubjectMasks | None = None,
) -> WanCall:  # fmt: skip
    """What the blocks are told of one call of the host's network with these arguments."""
    from comfy.ldm.wan.model import sinusoidal_embedding_1d

    features = sinusoidal_embedding_1d(network.freq_dim, t.flatten()).to(x.dtype)
    embedding = network.time_embedding(features).unflatten(0, (t.shape[0], -1))
    image_tokens = None if clip_fea is None else clip_fea.shape[-2]
    return WanCall(network, adapters, embedding, _size(x.shape)["grid"], image_tokens, masks)


def _heard(stack: AdapterStack, masks: SubjectMasks | None) -> AdapterStack:
    """Of a call on a video of masks, those that know what it is, and LoRAs, which are a part of the model."""
    if masks is None or not masks.are_shown:
        return stack
    return replace(stack, entries=tuple(
        entry for entry in stack.entries if entry.adapter.slots is None or entry.adapter.slots.knows_masks
    ))  # fmt: skip


def _sampled(stack: AdapterStack, options: Mapping) -> AdapterStack:
    """The stack with what it has to know of the run and of Wan."""
    return replace(stack, shift=options.get(SHIFT, stack.shift), temporal_ratio=SPACE.temporal_ratio)


def _size(shape) -> dict:
    """Frames of the video and tokens of a frame, from the shape of its latents."""
    f, h, w = shape[2:]
    return {"num_frames": (f - 1) * SPACE.temporal_ratio + 1, "grid": (-(-h // 2), -(-w // 2))}


def _add_step_wrappers(options: dict, wrappers: list[Callable]) -> None:
    """Put APPLY_MODEL wrappers, the outermost first, into the options of this run, in place of earlier ones of ours."""
    options.setdefault("wrappers", {}).setdefault(WrappersMP.APPLY_MODEL, {})[KEY] = wrappers


def _start_latent(conds: Mapping, noise: Tensor) -> Tensor:
    """The start image's latent (1 or b, c, 1, h, w), unscaled, from the positive prompt.

    Raises ConfigError where there is none, and ShapeError where it does not fit the videos.
    """
    told = (read(part) for part in conds.get("positive", ()))
    found = next((part for part in told if part.first_latent is not None), None)
    if found is None:
        raise ConfigError(
            "the positive prompt has no start image, which these motion adapters need; connect the outputs positive "
            "and latent of Photo to Video (MotionBlocks) to the sampler"
        )
    first = first_latent_of(found.first_latent, found.first_latent_space, noise, SPACE)
    if len(first) not in (1, len(noise)):
        raise ShapeError(
            f"{len(first)} start images came with {len(noise)} videos; 1 or {len(noise)} are needed: make the batches "
            "equal"
        )
    return first


def more_frames(conds: Mapping) -> str:
    """What prompts bring frames that are no part of the video, as a message says it; "" where none does."""
    found = (f"{title}, {key}" for prompt in conds.values() for key, title in MORE_FRAMES.items()
             if any(part.get(key) is not None for part in prompt))  # fmt: skip
    return next(found, "")


def _refuse_more_frames(conds: Mapping) -> None:
    """Refuse frames whose tokens no adapter could place. Raises ConfigError."""
    if found := more_frames(conds):
        raise ConfigError(
            f"a prompt brings {found}, whose frames motion adapters would take for those of the video; disconnect the "
            "node that adds them"
        )


def _notes(guider, stack: AdapterStack, options: Mapping, shape) -> list[str]:
    """What the user is told once a run. Raises ShapeError for masks of another number of frames."""
    notes, strong = [], too_strong(guider)
    if motion_entries(stack.entries) and (note := sum_note(largest_sum(stack, **_size(shape)))):
        notes.append(note)
    if "torch.compile" in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
        notes.append("torch.compile has no effect while motion adapters act on Wan; remove its node to save its time")
    if not replaces_text(stack):
        return notes
    if strong is not None:
        notes.append(twice_the_time(strong))
    if any(name.endswith(".cross_attn.forward") for name in guider.model_patcher.object_patches):
        notes.append("another node has replaced Wan's text attention (such as NAG); the motion adapters stand in its "
                     "place, so it has no effect")  # fmt: skip
    return notes
