"""Any weights that Load Motion Model takes, told apart by their headers: MiraMo and ours, SANA images, SANA-Video.

Weights are opened once; everything that can be refused is refused before a tensor is read.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...models.model_spec import FAMILY, LinearVideoSpec
from ...models.sana_video.spec import SanaVideoSpec, sana_video_spec
from ..files.kind import shown
from ..files.weight_folder import WeightSource, open_weights, pointing_to
from .families import OURS, detect_family
from .linear_video import LISTED, checked_linear_video
from .sana import ROWS, image_spec, inflated_file, origin_of, row_of
from .sana_layouts import SanaLayout, detect_sana, to_our_names

NEED = (
    "a linear video model (MiraMo layout, or saved by MotionBlocks), SANA-Video, or SANA image weights of 512 or 1024 "
    "px are needed"
)
NETWORKS = "table Networks"  # of docs/models.md, where the file's name does not tell its row
UNTRAINED = (
    "made a video model in memory, untrained: each frame is a picture of its own. Inflate Image Model saves one for "
    "Train Motion Model"
)
_NAMED = (("video", "SANA-Video 480p"), ("sana1.5", "SANA-1.5"), ("sana-1.5", "SANA-1.5"), ("1600m", "SANA 1.6B"),
          ("600m", "SANA 0.6B"))  # fmt: skip


@dataclass(frozen=True)
class OpenedVideoModel:
    """Weights whose headers have passed every check. layout: None for a linear video model. row: of docs/models.md."""

    source: WeightSource
    layout: SanaLayout | None

    @property
    def row(self) -> str:
        return "" if self.layout is None else row_of(self.layout.dims)

    @property
    def num_bytes(self) -> int:
        """Of the stored weights."""
        return self.source.num_bytes

    def read(self, on_bytes: Callable[[int], None] | None = None) -> "VideoModelFile":
        """The weights, whole. on_bytes: told the size of each tensor once it is read. Raises CheckpointError."""
        source, layout = self.source, self.layout
        with pointing_to(self.row):
            if layout is None:
                return _ours(source, on_bytes)
            if layout.dims.family == "sana":
                return _inflated(source, layout, on_bytes)
            spec = _spec(source, layout)
            _check_floating(source)
            state = to_our_names(layout, source.read(on_bytes))
            return VideoModelFile(spec, state, f"SANA-Video ({_naming(source, layout)})", self.row)


@dataclass(frozen=True)
class VideoModelFile:
    """A network's weights under our names and what is known of them. title, note: for the user.

    origin: metadata that goes on to what is trained from it, licence and source.
    """

    spec: LinearVideoSpec | SanaVideoSpec
    state_dict: dict[str, Tensor]
    title: str
    row: str = ""
    note: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)


def open_video_model(path: str | os.PathLike) -> OpenedVideoModel:
    """Recognise and check weights by headers alone: a .safetensors file, an index, or a diffusers folder.

    Raises CheckpointError with file, value, need and way out, and the row of docs/models.md where it can be told.
    """
    hint = row_by_name(path)
    source = open_weights(path, row=hint)
    with pointing_to(hint):
        family = OURS if source.metadata.get("family") == FAMILY else detect_family(source.shapes, source.shapes)
        if family == OURS:
            return OpenedVideoModel(source, None)
        if not family.startswith("a SANA"):
            names = list(source.shapes)
            first = ", ".join(shown(name, 60) for name in names[:LISTED])
            raise CheckpointError(
                f"{source.path}: this is {family or 'not a model known here'} ({len(names)} tensors: {first}); {NEED}"
            )
        layout = detect_sana(source.path, source.shapes, source.config)
        opened = OpenedVideoModel(replace(source, row=row_of(layout.dims)), layout)
        if layout.dims.family == "sana_video":
            _spec(source, layout)
        return opened


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


def _ours(source: WeightSource, on_bytes) -> VideoModelFile:
    file = checked_linear_video(source.path, source.shapes, source.metadata, lambda: source.read(on_bytes))
    saved = "saved by MotionBlocks" if source.metadata.get("family") == FAMILY else "MiraMo layout"
    title = f"linear video model ({saved}, {file.spec.objective})"
    return VideoModelFile(file.spec, file.state_dict, title, origin=origin_of(source.metadata))


def _inflated(source: WeightSource, layout: SanaLayout, on_bytes) -> VideoModelFile:
    """SANA image weights with a temporal branch that changes nothing; fp8 ones are widened first."""
    narrow = any(dtype.itemsize == 1 for dtype in _dtypes(source).values())
    file = inflated_file(source, layout, dtype=torch.bfloat16 if narrow else None, on_bytes=on_bytes)
    title = f"SANA image model ({_naming(source, layout)})"
    return VideoModelFile(file.spec, file.state_dict, title, row_of(layout.dims), UNTRAINED, origin_of(file.metadata))


def _spec(source: WeightSource, layout: SanaLayout) -> SanaVideoSpec:
    try:
        return sana_video_spec(layout.dims)
    except ConfigError as error:
        raise CheckpointError(f"{source.path}: {error}") from error


def _naming(source: WeightSource, layout: SanaLayout) -> str:
    files = len(source.headers)
    return f"{'NVlabs' if layout.naming == 'nvlabs' else 'diffusers'} names, {files} file{'s' if files > 1 else ''}"


def _dtypes(source: WeightSource) -> Mapping[str, torch.dtype]:
    return {name: source.headers[place].tensors[name].dtype for name, place in source.places.items()}


def _check_floating(source: WeightSource) -> None:
    for name, dtype in _dtypes(source).items():
        if not dtype.is_floating_point:
            raise CheckpointError(f"{source.path}: weight {shown(name)} is {dtype}; floating point is needed")


def describe(file: VideoModelFile) -> str:
    """A few lines for the user: what it is, which VAE and text encoder it needs, how it is sampled."""
    tensors = file.state_dict.values()
    count, size = sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
    return _lines(file.title, file.row, (count, size), file.spec, file.note)


def describe_headers(opened: OpenedVideoModel) -> str:
    """The lines of `describe` for SANA and SANA-Video weights as they are stored, without reading them.

    Raises CheckpointError for weights that the loader would refuse.
    """
    source, layout = opened.source, opened.layout
    if layout is None:
        raise CheckpointError(f"{source.path}: a linear video model; choose its .safetensors file")
    video = layout.dims.family == "sana_video"
    spec = _spec(source, layout) if video else image_spec(source, layout)
    count = sum(math.prod(shape) for shape in source.shapes.values())
    title = f"{'SANA-Video' if video else 'SANA image model'} ({_naming(source, layout)})"
    return _lines(title, opened.row, (count, source.num_bytes), spec, "" if video else UNTRAINED)


def _lines(title: str, row: str, size: tuple[int, int], spec: LinearVideoSpec | SanaVideoSpec, note: str) -> str:
    """size: parameters and bytes."""
    config, sampling = spec.config, spec.sampling
    frames = f"{sampling.num_frames} frames at {sampling.fps:g} fps"
    lines = (
        f"{title}{f', row {row}' if row in ROWS else ''}",
        f"{size[0]:,} parameters, {size[1] / 2**30:.2f} GiB; {config.num_layers} blocks {config.width} wide",
        note,
        *_partners(spec),
        f"defaults: {sampling.num_steps} steps, cfg {sampling.guidance_scale:g}, shift {sampling.shift:g}, {frames}",
    )
    return "\n".join(line for line in lines if line)


def _partners(spec: LinearVideoSpec | SanaVideoSpec) -> tuple[str, ...]:
    """Lines about the VAE and the text encoder that belong to a model."""
    space = spec.space
    if space.kind == "builtin":
        return ("VAE and text encoder: take both from Load Built-in Motion Model",)
    count = f"{space.temporal_ratio}k+1" if space.temporal_ratio > 1 else "any number of"
    where = f" (row {space.row})" if space.row else ""
    return (
        f"VAE: {space.title}{where}, sides in multiples of {space.multiple} px, {count} frames",
        f"text encoder: Gemma-2-2B (row Gemma-2), {spec.config.caption_channels} wide; rows are of docs/models.md",
    )
