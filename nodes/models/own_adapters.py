"""Motion adapters on one of our own MODELs, and off again. The MODEL that comes in is never changed."""

from collections.abc import Callable
from dataclasses import replace

import torch

from ...motion.adapters.notes import largest_sum, motion_entries, replaces_text, sum_note
from ...motion.adapters.stack import AdapterStack
from ...motion.errors import ConfigError
from ..host.devices import bring
from .adapters_beside import put_beside, taken_off
from .as_trained import say, too_strong, twice_the_time
from .base import architecture_of, check_latents, spec_of
from .text_cache import ADAPTERS as KEY

SHIFT = f"{KEY}_shift"  # in transformer_options: of the schedule that this run samples with


def attach(model, stack: AdapterStack):
    """A copy of one of our MODELs that is sampled with a stack of adapters, in place of one attached before.

    Its weights lie beside the MODEL's in the host's care. In form "delta" a stack without weight changes no bit.
    Raises ConfigError for MODELs of others, networks without places for them, and adapters of another network.
    """
    architecture, spec = architecture_of(model), spec_of(model)
    if architecture is None:
        raise ConfigError(f"this MODEL is {type(model.model).__name__}; a MotionBlocks model is needed here")
    if motion_entries(stack.entries):
        architecture.check_adapters_inside()
    stack = replace(stack, temporal_ratio=spec.space.temporal_ratio)
    stack.check_fit(model.get_model_object("diffusion_model"))
    wrappers = {"around_a_run": around_a_run(stack), "around_a_call": around_a_call(stack)}
    return put_beside(detach(model), model, stack, KEY, **wrappers)


def attached_stack(model) -> AdapterStack | None:
    """The stack on a MODEL; None where there is none."""
    return model.get_attachment(KEY)


def detach(model):
    """A copy of a MODEL without our adapters, and with all that others set."""
    return taken_off(model, KEY)


def around_a_run(stack: AdapterStack) -> Callable:
    """OUTER_SAMPLE wrapper: refuse masks that do not fit the video, and say what the weights come to.

    Raises ShapeError before the host loads the model.
    """

    def wrapper(executor, noise, *args, **kwargs):
        guider = executor.class_obj
        model = guider.model_patcher
        spec = spec_of(model)
        check_latents(noise, spec.space)
        shift = getattr(model.get_model_object("model_sampling"), "shift", stack.shift)
        guider.model_options["transformer_options"][SHIFT] = shift
        say(_notes(guider, replace(stack, shift=shift), noise.shape, spec))
        return executor(noise, *args, **kwargs)

    return wrapper


def around_a_call(stack: AdapterStack) -> Callable:
    """DIFFUSION_MODEL wrapper: hold the stack on the network for one call, at its noise level and frames.

    The call is never compiled: hooks and adapters are new at every call, for which torch would compile it anew.
    """

    @torch.compiler.disable
    def wrapper(executor, x, timestep, context=None, control=None, transformer_options=None, **conditions):
        network, options = executor.class_obj, transformer_options or {}
        bring((value for entry in stack.entries for value in entry.adapter.parameters().values()), x.device)
        total, seen = network.frames_seen(x, **conditions)
        level = (timestep if timestep.ndim == 1 else timestep.amax(1)).double() / 1000  # a clean frame has 0
        sampled = replace(stack, shift=options.get(SHIFT, stack.shift))
        held = sampled.attached(
            network, sigma=level, num_frames=(total - 1) * stack.temporal_ratio + 1,
            grid=_grid(x.shape, network.config), frames=seen,
        )  # fmt: skip
        with held as adapters:
            inside = {} if adapters is None else {"adapters": adapters}
            return executor(x, timestep, context, control, options, **conditions, **inside)

    return wrapper


def _grid(shape, config) -> tuple[int, int]:
    return shape[-2] // config.patch_size, shape[-1] // config.patch_size


def _notes(guider, stack: AdapterStack, shape, spec) -> list[str]:
    """What the user is told once a run. shape: of the latents. Raises ShapeError for masks of other frames."""
    num_frames, grid = (shape[2] - 1) * stack.temporal_ratio + 1, _grid(shape, spec.config)
    stack.weights(1.0, num_frames, grid)
    notes, strong = [], too_strong(guider)
    if motion_entries(stack.entries):
        notes.append(sum_note(largest_sum(stack, num_frames, grid)))
    reads_whole_prompt = getattr(spec.config, "pooled_text_embedding", False)
    if strong is not None and replaces_text(stack) and not reads_whole_prompt:
        notes.append(twice_the_time(strong))
    return [note for note in notes if note]
