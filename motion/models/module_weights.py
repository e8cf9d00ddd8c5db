"""Weights of a layer as tensors, for operators that take them as arguments. A layer somebody changed is called instead.

The network never reads a weight by itself: it asks a `weights_of(module, like)`, by default `plain_weights` below.
`weights_of` returns a context manager of (weight, bias), ready to be used with `like` inside the block only, or of
None, which means that the module must be called: it is hooked, patched, quantised or kept elsewhere.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

PLAIN_LAYERS = (nn.Linear, nn.Conv2d)
PLAIN_TENSORS = (Tensor, nn.Parameter)


def is_untouched(module: nn.Module) -> bool:
    """Whether calling the module runs its class's `forward` and nothing else: no hook, no `forward` of its own."""
    return not (
        "forward" in vars(module)
        or module._forward_hooks or module._forward_pre_hooks
        or module._backward_hooks or module._backward_pre_hooks
        or nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks or nn_module._global_backward_pre_hooks
    )  # fmt: skip


def plain_weights(
    module: nn.Module, like: Tensor
) -> AbstractContextManager[tuple[Tensor, Tensor | None] | None]:
    """Weight and bias of an untouched torch Linear or Conv2d of `like`'s type and device; else None.

    Under autocast they are cast to the type of `like`, as the layer's own call would do.
    """
    if type(module) not in PLAIN_LAYERS or not is_untouched(module):
        return nullcontext()
    stored = [tensor for tensor in (module.weight, module.bias) if tensor is not None]
    if any(type(tensor) not in PLAIN_TENSORS or tensor.device != like.device for tensor in stored):
        return nullcontext()
    weight, bias = module.weight, module.bias
    if any(tensor.dtype != like.dtype for tensor in stored):
        if like.is_meta or not torch.is_autocast_enabled(like.device.type):
            return nullcontext()
        weight, bias = weight.to(like.dtype), None if bias is None else bias.to(like.dtype)
    return nullcontext((weight, bias))
