"""Weights of a network of any architecture, opened by their headers or read whole, and the lines that describe them.

An architecture's own file beside this one makes its `OpenedVideoModel`; `video_model.py` has the table of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...models.architecture import Architecture
from ...models.model_spec import ModelSpec
from ..files.weight_folder import WeightSource, pointing_to

ROWS = ("SANA 0.6B", "SANA 1.6B", "SANA-1.5", "SANA-Video 480p", "SANA-Video 720p", "Wan 2.1 T2V", "Wan 2.1 I2V",
        "Wan 2.1 FLF2V", "Wan 2.1 Fun-InP", "Wan 2.2 A14B")  # of docs/models.md  # fmt: skip
ORIGIN = ("license", "source")  # metadata that goes on to everything made of a file


def origin_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file trained from one with this metadata has to say as well."""
    return {name: metadata[name] for name in ORIGIN if name in metadata}


@dataclass(frozen=True)
class VideoModelFile:
    """A network's weights under our names and what is known of them. title, note: for the user.

    origin: metadata that goes on to what is trained from it, licence and source.
    """

    architecture: Architecture
    spec: ModelSpec
    state_dict: dict[str, Tensor]
    title: str
    row: str = ""
    note: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenedVideoModel(ABC):
    """Weights whose headers have passed every check."""

    source: WeightSource

    @property
    def row(self) -> str:
        """Of docs/models.md, "" where the file does not tell."""
        return ""

    @property
    def num_bytes(self) -> int:
        """Of the stored weights."""
        return self.source.num_bytes

    def read(self, on_bytes: Callable[[int], None] | None = None) -> VideoModelFile:
        """The weights, whole. on_bytes: told the size of each tensor once it is read. Raises CheckpointError."""
        with pointing_to(self.row):
            return self._read(on_bytes)

    @abstractmethod
    def _read(self, on_bytes: Callable[[int], None] | None) -> VideoModelFile: ...

    @abstractmethod
    def describe(self) -> str:
        """The lines of `describe` for the weights as they are stored, without reading them. Raises CheckpointError."""


def describe(file: VideoModelFile) -> str:
    """A few lines for the user: what it is, which VAE and text encoder it needs, how it is sampled."""
    tensors = file.state_dict.values()
    count, size = sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
    return described(file.title, file.row, (count, size), file.spec, file.note)


def described(title: str, row: str, size: tuple[int, int], spec: ModelSpec, note: str = "") -> str:
    """The lines themselves. size: parameters and bytes."""
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


def _partners(spec: ModelSpec) -> tuple[str, ...]:
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
