"""The alpha of LoRA layers that carry no `alpha` tensor, as PEFT and diffusers leave them.

PEFT keeps it beside the file, in adapter_config.json; diffusers, since mid-2025, inside, in the metadata entry
`lora_adapter_metadata`; others in plain entries. Both are read here, as their own loaders do. Where nothing says, alpha
is the rank, so that a difference counts once: diffusers, PEFT's users and the host agree on that. The host's loaders
never look at the metadata, and so use 1 where this reader finds another scale.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ..files.kind import shown

CONFIG_NAME = "adapter_config.json"
CONFIG_STEM = "adapter_model"  # the file that PEFT's config lies beside
MAX_CONFIG = 2**20
_ENTRY = "lora_adapter_metadata"
_PLAIN_ENTRIES = ("lora_alpha", "network_alpha", "alpha")
_COMPONENTS = ("transformer.", "unet.", "")  # of a diffusers pipeline, in its entry


@dataclass(frozen=True)
class DeclaredScale:
    """What is said about all layers together. source: where it is said, "" for nowhere."""

    source: str = ""
    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)  # by layer, or by the end of its name
    root_of_rank: bool = False  # rs-LoRA: the scale is alpha / √rank

    def alpha_of(self, layer: str, rank: int) -> float:
        """The alpha for which alpha / rank is the layer's scale."""
        own = (alpha for name, alpha in self.patterns.items() if layer == name or layer.endswith(f".{name}"))
        alpha = next(own, self.alpha)
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.root_of_rank else alpha


def declared_scale(path: Path, metadata: Mapping[str, str]) -> DeclaredScale:
    """What metadata or the config beside the file say. Raises CheckpointError for what cannot be."""
    if _ENTRY in metadata:
        values = _parsed(path, f"metadata entry {_ENTRY}", metadata[_ENTRY])
        for component in _COMPONENTS:
            if f"{component}lora_alpha" in values:
                own = {name.removeprefix(component): value for name, value in values.items()}
                return _from_config(path, f"metadata entry {_ENTRY}", own)
    for entry in _PLAIN_ENTRIES:
        if entry in metadata:
            return DeclaredScale(f"metadata entry {entry}", _positive(path, entry, metadata[entry]))
    config = path.parent / CONFIG_NAME
    if path.stem == CONFIG_STEM and config.is_file():
        return _from_config(path, CONFIG_NAME, _parsed(path, CONFIG_NAME, _read(config)))
    return DeclaredScale()


def _from_config(path: Path, source: str, values: dict) -> DeclaredScale:
    patterns = values.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: alpha_pattern in its {source} is {shown(str(patterns))}; names and numbers are "
                              "needed; get the file again")  # fmt: skip
    odd = [name for name in patterns if any(mark in name for mark in "\\*+?[](){}|^$")]
    if odd:
        raise CheckpointError(f"{path}: alpha_pattern in its {source} names layers by the expression {shown(odd[0])}; "
                              "plain names are read here: write the layers out")  # fmt: skip
    given = {name: _positive(path, "alpha_pattern", value) for name, value in patterns.items()}
    alpha = values.get("lora_alpha")
    return DeclaredScale(source, None if alpha is None else _positive(path, "lora_alpha", alpha), given,
                         values.get("use_rslora") is True)  # fmt: skip


def _positive(path: Path, name: str, value) -> float:
    """A number above 0, given as one or as text."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise CheckpointError(f"{path}: its {name} is {shown(str(value))}; a number above 0 is needed; get the file "
                              "again, or take the entry out")  # fmt: skip
    return number


def _parsed(path: Path, source: str, text: bytes | str) -> dict:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its {source} is no JSON ({shown(str(error))}); get the file again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its {source} is a {type(values).__name__}; a JSON object is needed")
    return values


def _read(config: Path) -> bytes:
    try:
        with open(config, "rb") as handle:
            data = handle.read(MAX_CONFIG + 1)
    except OSError as error:
        raise CheckpointError(f"{config}: cannot be read ({error.strerror or error}); check its permissions") from error
    if len(data) > MAX_CONFIG:
        raise CheckpointError(f"{config}: over {MAX_CONFIG} bytes; an adapter's config is far smaller; get it again")
    return data
