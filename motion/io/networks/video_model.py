"""Any weights of networks, told apart by their headers: MiraMo and ours, SANA images, SANA-Video, Wan.

Weights are opened once; everything that can be refused is refused before a tensor is read.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import CheckpointError
from ...models.architectures import ARCHITECTURES, ArchitectureTable
from ...models.linear_video.architecture import LINEAR_VIDEO
from ..files.kind import shown
from ..files.weight_folder import WeightSource, open_weights, pointing_to
from .families import weights_family
from .linear_video import LISTED
from .opened_linear_video import OpenedLinearVideo
from .opened_sana import open_sana_weights
from .video_model_file import OpenedVideoModel, VideoModelFile
from .wan import open_wan_weights
from .wan_layouts import FAMILY as WAN

NEED = (
    "a linear video model (MiraMo layout, or saved by MotionBlocks), SANA-Video, or SANA image weights of 512 or 1024 "
    "px are needed"
)
NETWORKS = "table Networks"  # of docs/models.md, where the file's name does not tell its row
_NAMED = (("video", "SANA-Video 480p"), ("sana1.5", "SANA-1.5"), ("sana-1.5", "SANA-1.5"), ("1600m", "SANA 1.6B"),
          ("600m", "SANA 0.6B"))  # fmt: skip
Opener = Callable[[WeightSource], OpenedVideoModel]
OPENERS: Mapping[str, Opener] = {  # how the family begins, in the words of `weights_family` -> what checks the headers
    LINEAR_VIDEO.name: OpenedLinearVideo,
    "a SANA": open_sana_weights,
    WAN: open_wan_weights,
}


def open_video_model(
    path: str | os.PathLike, *, openers: Mapping[str, Opener] = OPENERS, table: ArchitectureTable = ARCHITECTURES
) -> OpenedVideoModel:
    """Recognise and check weights by headers alone: a .safetensors file, an index, or a diffusers folder.

    Raises CheckpointError with file, value, need and way out, and the row of docs/models.md where it can be told.
    """
    hint = row_by_name(path)
    source = open_weights(path, row=hint)
    with pointing_to(hint):
        family = weights_family(source.shapes, source.metadata, table)
        opener = next((opener for start, opener in openers.items() if family.startswith(start)), None)
        if opener is None:
            names = list(source.shapes)
            first = ", ".join(shown(name, 60) for name in names[:LISTED])
            raise CheckpointError(
                f"{source.path}: this is {family or 'not a model known here'} ({len(names)} tensors: {first}); {NEED}"
            )
        return opener(source)


def read_video_model(path: str | os.PathLike, on_bytes: Callable[[int], None] | None = None) -> VideoModelFile:
    """Open and read at once. Raises CheckpointError."""
    return open_video_model(path).read(on_bytes)


def row_by_name(path: str | os.PathLike) -> str:
    """The row of docs/models.md that a file of this name would belong to, for messages about files that are broken."""
    name = "/".join(Path(path).parts[-2:]).lower().replace("_", "-")
    if "sana" not in name:
        return NETWORKS
    if "video" in name and ("720p" in name or "ltx" in name):
        return "SANA-Video 720p"
    return next((row for mark, row in _NAMED if mark in name), NETWORKS)
