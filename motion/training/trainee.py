"""What tasks and objectives ask of a network that is trained, whatever its architecture."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapters.protocol import Adapter
from ..analysis.head_map import HeadWatch
from ..models.conditions import Conditions
from ..models.latent_spaces import LatentSpace
from ..models.model_spec import ModelSpec, SamplingDefaults

LOOKED_AT = 256  # values of each weight that go into a fingerprint


class Trainee(Protocol):
    """A network with all that must be known to train it. Its weights stay where they are, and are never copied.

    own_objective: of the table in `objectives/table.py`, what its kind of model is trained by.
    own_targets: parts of names of the layers that get an adapter where nobody chooses.
    blocks: name of its list of blocks.
    clean_first_frame: see `Architecture`.
    It may also have `remarks(before)`, what an earlier fingerprint tells that does not stand in the way of a resume,
    and `save_memory(shape)`: see `Task`, for latents of this shape.
    """

    spec: ModelSpec
    module: nn.Module  # its layers have the names that adapters and files use
    device: torch.device  # where it computes; some of its weights may lie elsewhere
    space: LatentSpace
    sampling: SamplingDefaults
    own_objective: str
    own_targets: tuple[str, ...]
    blocks: str
    clean_first_frame: bool

    def conditions(self, batch: Mapping[str, Tensor], *, first_latent: Tensor | None = None) -> Conditions:
        """What the network is told about a batch of named tensors. first_latent (b, c, 1, h, w), scaled."""

    def predict(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Velocity (noise - clean) at latents (b, c, t, h, w), scaled; sigma (b,), or (b, t) where frames differ."""

    def session(self, *, frozen: bool) -> AbstractContextManager:
        """What must hold while it trains, undone after the block. frozen: its own weights take no gradient."""

    def holding(self, adapter: Adapter) -> AbstractContextManager:
        """Hold an adapter at weight 1 on the network while the block lasts."""

    def fingerprint(self, *, with_weights: bool) -> dict:
        """Plain JSON values: "model", what it is, and with_weights "base", a hash of its weights."""

    def misfits(self, shapes) -> list[str]:
        """What is wrong with samples of these shapes (c, t, h, w), a line each."""


class WatchedTrainee(Trainee, Protocol):
    """A network whose self-attention can be looked at."""

    def predict_watched(self, latents: Tensor, sigma: Tensor, conditions: Conditions, watch: HeadWatch) -> Tensor:
        """As `predict`, and no bit of the answer changes; watch sees what every block's self-attention reads."""


class CleanTrainee(Trainee, Protocol):
    """A network that answers with clean latents."""

    is_residual: bool  # frame 0 is given clean
    flow_channels: int  # of its latents, the last ones, hold flow

    def estimate_clean(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Clean latents (b, c, t, h, w) float32, as a loss wants them; arguments as `predict`."""


def weights_fingerprint(module: nn.Module) -> str:
    """A hash of names, shapes and values spread over every weight; quick, and other weights give another."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        flat = value.detach().reshape(-1)
        digest.update(flat[:: max(1, flat.numel() // LOOKED_AT)].float().cpu().numpy().tobytes())
    return digest.hexdigest()
