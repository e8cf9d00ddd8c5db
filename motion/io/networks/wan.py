"""Wan weights from a file, shards or a folder: described, read one at a time, and written as ComfyUI's single file."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...models.stored_layers import dequantised
from ..files.atomic import write_chunks
from ..files.kind import shown
from ..files.safetensors import streamed_chunks
from ..files.weight_folder import DOCS, WeightSource, open_weights, pointing_to
from .families import weights_family
from .scaled_fp8 import (
    MARKER,
    METADATA,
    OLDER,
    SAYS,
    check_format,
    format_text,
    read_format,
)
from .video_model_file import OpenedVideoModel, VideoModelFile
from .wan_layouts import FAMILY, WanLayout, detect_wan
from .wan_names import num_parameters, wan_shapes

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ROWS = {  # of docs/models.md, by names of PUBLISHED
    "T2V 1.3B": "Wan 2.1 T2V", "T2V 14B": "Wan 2.1 T2V", "Fun-InP 1.3B": "Wan 2.1 Fun-InP", "I2V 14B": "Wan 2.1 I2V",
    "FLF2V 14B": "Wan 2.1 FLF2V", "A14B T2V": "Wan 2.2 A14B", "A14B I2V": "Wan 2.2 A14B",
}  # fmt: skip
_NAMING = {"host": "ComfyUI's names", "diffusers": "diffusers' names"}


def open_wan(path: str | os.PathLike, *, expert: str = "") -> "OpenedWan":
    """Recognise and check Wan weights by headers alone: a .safetensors file, an index, or a folder.

    expert: of EXPERTS, which half of an A14B model it is, where the name does not say. Raises CheckpointError.
    """
    source = open_weights(path)
    family = weights_family(source.shapes, source.metadata)
    if not family.startswith(FAMILY):
        raise CheckpointError(
            f"{source.path}: this is {family or 'not a model known here'} ({len(source.places)} tensors); a Wan 2.1 or "
            f"2.2 video model is needed (see {DOCS}); those of other models are loaded as they are"
        )
    return open_wan_weights(source, expert=expert)


def open_wan_weights(source: WeightSource, *, expert: str = "") -> "OpenedWan":
    """Check names, shapes and sizes of opened weights, by headers. Raises CheckpointError, ConfigError for expert."""
    layout = detect_wan(source.path, source.shapes, source.dtypes, config=source.config, metadata=source.metadata,
                        expert=expert)  # fmt: skip
    return OpenedWan(replace(source, row=_ROWS.get(layout.variant, "")), layout)


@dataclass(frozen=True)
class OpenedWan(OpenedVideoModel):
    """Wan weights whose headers have passed every check."""

    layout: WanLayout

    @property
    def row(self) -> str:
        """Of docs/models.md; "" for sizes nobody published."""
        return self.source.row

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Number types of the weights as they are stored, by the host's names."""
        stored = self.source.dtypes
        return {name: stored[self.layout.names[name]] for name in self.layout.weight_names}

    @property
    def num_parameters(self) -> int:
        """Weights of the network, scales not counted."""
        return num_parameters(self.layout.config)

    def types(self, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
        """Which types `weights` gives the weights in when `dtype` is asked for; None keeps what they are stored in.

        What has a scale cannot be kept without it, and becomes bfloat16.
        """
        scaled = self.layout.scales.scales
        return {name: dtype or (torch.bfloat16 if name in scaled else stored) for name, stored in self.dtypes.items()}

    @contextmanager
    def stored(self) -> Iterator[Callable[[str], tuple[Tensor, Tensor | None]]]:
        """What reads one weight as it is stored and its scale, if it has one, by the host's name; errors of `weights`.

        Formats of scales are checked first.
        """
        names, scales = self.layout.names, self.layout.scales.scales
        with self.source.opened() as read:
            self._check_formats(read)
            yield lambda name: (read(names[name]), read(names[scales[name]]) if name in scales else None)

    @contextmanager
    def weights(self, dtype: torch.dtype | None = None) -> Iterator[Callable[[str], Tensor]]:
        """What reads one weight by the host's name while the block lasts, its scale applied; dtype as of `types`.

        No more than that weight is in memory. Raises CheckpointError for NaN, formats of scales that are not read, and
        weights that do not fit the type; ConfigError for a dtype that is none of DTYPES.
        """
        if dtype not in (None, *DTYPES):
            raise ConfigError(f"dtype is {dtype}; float32, bfloat16 or float16 is needed")
        types = self.types(dtype)
        with self.stored() as read:

            def weight(name: str) -> Tensor:
                tensor, scale = read(name)
                if scale is None and tensor.dtype == types[name]:
                    return tensor
                made = dequantised(tensor, scale, types[name])
                if not made.isfinite().all():
                    raise CheckpointError(
                        f"{self.source.path}: weight {shown(name)} does not fit {types[name]}; use bfloat16 or float32"
                    )
                return made

            yield weight

    def state_dict(
        self, dtype: torch.dtype | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> dict[str, Tensor]:
        """Every weight by the host's name; arguments and errors as of `weights` and `read`."""
        state = {}
        with pointing_to(self.row), self.weights(dtype) as read:
            for name, stored in self.dtypes.items():
                state[name] = read(name)
                if on_bytes is not None:
                    on_bytes(stored.itemsize * state[name].numel())
        return state

    def describe(self) -> str:
        """What it is, its size as stored, and what belongs to it."""
        layout, files = self.layout, len(self.source.headers)
        expert = f", {layout.expert.replace('_', '-')} expert" if layout.expert else ""
        lines = (
            f"Wan {layout.variant}{expert} ({_NAMING[layout.naming]}, {files} file{'s' if files > 1 else ''}, "
            f"{self._stored_in()}){f', row {self.row}' if self.row else ''}",
            f"{self.num_parameters:,} parameters, {self.num_bytes / 2**30:.2f} GiB; {layout.config.num_layers} blocks "
            f"{layout.config.width} wide",
            self._untold(),
            "VAE: Wan 2.1 VAE (row Wan 2.1 VAE), sides in multiples of 16 px, 4k+1 frames",
            f"text encoder: UMT5-XXL, {layout.config.caption_channels} wide"
            + ("; CLIP vision: ViT-H/14 (1280 wide)" if layout.config.image_tokens else ""),
        )
        return "\n".join(line for line in lines if line)

    def _read(self, on_bytes) -> VideoModelFile:
        raise CheckpointError(
            f"{self.source.path}: this is {FAMILY} ({self.layout.variant}); load it with ComfyUI's own Load Diffusion "
            f"Model; this loader needs a linear video model, SANA-Video or SANA image weights (see {DOCS})"
        )

    def _check_formats(self, read: Callable[[str], Tensor]) -> None:
        stored = self.dtypes
        for name in self.layout.scales.beside:
            layer, _, leaf = name.rpartition(".")
            if leaf == SAYS:
                kind = read_format(self.source.path, name, read(self.layout.names[name]))
                check_format(self.source.path, layer, kind, stored[f"{layer}.weight"])

    def _stored_in(self) -> str:
        """The type of most numbers, and how scales are kept."""
        held: dict[torch.dtype, int] = {}
        shapes = wan_shapes(self.layout.config)
        for name, dtype in self.dtypes.items():
            held[dtype] = held.get(dtype, 0) + math.prod(shapes[name])
        most = str(max(held, key=held.get)).removeprefix("torch.")
        form = self.layout.scales.form
        return f"scaled {most}, {form}" if form else most

    def _untold(self) -> str:
        """What names and shapes leave open."""
        layout = self.layout
        if layout.expert or layout.config.image_tokens or self.row not in ("Wan 2.1 T2V", "Wan 2.2 A14B") or \
                layout.variant == "T2V 1.3B":  # fmt: skip
            return ""
        what = "either expert of Wan 2.2 A14B"
        what = f"this or {what}" if layout.variant == "T2V 14B" else what
        return f"its names and shapes fit {what}; its file's name does not tell which"


@dataclass(frozen=True)
class ConvertedWan:
    """What `convert_wan` wrote. expert: of EXPERTS, "" where nothing told it."""

    path: Path
    title: str
    num_parameters: int
    expert: str


def convert_wan(
    path: str | os.PathLike, output: str | os.PathLike, *, dtype: torch.dtype | None = None, expert: str = ""
) -> ConvertedWan:
    """Write Wan weights of any layout as one .safetensors file in ComfyUI's names, a weight at a time.

    dtype: None keeps every number as it is stored, fp8 with its scales. Raises CheckpointError and ConfigError; then
    nothing is written.
    """
    opened = open_wan(path, expert=expert)
    with opened.weights(dtype) as read:
        if dtype is None and opened.layout.scales.form:
            write_chunks(output, _as_stored(opened))
        else:
            shapes = wan_shapes(opened.layout.config)
            kinds = {name: (kind, shapes[name]) for name, kind in opened.types(dtype).items()}
            write_chunks(output, streamed_chunks(kinds, read, _metadata(opened)))
    title = f"Wan {opened.layout.variant}"
    return ConvertedWan(Path(output), title, opened.num_parameters, opened.layout.expert)


def _as_stored(opened: OpenedWan) -> Iterator[bytes]:
    """A file whose fp8 weights keep their scales, in the form they are in."""
    layout, stored, shapes = opened.layout, opened.source.dtypes, opened.source.shapes
    kinds = {name: (stored[full], shapes[full]) for name, full in layout.names.items()}
    added = {name: tensor for name, tensor in _marks(opened).items() if name not in kinds}
    kinds |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in added.items()}
    with opened.source.opened() as read:
        yield from streamed_chunks(
            kinds, lambda name: added[name] if name in added else read(layout.names[name]), _metadata(opened)
        )


def _marks(opened: OpenedWan) -> dict[str, Tensor]:
    """The tensors by which the host knows that a file has scales."""
    scales, stored = opened.layout.scales, opened.dtypes
    narrow = {name: stored[name] for name in scales.scales if stored[name].itemsize == 1}
    if scales.form == OLDER:
        return {MARKER: torch.empty(0, dtype=next(iter(narrow.values()), torch.float8_e4m3fn))}
    texts = {name.removesuffix("weight") + SAYS: format_text(dtype) for name, dtype in narrow.items()}
    return {name: torch.tensor(list(text), dtype=torch.uint8) for name, text in texts.items()}


def _metadata(opened: OpenedWan) -> dict[str, str]:
    """What the source said of itself, and what only its names or its config told."""
    layout, source = opened.layout, opened.source
    kept = {name: value for name, value in source.metadata.items() if name not in (METADATA, "format")}
    config = {"_class_name": "WanModel", "dim": layout.config.width, "num_heads": layout.config.num_attention_heads}
    about = {
        "config": json.dumps(config), "converted": f"by motionblocks, from {_NAMING[layout.naming]}",
        "source": source.metadata.get("source", source.path.name),
    }  # fmt: skip
    return kept | about | ({"expert": layout.expert} if layout.expert else {})
