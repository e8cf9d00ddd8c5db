"""The processes that share one run, as the trainer sees them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor


class World(Protocol):
    """Processes with equal networks; process 0 is the main one: it alone saves and reports."""

    rank: int
    size: int

    def sum_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the processes."""

    def any_failed(self, failed: bool) -> bool:
        """Whether this or another process failed; all of them ask at the same place."""

    def equalize(self, tensors: list[Tensor]) -> None:
        """Give every process the main one's values, in place."""

    def main_first(self) -> AbstractContextManager:
        """Let the main process through a block before the others, for files that one makes and all read."""


class OneProcess:
    """A run of its own: nothing to exchange."""

    rank, size = 0, 1

    def sum_(self, tensors: list[Tensor]) -> None:
        """The sum over one process."""

    def any_failed(self, failed: bool) -> bool:
        """Nobody else can fail; one's own failure passes."""
        return False

    def equalize(self, tensors: list[Tensor]) -> None:
        """Equal already."""

    def main_first(self) -> AbstractContextManager:
        """Nobody to wait for."""
        return nullcontext()
