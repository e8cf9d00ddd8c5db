"""Weights of the host's layers, ready to use, for operators that take them as arguments instead of calling the layer.

The host may keep a weight in another number type or on another device and work LoRA patches into it at each call; its
own `cast_bias_weight` knows all that. A layer that anybody changed in a way that function cannot see is called instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.ops
from torch import Tensor, nn

from ...motion.models.module_weights import PLAIN_TENSORS


@contextmanager
def host_weights(module: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | None]:
    """Weight and bias of a Linear or Conv2d in the number type and on the device of `like`; None: call the module.

    They may be streamed: use them inside the `with` only, and never keep them.
    """
    if not is_transparent(module):
        yield None
    elif is_resident(module, like):
        yield module.weight, module.bias
    elif isinstance(module, nn.Linear) and module.weight.dtype != like.dtype:
        yield None  # fp8 layers multiply in fp8 where the card can
    else:
        with cast_weights(module, like) as given:
            yield given


def is_transparent(module: nn.Module) -> bool:
    """Whether calling the module does nothing but the host's own layer with its weight and bias."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return (
        type(module).__module__ == "comfy.ops"
        and "forward" not in vars(module)
        and not any(hooks)
        and type(getattr(module, "weight", None)) in PLAIN_TENSORS
    )


def is_resident(module: nn.Module, like: Tensor) -> bool:
    """Whether the stored weight and bias can be used as they lie: right type, right device, nothing to work in."""
    stored = [tensor for tensor in (module.weight, module.bias) if tensor is not None]
    fits = all(tensor.dtype == like.dtype and tensor.device == like.device for tensor in stored)
    return fits and not module.weight_function and not module.bias_function


@contextmanager
def cast_weights(module: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The host's cast of one layer, given back when the block ends where the host streams (newer hosts)."""
    if not hasattr(comfy.ops, "uncast_bias_weight"):
        yield comfy.ops.cast_bias_weight(module, like)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)
