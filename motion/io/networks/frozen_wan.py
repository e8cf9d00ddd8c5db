"""A Wan network to train beside, filled a weight at a time from opened weights and never held twice or in float32."""

from collections.abc import Callable

import torch
from torch import nn

from ...errors import ConfigError
from ...models.stored_layers import StoredLayers, StoredLinear, dequantised
from ...models.wan.blocks import Attention
from ...models.wan.network import WanDiT
from ..files.weight_folder import pointing_to
from .wan import DTYPES, OpenedWan


def frozen_wan(
    opened: OpenedWan, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", blocks_on_cpu: int = 0,
    attention: Attention | None = None, on_bytes: Callable[[int], None] | None = None,
) -> WanDiT:  # fmt: skip
    """The network, its weights frozen on `device`, the last `blocks_on_cpu` blocks on the CPU.

    dtype: what it computes in, by default that of the file, bfloat16 where the file is fp8. fp8 weights of Linears stay
    fp8, with their scales; all others become dtype, the patch embedding float32. on_bytes: told the size of each weight
    once it is read. Raises CheckpointError, and ConfigError for a dtype that is none of DTYPES or blocks there are not.
    """
    config, types = opened.layout.config, opened.dtypes
    dtype = dtype or _own_type(types)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype}; float32, bfloat16 or float16 is needed")
    if not 0 <= blocks_on_cpu <= config.num_layers:
        raise ConfigError(
            f"blocks_on_cpu is {blocks_on_cpu}; this model has {config.num_layers} blocks, so 0 to {config.num_layers} "
            "is needed"
        )
    network = WanDiT(config, operations=StoredLayers, attention=attention, dtype=dtype, device="meta")
    away = tuple(f"blocks.{index}." for index in range(config.num_layers - blocks_on_cpu, config.num_layers))
    with pointing_to(opened.row), opened.stored() as read:
        for name, stored in types.items():
            module, _, leaf = name.rpartition(".")
            layer, where = network.get_submodule(module), "cpu" if name.startswith(away) else device
            tensor, scale = read(name)
            if stored.itemsize == 1 and leaf == "weight" and isinstance(layer, StoredLinear):
                layer.weight_scale = None if scale is None else scale.to(where)
            else:
                tensor = dequantised(tensor, scale, getattr(layer, leaf).dtype)
            setattr(layer, leaf, nn.Parameter(tensor.to(where), requires_grad=False))
            if on_bytes is not None:
                on_bytes(stored.itemsize * tensor.numel())
    return network.eval()


def _own_type(types: dict[str, torch.dtype]) -> torch.dtype:
    """That of the first block's first query, or bfloat16 where this is narrower than any we compute in."""
    stored = types["blocks.0.self_attn.q.weight"]
    return stored if stored in DTYPES else torch.bfloat16
