"""Motion adapters on a MODEL of the host's Wan, and off again. The MODEL that comes in is never changed."""

from collections.abc import Sequence

from ...motion.adapters.stack import AdapterStack
from ...motion.errors import ConfigError
from ...motion.models.wan.block_run import check_places
from .adapters_beside import put_beside, taken_off
from .native_wan import native_wan
from .native_wan_blocks import KEY, PLACE, block_patch, is_ours, patches_of
from .native_wan_masks import FirstMask, masked_adapter
from .native_wan_run import TrainedLevels, around_a_call, around_a_run

NEEDS_MASK = (
    "a masked adapter needs to know where its subject is: connect first_frame_mask, white on the subject of the start "
    "image, and vae, which encodes it"
)


def attach(
    model, stack: AdapterStack, *, clean_first_frame: bool, levels: Sequence[TrainedLevels] = (),
    first: FirstMask | None = None,
):  # fmt: skip
    """A copy of a plain Wan MODEL that is sampled with a stack of adapters, in place of one attached before.

    clean_first_frame: the start image, which Photo to Video puts into the positive prompt, stands clean in frame 1 at
    every call and in the result: what adapters for text to video are trained on. Without it a stack without weight
    changes no bit. levels: the noise levels that entries were trained at, for a warning. first: what a masked adapter
    needs where it acts.
    Block patches of others that are there already stay. Raises ConfigError for other MODELs and for adapters of another
    network.
    """
    wan = native_wan(model)
    stack.check_fit(wan.network)
    for entry in stack.entries:
        check_places(entry.adapter.slots)
    if masked_adapter(stack) is not None and first is None:
        raise ConfigError(NEEDS_MASK)
    copy = detach(model)
    found = patches_of(copy.model_options["transformer_options"])
    for index in range(len(wan.blocks)):
        copy.set_model_patch_replace(block_patch(index, found.get((PLACE, index))), "dit", PLACE, index)
    wrappers = {
        "around_a_run": around_a_run(stack, clean_first_frame, levels, first), "around_a_call": around_a_call(stack)
    }  # fmt: skip
    return put_beside(copy, model, stack, KEY, **wrappers)


def attached_stack(model) -> AdapterStack | None:
    """The stack on a MODEL; None where there is none."""
    return model.get_attachment(KEY)


def detach(model):
    """A copy of a MODEL without our adapters, and with all that others set."""
    copy = taken_off(model, KEY)
    options = copy.model_options["transformer_options"]
    if any(is_ours(patch) for patch in patches_of(options).values()):
        left = {place: patch.motionblocks_before if is_ours(patch) else patch
                for place, patch in patches_of(options).items()}  # fmt: skip
        left = {place: patch for place, patch in left.items() if patch is not None}
        options["patches_replace"] = {**options["patches_replace"], "dit": left}
    return copy
