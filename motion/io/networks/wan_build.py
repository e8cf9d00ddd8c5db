"""Opened Wan weights as the network of our own, a weight at a time: the base is never held twice."""

import math
from collections.abc import Callable

import torch
from torch import nn

from ...models.wan.network import WanDiT
from ..files.weight_folder import pointing_to
from .linear_video import check_compute
from .wan import OpenedWan
from .wan_names import wan_shapes

PATCHES = "patch_embedding."  # float32 whatever the other weights are


def build_wan(
    opened: OpenedWan, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> WanDiT:  # fmt: skip
    """The network with these weights, in evaluation mode and without gradients.

    dtype: float32, bfloat16 or float16 for all but the patch embedding; None takes that of most stored numbers, and
    bfloat16 for fp8, whose scales are applied. on_bytes: told the size of each weight once it is in its place.
    Raises ConfigError for a type the device cannot compute in, CheckpointError for weights that cannot be read.
    """
    device = torch.device(device or "cpu")
    dtype = dtype or own_dtype(opened)
    check_compute(dtype, device)
    network = WanDiT(opened.layout.config, dtype=dtype, device="meta")
    with pointing_to(opened.row), opened.weights(dtype) as read, opened.weights(torch.float32) as read_wide:
        for name in opened.layout.weight_names:
            value = (read_wide if name.startswith(PATCHES) else read)(name).to(device)
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
            if on_bytes is not None:
                on_bytes(value.nbytes)
    return network.eval()


def own_dtype(opened: OpenedWan) -> torch.dtype:
    """The type that most numbers are stored in, and bfloat16 for types of one byte."""
    held: dict[torch.dtype, int] = {}
    shapes = wan_shapes(opened.layout.config)
    for name, dtype in opened.types(None).items():
        held[dtype] = held.get(dtype, 0) + math.prod(shapes[name])
    most = max(held, key=held.get)
    return torch.bfloat16 if most.itemsize == 1 else most
