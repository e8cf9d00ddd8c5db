"""What trainees of our own networks share."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ...models.architectures import ARCHITECTURES
from ...models.model_spec import ModelSpec


class DescribedNetwork:
    """What follows from a network's spec, for any `Trainee`."""

    def __init__(self, module: nn.Module, spec: ModelSpec):
        row = ARCHITECTURES.of(spec)
        self.module, self.spec, self.space, self.sampling = module, spec, spec.space, spec.sampling
        self.own_targets, self.blocks = row.training.targets, row.adapters.blocks

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
    blocks' inputs and compute them twice. Raises ConfigError for weights that the host made in inference mode.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, *, checkpointing: bool = False):
        if any(value.is_inference() for value in module.parameters()):
            raise ConfigError("the network holds inference tensors; build or clone it in inference_mode(False)")
        super().__init__(module, spec)
        self._run_block = _run_checkpointed if checkpointing else None

    @contextmanager
    def session(self, *, frozen: bool) -> Iterator[None]:
        """See `Trainee`."""
        before = [(value, value.requires_grad) for value in self.module.parameters()]
        try:
            for value, _ in before:
                value.requires_grad_(not frozen)
            yield
        finally:
            for value, needed in before:
                value.requires_grad_(needed)


def _run_checkpointed(index: int, call, hidden_states: Tensor) -> Tensor:
    return checkpoint(call, hidden_states, use_reentrant=False, preserve_rng_state=False)
