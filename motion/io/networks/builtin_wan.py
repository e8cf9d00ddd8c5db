"""Files of Wan models that come with the pack: weights in ComfyUI's names, with words and sampling told beside them.

The network itself is a plain Wan file, which ComfyUI's own loader opens too.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ...models.model_spec import SamplingDefaults
from ...models.wan.network import WanDiT
from ...models.wan.spec import WanSpec
from ...text.scene_vocabulary import SceneVocabulary
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values
from .linear_video import compare_shapes
from .wan import OpenedWan, open_wan
from .wan_names import wan_shapes

CONFIG, SAMPLING, WORDS = "config", "sampling", "words"  # metadata entries


@dataclass(frozen=True)
class BuiltinWanFile:
    """A Wan model with its own words."""

    opened: OpenedWan
    spec: WanSpec
    vocabulary: SceneVocabulary
    metadata: dict[str, str]

    def network(self) -> WanDiT:
        """The network in float32, ready to run. Raises CheckpointError."""
        state = self.opened.state_dict(torch.float32)
        dit = WanDiT(self.spec.config, device="meta")
        dit.load_state_dict(state, assign=True)
        return dit.eval().requires_grad_(False)


def save_builtin_wan(
    path: str | os.PathLike, spec: WanSpec, state: Mapping[str, Tensor], groups: Mapping[str, tuple[str, ...]],
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Save a network as float16. Raises CheckpointError for weights that do not fit the spec or are not finite."""
    path = Path(path)
    compare_shapes(path, {name: tuple(value.shape) for name, value in state.items()}, wan_shapes(spec.config))
    tensors = {name: state[name].detach().to(torch.float16).contiguous() for name in wan_shapes(spec.config)}
    for name, tensor in tensors.items():
        check_values(name, tensor, path)
    SceneVocabulary(groups)
    config = {"_class_name": "WanModel", "dim": spec.config.width, "num_heads": spec.config.num_attention_heads}
    own = {CONFIG: json.dumps(config), SAMPLING: json.dumps(spec.sampling.to_dict()),
           WORDS: json.dumps({name: list(words) for name, words in groups.items()})}  # fmt: skip
    write_safetensors(path, tensors, {**(metadata or {}), **own})


def read_builtin_wan(path: str | os.PathLike) -> BuiltinWanFile:
    """Open a Wan model that has words of its own, by its headers. Raises CheckpointError for others."""
    opened = open_wan(path)
    metadata = opened.source.metadata
    if WORDS not in metadata or SAMPLING not in metadata:
        raise CheckpointError(f"{path}: this Wan model has no words of its own; load it with ComfyUI's own nodes")
    try:
        vocabulary = SceneVocabulary(parse_json(metadata[WORDS]))
        sampling = SamplingDefaults.from_dict(parse_json(metadata[SAMPLING]))
        spec = WanSpec(opened.layout.config, sampling, vocabulary.max_tokens)
    except ValueError as error:
        raise CheckpointError(f"{path}: what it says of itself is not usable: {shown(str(error), 200)}; get the pack "
                              "again") from error  # fmt: skip
    return BuiltinWanFile(opened, spec, vocabulary, metadata)
