"""What a trainer and the thing it trains say to one another."""

import hashlib
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class SampleKey(NamedTuple):
    """Names one sample of a run. Everything random about the sample comes from its key, so nothing else is stored.

    step counts from 0; index from 0 to the global batch (all batches of the step, on all processes) - 1; -1 is the
    step itself, for what its samples share.
    """

    seed: int
    step: int
    index: int

    def generator(self) -> torch.Generator:
        """A CPU generator seeded by a hash of the key: the same numbers in every process, version and order."""
        digest = hashlib.sha256(f"{self.seed}:{self.step}:{self.index}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Task(Protocol):
    """Anything that can be trained.

    A task may also have `running()`, a context manager that holds for the whole run (adapters attached, the base
    frozen); `matrices()`, the names of the parameters that Muon takes; `differences(before)`, which says in words how
    an earlier fingerprint differs from its own; `remarks(before)`, what to tell of it that does not matter as much; and
    `save_memory(batch)`, called when a batch did not fit into memory: it says what it changed to do with less, and the
    step is tried again, or "", and the error passes, or it raises what to say instead.
    """

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; the same names and order in every run."""

    def fingerprint(self) -> dict:
        """Plain JSON values that must be equal for a resumed run to be the same run (data, model)."""

    def draw(self, keys: list[SampleKey]) -> Any:
        """Make the batch of these keys; called without gradients. Equal keys give equal batches."""

    def loss(self, batch: Any) -> Tensor:
        """Loss of each sample of a batch, (b,); their mean is minimised."""

    def describe(self, batch: Any) -> str:
        """Names of the samples and size of a batch, for messages."""


class Resumable(Protocol):
    """A trainer as its checkpoints see it."""

    step: int  # steps finished
    config: Any
    world: Any
    task: Task

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict]:
        """Everything that a run needs to go on: tensors by file and name, and plain JSON values."""

    def load_state(self, state: Any) -> None:
        """Go on from a state that `state()` made and that was read back whole."""
