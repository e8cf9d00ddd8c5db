"""MIVA adapters as files: the numbers under names of ours, sizes and forms in the metadata.

    blocks.{i}.cfa.{q,o}.{down,up}  .cfa.lam.{weight,bias}    blocks.{i}.ca.{down,up}  .ca.norm.{weight,bias}
    blocks.{i}.tsa.{q,k,v,o}.{down,up}                        metadata: family miva, adapter_config, network
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor, nn

from ...adapters.miva import MIVA, MIVAConfig
from ...errors import CheckpointError, ConfigError
from ...foreign_json import parse_json
from ...models.architectures import ARCHITECTURES
from ...records import check_fields
from ..files.kind import shown
from ..files.safetensors import read_safetensors

SIZES = ("width", "num_layers", "num_attention_heads")


@dataclass(frozen=True)
class MIVAFile:
    """A MIVA adapter as its file holds it; it has met no network yet. notes: what a user should know of it."""

    config: MIVAConfig
    tensors: dict[str, Tensor]
    network: dict  # architecture and sizes of the network it was trained beside
    metadata: dict[str, str]
    source: str
    kind: str = MIVA.kind
    notes: tuple[str, ...] = ()

    def build(self, module: nn.Module) -> MIVA:
        """The adapter for `module`. Raises CheckpointError when it is one of another model."""
        here = network_of(module)
        if wrong := [name for name in here if self.network.get(name) != here[name]]:
            name = wrong[0]
            raise CheckpointError(
                f"{self.source}: made for a network whose {name} is {shown(str(self.network.get(name)))}; here it is "
                f"{shown(str(here[name]))}; use it with its own model"
            )
        adapter = MIVA(module, self.config)
        adapter.fill(self.tensors, self.source)
        return adapter


def network_of(module: nn.Module) -> dict:
    """Architecture and sizes of one of our networks, plain values."""
    config = module.config
    return {"architecture": ARCHITECTURES.of(config).name, **{name: getattr(config, name) for name in SIZES}}


def miva_metadata(adapter: MIVA) -> dict[str, str]:
    """What the file says besides its numbers."""
    plain = {**asdict(adapter.config), "parts": list(adapter.config.parts)}
    return {"adapter_config": json.dumps(plain), "network": json.dumps(network_of(adapter.module))}


def read_miva(path: str | os.PathLike) -> MIVAFile:
    """Read a MIVA adapter of ours. Raises CheckpointError with file, value, need and way out."""
    tensors, metadata = read_safetensors(path)
    try:
        given, network = (parse_json(metadata[name]) for name in ("adapter_config", "network"))
        parts = given.pop("parts", [])
        if not isinstance(parts, list) or not isinstance(network, dict):
            raise ConfigError("a list of parts and sizes by name are needed")
        config = MIVAConfig(**check_fields(MIVAConfig, given), parts=tuple(parts))
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{Path(path)}: a motion adapter whose settings cannot be read ({shown(str(error), 120)}); it needs the "
            f"texts adapter_config ({', '.join(item.name for item in fields(MIVAConfig))}) and network; get the file "
            "again, or train it anew"
        ) from error
    return MIVAFile(config, tensors, network, metadata, str(path))
