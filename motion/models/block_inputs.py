"""What the blocks of our video transformers are given besides tokens."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import Tensor, nn

from ...kernels.joint_linear_attention import AxisRotary
from ...kernels.temporal_cosine_attention import RotaryTable
from .block_adapters import BlockAdapters
from .text_cache import CachedText, MaskedText

WeightsOf = Callable[[nn.Module, Tensor], AbstractContextManager[tuple[Tensor, Tensor | None] | None]]


class BlockInputs(NamedTuple):
    """What all blocks of one call share."""

    embedding: Tensor  # (b, t or 1, d), of which the modulation is made
    modulation: tuple[Tensor, ...]  # each (b, t or 1, d), in the order of the blocks' tables
    text: MaskedText | CachedText
    grid: tuple[int, int]  # height, width in tokens
    rotary: RotaryTable | AxisRotary  # of the frames' indices, or of frames, rows and columns
    kernels: str
    weights_of: WeightsOf
    adapters: BlockAdapters | None = None
    block: int = 0  # index of the block that is running; kept up to date where there are adapters

    def slot(self, name: str) -> Callable | None:
        """The adapter in one of the places of BlockAdapters, if any."""
        return None if self.adapters is None else getattr(self.adapters, name)
