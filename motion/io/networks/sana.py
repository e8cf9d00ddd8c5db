"""SANA weights from a file or a diffusers folder, and the video model made of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...errors import CheckpointError, ConfigError
from ...models.inflation import inflate, inflated_config
from ...models.model_spec import LatentSpec, LinearVideoSpec
from ...models.sana_video.dims import SanaDims
from ..files.safetensors import DTYPES
from ..files.weight_folder import DOCS, NETWORK_FOLDER, WeightSource, open_weights
from .linear_video import LinearVideoFile, save_linear_video
from .sana_layouts import SanaLayout, detect_sana, to_our_names

LICENCE = "NVIDIA NSCL v2-custom, inherited from the SANA weights this was made of; their model card decides"


@dataclass(frozen=True)
class Inflated:
    """What `inflate_sana` wrote."""

    path: Path
    spec: LinearVideoSpec
    num_parameters: int
    dropped: tuple[str, ...]


def open_sana(path: str | os.PathLike) -> tuple[WeightSource, SanaLayout]:
    """Recognise SANA or SANA-Video weights by headers alone. Raises CheckpointError."""
    source = open_weights(path, row="SANA")
    layout = detect_sana(source.path, source.shapes, source.config)
    return replace(source, row=row_of(layout.dims)), layout


def row_of(dims: SanaDims) -> str:
    """The row of docs/models.md that weights of these sizes belong to; "SANA" for sizes nobody published."""
    if dims.family == "sana_video":
        return "SANA-Video 480p" if dims.in_channels == 16 else "SANA-Video 720p"
    if dims.qk_norm:
        return "SANA-1.5"
    return {1152: "SANA 0.6B", 2240: "SANA 1.6B"}.get(dims.width, "SANA")


def inflate_sana(
    path: str | os.PathLike, output: str | os.PathLike, *, init: str = "zero", objective: str = "t2v",
    dtype: torch.dtype | None = None,
) -> Inflated:  # fmt: skip
    """Make a video model file of SANA image weights; see models/inflation.py for init.

    objective: "t2v" or "i2v_residual", what the file will be trained for. dtype: None keeps the type of the weights.
    The metadata carries licence and source. Raises CheckpointError and ConfigError; then nothing is written.
    """
    source, layout = open_sana(path)
    file = inflated_file(source, layout, init=init, objective=objective, dtype=dtype)
    save_linear_video(output, file.spec, file.state_dict, extra_metadata=file.metadata)
    count = sum(tensor.numel() for tensor in file.state_dict.values())
    return Inflated(Path(output), file.spec, count, layout.dropped)


def inflated_file(
    source: WeightSource, layout: SanaLayout, *, init: str = "zero", objective: str = "t2v",
    dtype: torch.dtype | None = None, on_bytes: Callable[[int], None] | None = None,
) -> LinearVideoFile:  # fmt: skip
    """The video model of opened image weights, in memory; arguments as of `inflate_sana`, on_bytes as of `read`.

    metadata: licence, source and kind of inflation, for `save_linear_video`. Everything that can be refused by headers
    is refused before a tensor is read. Raises CheckpointError and ConfigError.
    """
    if dtype is not None and (dtype not in DTYPES.values() or not dtype.is_floating_point or dtype.itemsize == 1):
        raise ConfigError(f"dtype is {dtype}; float32, bfloat16 or float16 is needed")
    spec = image_spec(source, layout, objective)
    for name, header in ((name, source.headers[place].tensors[name]) for name, place in source.places.items()):
        _check_usable(name, header.dtype, source, dtype)
    state = to_our_names(layout, source.read(on_bytes))
    for name in list(state) if dtype is not None else ():
        state[name] = state[name].to(dtype)
    state = inflate(state, spec.config, init=init)
    place = source.path.parent if source.path.name == NETWORK_FOLDER else source.path
    about = {
        "license": source.metadata.get("license", LICENCE), "source": f"{source.row} ({place.name})",
        "inflation": f"{init}-init of the temporal branch; untrained",
    }  # fmt: skip
    return LinearVideoFile(spec, state, None, about)


def image_spec(source: WeightSource, layout: SanaLayout, objective: str = "t2v") -> LinearVideoSpec:
    """What the video model says about itself: SANA's latent space and MiraMo's sampling. Raises CheckpointError."""
    dims = layout.dims
    if dims.family != "sana":
        raise CheckpointError(
            f"{source.path}: this is a SANA-Video model, which is a video model already; load it as it is, or choose a "
            f"SANA image model ({DOCS}, SANA 0.6B)"
        )
    known = LatentSpec()
    if (dims.in_channels, dims.patch_size[1]) != (known.channels, 1):
        raise CheckpointError(
            f"{source.path}: {dims.in_channels} latent channels with patch {dims.patch_size[1]}; {known.channels} with "
            f"patch 1 are needed, which DC-AE f32c32 decodes ({DOCS}, SANA 0.6B)"
        )
    return LinearVideoSpec(config=inflated_config(dims), latent=known, objective=objective)


def _check_usable(name: str, stored: torch.dtype, source: WeightSource, dtype: torch.dtype | None) -> None:
    if not stored.is_floating_point or (dtype is None and stored.itemsize == 1):
        raise CheckpointError(
            f"{source.path}: weight {name} is {stored}; weights to train on are float32, bfloat16 or float16: give a "
            f"dtype, or get another file ({DOCS}, {source.row})"
        )
