"""Several processes, one run, started by `accelerate launch`. The one file that imports accelerate, and late."""

import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..errors import ConfigError
from .processes import OneProcess, World


def open_world() -> World:
    """The processes that `accelerate launch` (or torchrun) started with this one; one alone when it did not.

    Raises ConfigError when there are several and accelerate is not installed.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) <= 1:
        return OneProcess()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            f"WORLD_SIZE is {count}, but the package accelerate is not installed; install it, or start one process"
        ) from error
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return AcceleratedWorld(PartialState(cpu=wants_cpu or not torch.cuda.is_available()))


class AcceleratedWorld:
    """A `World` on torch's process group, which accelerate has set up (nccl on cards, gloo on the CPU)."""

    def __init__(self, state):
        self.state, self.rank, self.size, self.device = state, state.process_index, state.num_processes, state.device

    def sum_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, as one message."""
        self._exchange(tensors, torch.distributed.all_reduce)

    def any_failed(self, failed: bool) -> bool:
        """Whether any process said so."""
        flag = torch.tensor([float(failed)], device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item())

    def equalize(self, tensors: list[Tensor]) -> None:
        """Give every process the main one's values."""
        self._exchange(tensors, lambda flat: torch.distributed.broadcast(flat, src=0))

    def main_first(self) -> AbstractContextManager:
        """Let the main process through a block before the others."""
        return self.state.main_process_first()

    def _exchange(self, tensors: list[Tensor], call) -> None:
        with torch.no_grad():
            flat = torch.cat([tensor.detach().reshape(-1).to(self.device) for tensor in tensors])
            call(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts):
                tensor.copy_(part.view_as(tensor))
