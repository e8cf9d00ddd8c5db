"""MIVA adapters as files: the numbers under names of ours, sizes and forms in the metadata.

    blocks.{i}.cfa.{q,o}.{down,up}  .cfa.lam.{weight,bias}    blocks.{i}.ca.{down,up}  .ca.norm.{weight,bias}
    blocks.{i}.tsa.{q,k,v,o}.{down,up}                        metadata: family miva, adapter_config, network
    masked: blocks.{i}.cfa_m.{q,o}.{down,up}  blocks.{i}.ca_bg as ca  mask_reader
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor, nn

from ...adapters.base_sample import notes_beside
from ...adapters.miva import MIVA, MIVAConfig
from ...errors import CheckpointError, ConfigError
from ...foreign_json import parse_json
from ...models.architectures import ARCHITECTURES
from ...models.linear_video.config import NetworkConfig
from ...records import check_fields
from ..files.kind import shown
from ..files.safetensors import read_safetensors

SIZES = ("width", "num_layers", "num_attention_heads")
PLAIN = MIVAConfig()
LISTS = ("parts", "whole", "biased")  # settings that are lists
ALWAYS = ("rank", "alpha", "mode", "tau", "parts")  # settings that every file names; others where they are special
ANIMATEDIFF = "sd15-animatediff-v3"  # an architecture that files may be converted for, and that nothing here runs
FIRST_FRAME = "first_frame"  # in the metadata: how the start image reaches the network; files without it say NATIVE
CLEAN, NATIVE = "clean_same_t", "native"
BEGINNINGS = {
    CLEAN: "Wan text to video (16 channels), whose first frame adapters are given clean",
    NATIVE: "a model that reads the start image itself, as Wan image to video (36 channels) does",
}  # fmt: skip
READS_ENTRY, PUBLISHED_READS = "cross_frame_reads", "raw, without gate"  # in the metadata of converted Wan files
READS_NOTE = (
    "its published code reads other frames from un-normed tokens, outside the gate; here they are read normed and "
    "inside it, as the paper says: its motion may come out otherwise"
)


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

    @property
    def first_frame(self) -> str:
        """One of BEGINNINGS."""
        return CLEAN if self.metadata.get(FIRST_FRAME) == CLEAN else NATIVE

    def notes_on(self, module: nn.Module) -> tuple[str, ...]:
        """What a user should know of it beside this module: that it was trained beside another one."""
        return notes_beside(self.metadata, module, "the adapter")

    def build(self, module: nn.Module, sizes: NetworkConfig | None = None) -> MIVA:
        """The adapter for `module`. Raises CheckpointError when it is one of another model.

        sizes: the config of a network that has none itself, as the host's.
        """
        if self.network.get("architecture") == ANIMATEDIFF:
            raise CheckpointError(
                f"{self.source}: a motion adapter for AnimateDiff, which this pack does not run; choose one that was "
                "made for this model"
            )
        sizes = module.config if sizes is None else sizes
        here = network_of(sizes)
        if wrong := [name for name in here if self.network.get(name) != here[name]]:
            name = wrong[0]
            raise CheckpointError(
                f"{self.source}: made for a network whose {name} is {shown(str(self.network.get(name)))}; here it is "
                f"{shown(str(here[name]))}; use it with its own model"
            )
        if (theirs := self.first_frame) != (ours := first_frame_of(sizes)):
            raise CheckpointError(
                f"{self.source}: made for {BEGINNINGS[theirs]}; this model is {BEGINNINGS[ours]}: train one for it"
            )
        adapter = MIVA(module, self.config, sizes=sizes)
        adapter.fill(self.tensors, self.source)
        return adapter


def network_of(config: NetworkConfig) -> dict:
    """Architecture and sizes of a network, plain values."""
    return {"architecture": ARCHITECTURES.of(config).name, **{name: getattr(config, name) for name in SIZES}}


def miva_metadata(adapter: MIVA) -> dict[str, str]:
    """What the file says besides its numbers."""
    begins = first_frame_of(adapter.sizes)
    told = {} if begins == NATIVE else {FIRST_FRAME: begins}
    return {**settings_metadata(adapter.config, network_of(adapter.sizes)), **told}


def first_frame_of(config: NetworkConfig) -> str:
    """How the start image reaches a network under a motion adapter: one of BEGINNINGS."""
    return CLEAN if ARCHITECTURES.of(config).clean_first_frame(config) else NATIVE


def settings_metadata(config: MIVAConfig, network: dict) -> dict[str, str]:
    """The two texts of a file that say what its numbers are."""
    plain = {name: value for name, value in asdict(config).items() if name in ALWAYS or value != getattr(PLAIN, name)}
    return {"adapter_config": json.dumps(plain), "network": json.dumps(network)}


def read_miva(path: str | os.PathLike) -> MIVAFile:
    """Read a MIVA adapter of ours. Raises CheckpointError with file, value, need and way out."""
    tensors, metadata = read_safetensors(path)
    try:
        given, network = (parse_json(metadata[name]) for name in ("adapter_config", "network"))
        lists = {name: given.pop(name, []) for name in LISTS}
        if not all(isinstance(value, list) for value in lists.values()) or not isinstance(network, dict):
            raise ConfigError("a list of parts and sizes by name are needed")
        config = MIVAConfig(**check_fields(MIVAConfig, given), **{name: tuple(value) for name, value in lists.items()})
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{Path(path)}: a motion adapter whose settings cannot be read ({shown(str(error), 120)}); it needs the "
            f"texts adapter_config ({', '.join(item.name for item in fields(MIVAConfig))}) and network; get the file "
            "again, or train it anew"
        ) from error
    notes = (READS_NOTE,) if metadata.get(READS_ENTRY) == PUBLISHED_READS else ()
    return MIVAFile(config, tensors, network, metadata, str(path), notes=notes)
