"""Blocks of a frozen network that stay in the machine's memory and visit the device one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import ConfigError


class BlocksOnCpu:
    """The last `count` of a network's blocks, moved off `device`; in `at_hand` one of them is whole on it.

    What a backward pass needs of a weight lives until that pass is over; under gradient checkpointing that is one
    block's weights. Weights are moved as they are stored, and those in memory are never written. Raises ConfigError for
    a count that the network does not have.
    """

    def __init__(self, blocks: nn.ModuleList, count: int, device: torch.device):
        if not 0 <= count <= len(blocks):
            raise ConfigError(
                f"blocks_on_cpu is {count}; this model has {len(blocks)} blocks, so 0 to {len(blocks)} is needed"
            )
        self.blocks, self.device = blocks, device
        self.first = len(blocks) - count
        for block in blocks[self.first :]:
            for held, name, value in _tensors(block):
                if value.device.type != "cpu":
                    held[name] = _like(value, value.detach().to("cpu"))

    @contextmanager
    def at_hand(self, index: int) -> Iterator[None]:
        """Copies of the block's tensors in their places while the block lasts; nothing for a block that stays."""
        if index < self.first:
            yield
            return
        places = _tensors(self.blocks[index])
        try:
            with torch.no_grad():
                for held, name, value in places:
                    held[name] = self.fetch(value)
            yield
        finally:
            for held, name, value in places:
                held[name] = value

    def fetch(self, value: Tensor) -> Tensor:
        """A tensor's copy on the device."""
        return value.detach().to(self.device, non_blocking=True)


def _tensors(block: nn.Module) -> list[tuple[dict, str, Tensor]]:
    """(the dictionary that holds it, its name there, the tensor) of all parameters and buffers."""
    return [(held, name, value) for module in block.modules() for held in (module._parameters, module._buffers)
            for name, value in held.items() if value is not None]  # fmt: skip


def _like(value: Tensor, moved: Tensor) -> Tensor:
    return nn.Parameter(moved, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else moved
