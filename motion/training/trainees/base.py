"""What trainees of our own networks share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...adapters.protocol import Adapter
from ...errors import ConfigError
from ...models.architectures import ARCHITECTURES
from ...models.model_spec import ModelSpec
from .blocks_on_cpu import BlocksOnCpu

NEEDS_CHECKPOINTING = (
    "blocks_on_cpu is {}; without gradient_checkpointing the backward pass would keep every block on the device all "
    "the same: set gradient_checkpointing to true, or blocks_on_cpu to 0"
)


class DescribedNetwork:
    """What follows from a network's spec, for any `Trainee`."""

    def __init__(self, module: nn.Module, spec: ModelSpec):
        row = ARCHITECTURES.of(spec)
        self.module, self.spec, self.space, self.sampling = module, spec, spec.space, spec.sampling
        self.own_targets, self.blocks = row.training.targets, row.adapters.blocks
        self.clean_first_frame = row.clean_first_frame(spec.config)

    def holding(self, adapter: Adapter) -> AbstractContextManager:
        """See `Trainee`."""
        return adapter.attached()

    def misfits(self, shapes) -> list[str]:
        """See `Trainee`."""
        config, problems = self.spec.config, []
        for channels, frames, height, width in shapes:
            size = f"latents of {channels} channels, {frames} frames, {height}x{width}"
            if channels != config.in_channels:
                problems.append(f"{size}; this model needs {config.in_channels} channels: encode with its own VAE")
            if height % config.patch_size or width % config.patch_size:
                problems.append(f"{size}; both sides must divide by {config.patch_size}")
        return problems


class OwnNetwork(DescribedNetwork):
    """Base of `Trainee` for a network of ours with its spec; the heir gives conditions, predict and fingerprint.

    module: float32 to train its own weights; to train an adapter beside it, of any type. checkpointing: keep only the
    blocks' inputs and compute them twice. blocks_on_cpu: that many blocks, the last ones, stay off the device and are
    on it while they are computed; needs checkpointing, and a module that stays frozen. Raises ConfigError for weights
    that the host made in inference mode, and for a number of blocks that cannot be.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, checkpointing: bool = False, blocks_on_cpu: int = 0):
        if any(value.is_inference() for value in module.parameters()):
            raise ConfigError("the network holds inference tensors; build or clone it in inference_mode(False)")
        super().__init__(module, spec)
        self.checkpointing, self.blocks_on_cpu, self._away = checkpointing, blocks_on_cpu, None
        if blocks_on_cpu:
            if not checkpointing:
                raise ConfigError(NEEDS_CHECKPOINTING.format(blocks_on_cpu))
            self._away = BlocksOnCpu(module.get_submodule(self.blocks), blocks_on_cpu, self.device)
        self._run_block = self._run_checkpointed if checkpointing else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    @contextmanager
    def session(self, *, frozen: bool) -> Iterator[None]:
        """See `Trainee`. Raises ConfigError to train blocks that lie on the CPU."""
        if self._away is not None and not frozen:
            raise ConfigError(
                f"blocks_on_cpu is {self.blocks_on_cpu} and mode full; those blocks are only read: use mode lora, or "
                "blocks_on_cpu 0"
            )
        before = [(value, value.requires_grad) for value in self.module.parameters()]
        try:
            for value, _ in before:
                value.requires_grad_(not frozen)
            yield
        finally:
            for value, needed in before:
                value.requires_grad_(needed)

    def _run_checkpointed(self, index: int, call: Callable[[Tensor], Tensor], hidden_states: Tensor) -> Tensor:
        def computed(x: Tensor) -> Tensor:
            with nullcontext() if self._away is None else self._away.at_hand(index):
                return call(x)

        return checkpoint(computed, hidden_states, use_reentrant=False, preserve_rng_state=False)
