"""What adapters on our own MODELs and on the host's Wan share: how a stack lies on a MODEL, and how it comes off."""

from comfy.patcher_extension import WrappersMP
from torch import nn

from ...motion.adapters.stack import AdapterStack
from ..host.devices import adapter_patcher


def put_beside(copy, model, stack: AdapterStack, key: str, *, around_a_run, around_a_call):
    """Give a copy of `model` its wrappers, and the stack's weights into the host's care. Returns the copy."""
    copy.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, around_a_run)
    copy.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, around_a_call)
    weights = [value for entry in stack.entries for value in entry.adapter.parameters().values()]
    if weights:
        copy.set_additional_models(key, [adapter_patcher(nn.ParameterList(weights), model)])
    copy.set_attachments(key, stack)
    return copy


def taken_off(model, key: str):
    """A copy of a MODEL without what `put_beside` gave it, and with all that others set."""
    copy = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
        copy.remove_wrappers_with_key(kind, key)
    copy.remove_additional_models(key)
    copy.remove_attachments(key)
    return copy
