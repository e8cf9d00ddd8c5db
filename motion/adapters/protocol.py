"""What an adapter is to those who train, stack and save one."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from ..models.block_adapters import BlockAdapters


class LayerDifference(Protocol):
    """What is added to one layer's output: scale · difference(input)."""

    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """The difference for the layer's input x, before it is scaled, in the shape of the layer's output."""
        ...


class Adapter(Protocol):
    """Small trained numbers beside a frozen network, which itself never changes."""

    kind: str  # what its file calls it

    @property
    def layers(self) -> Mapping[str, LayerDifference]:
        """What it adds to layers of the network, by their names."""
        ...

    @property
    def slots(self) -> BlockAdapters | None:
        """What it does inside blocks, at weight 1; None where it does nothing there."""
        ...

    @property
    def fits(self) -> Mapping[str, tuple[int, ...]]:
        """The network it fits: shapes of the weights it stands beside, by name."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        ...

    def attached(self, strength: float = 1.0) -> AbstractContextManager[None]:
        """Hold it on its network, times strength, while the block lasts; 0 leaves every bit as it was."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds, under the names of the file."""
        ...
