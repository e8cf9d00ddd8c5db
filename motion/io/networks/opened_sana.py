"""SANA and SANA-Video among the weights of all architectures: the first made video models in memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ...errors import CheckpointError, ConfigError
from ...models.linear_video.architecture import LINEAR_VIDEO
from ...models.sana_video.architecture import SANA_VIDEO
from ...models.sana_video.spec import SanaVideoSpec, sana_video_spec
from ..files.kind import shown
from ..files.weight_folder import WeightSource
from .sana import image_spec, inflated_file, row_of
from .sana_layouts import SanaLayout, detect_sana, to_our_names
from .video_model_file import OpenedVideoModel, VideoModelFile, described, origin_of

UNTRAINED = (
    "made a video model in memory, untrained: each frame is a picture of its own. Inflate Image Model saves one for "
    "Train Motion Model"
)


def open_sana_weights(source: WeightSource) -> OpenedVideoModel:
    """Check names, shapes and sizes, by headers. Raises CheckpointError."""
    layout = detect_sana(source.path, source.shapes, source.config)
    source = replace(source, row=row_of(layout.dims))
    if layout.dims.family == "sana":
        return OpenedSanaImage(source, layout)
    try:
        return OpenedSanaVideo(source, layout, sana_video_spec(layout.dims))
    except ConfigError as error:
        raise CheckpointError(f"{source.path}: {error}") from error


@dataclass(frozen=True)
class _OpenedSana(OpenedVideoModel):
    """What both have: a layout, which tells the row."""

    layout: SanaLayout

    @property
    def row(self) -> str:
        """Of docs/models.md; "SANA" for sizes nobody published."""
        return self.source.row

    def _title(self, what: str) -> str:
        files = len(self.source.headers)
        names = "NVlabs" if self.layout.naming == "nvlabs" else "diffusers"
        return f"{what} ({names} names, {files} file{'s' if files > 1 else ''})"

    @property
    def _size(self) -> tuple[int, int]:
        """Parameters and bytes as they are stored."""
        return sum(math.prod(shape) for shape in self.source.shapes.values()), self.source.num_bytes

    @property
    def _dtypes(self) -> Mapping[str, torch.dtype]:
        places = self.source.places.items()
        return {name: self.source.headers[place].tensors[name].dtype for name, place in places}


@dataclass(frozen=True)
class OpenedSanaVideo(_OpenedSana):
    """SANA-Video weights, as published."""

    spec: SanaVideoSpec

    def _read(self, on_bytes) -> VideoModelFile:
        for name, dtype in self._dtypes.items():
            if not dtype.is_floating_point:
                raise CheckpointError(
                    f"{self.source.path}: weight {shown(name)} is {dtype}; floating point is needed"
                )
        state = to_our_names(self.layout, self.source.read(on_bytes))
        return VideoModelFile(SANA_VIDEO, self.spec, state, self._title(SANA_VIDEO.title), self.row)

    def describe(self) -> str:
        """What it is, its size as stored, its partners and defaults."""
        return described(self._title(SANA_VIDEO.title), self.row, self._size, self.spec)


@dataclass(frozen=True)
class OpenedSanaImage(_OpenedSana):
    """SANA image weights, which get a temporal branch that changes nothing; fp8 ones are widened first."""

    TITLE = "SANA image model"

    def _read(self, on_bytes) -> VideoModelFile:
        narrow = any(dtype.itemsize == 1 for dtype in self._dtypes.values())
        dtype = torch.bfloat16 if narrow else None
        file = inflated_file(self.source, self.layout, dtype=dtype, on_bytes=on_bytes)
        title, origin = self._title(self.TITLE), origin_of(file.metadata)
        return VideoModelFile(LINEAR_VIDEO, file.spec, file.state_dict, title, self.row, UNTRAINED, origin)

    def describe(self) -> str:
        """What it is, its size as stored, partners and defaults of what is made of it. Raises CheckpointError."""
        spec = image_spec(self.source, self.layout)
        return described(self._title(self.TITLE), self.row, self._size, spec, UNTRAINED)
