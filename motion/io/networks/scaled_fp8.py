"""Weights kept in fp8 with a number to multiply each by, in both forms that ComfyUI's files have.

The older form marks the file with a tensor `scaled_fp8` and keeps `LAYER.scale_weight`. The newer one keeps
`LAYER.weight_scale` and says so layer by layer: JSON in the bytes of `LAYER.comfy_quant`, or the metadata entry
`_quantization_metadata`. Scales of a layer's input speed up its product and change no weight.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ..files.kind import shown

MARKER, METADATA = "scaled_fp8", "_quantization_metadata"
OLDER, NEWER = "scale_weight", "weight_scale"  # the two forms, called by what they call a scale
SAYS = "comfy_quant"
_LEAVES = {OLDER: (OLDER, "scale_input"), NEWER: (NEWER, "input_scale", SAYS)}
_OTHER_LEAVES = ("weight_scale_2", "pre_quant_scale", "weight_s_rel", "weight_s_channel", "weight_codebook")
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
MAX_SAYS = 4096  # bytes of one layer's JSON
_INSTEAD = "get the bf16, fp16 or fp8_scaled file of the same model"


@dataclass(frozen=True)
class Fp8Scales:
    """What a file says about its scales, by plain names. form: OLDER, NEWER, or "" for a file without scales.

    scales: name of the scale by the weight's. beside: further names that are no weights. said: formats by layer, where
    the metadata says them.
    """

    form: str = ""
    scales: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)


def find_scales(
    path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype], metadata: Mapping[str, str],
    layers: Mapping[str, str],
) -> Fp8Scales:  # fmt: skip
    """The scales among tensors, all by plain names, checked by headers alone; path is for messages.

    layers: plain names of layers by the file's own, which its metadata has. Raises CheckpointError.
    """
    forms = {name: _form(name) for name in shapes}
    found = sorted({form for form in forms.values() if form} | ({NEWER} if METADATA in metadata else set()))
    if len(found) > 1:
        raise CheckpointError(
            f"{path}: has fp8 scales of two kinds, {OLDER} and {NEWER}; one is needed: two files were put "
            f"together; {_INSTEAD}"
        )
    weights = [name for name, form in forms.items() if not form]
    _refuse_other_types(path, weights, dtypes)
    form = found[0] if found else ""
    beside = tuple(name for name in shapes if forms[name] and not name.endswith("." + form))
    scales = {_weight_of(name): name for name in shapes if form and name.endswith("." + form)}
    said = _said(path, metadata, layers)
    told = {name.removesuffix("." + SAYS): name for name in beside if name.endswith("." + SAYS)}
    narrow = {name for name in weights if form and dtypes[name].itemsize == 1}
    _check_whole(path, narrow | {f"{layer}.weight" for layer in (*told, *said)}, weights, scales, form)
    for name in scales.values():
        if math.prod(shapes[name]) != 1 or not dtypes[name].is_floating_point:
            raise CheckpointError(
                f"{path}: scale {shown(name)} is {dtypes[name]} of {shapes[name]}; one number for the whole weight is "
                f"needed; {_INSTEAD}"
            )
    for name in told.values():
        if dtypes[name] != torch.uint8 or math.prod(shapes[name]) > MAX_SAYS:
            raise CheckpointError(f"{path}: {shown(name)} is no short text in bytes; {_INSTEAD}")
    for layer, kind in said.items():
        check_format(path, layer, kind, dtypes[f"{layer}.weight"])
    return Fp8Scales(form, scales, beside, said)


def read_format(path, name: str, raw: Tensor) -> str:
    """The format that a layer's `comfy_quant` names. Raises CheckpointError for what is no such JSON."""
    try:
        values = parse_json(raw.numpy().tobytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: {shown(name)} is not JSON ({shown(str(error), 80)}); {_INSTEAD}") from error
    return _format_in(values)


def check_format(path, layer: str, kind: str, stored: torch.dtype) -> None:
    """Refuse a layer of another format than fp8 with one scale, or than its weight is. Raises CheckpointError."""
    if kind not in FORMATS:
        raise CheckpointError(
            f"{path}: layer {shown(layer)} is quantised as {shown(kind)}; {' and '.join(FORMATS)} are read; {_INSTEAD}"
        )
    if FORMATS[kind] != stored:
        raise CheckpointError(f"{path}: layer {shown(layer)} is said to be {kind}, its weight is {stored}; {_INSTEAD}")


def format_text(dtype: torch.dtype) -> bytes:
    """What `comfy_quant` of a layer kept in this type holds."""
    return json.dumps({"format": next(name for name, kind in FORMATS.items() if kind == dtype)}).encode()


def _form(name: str) -> str:
    """Which form a name belongs to, "" for a weight."""
    if name == MARKER:
        return OLDER
    leaf = name.rpartition(".")[2]
    return next((form for form, leaves in _LEAVES.items() if leaf in leaves), "")


def _weight_of(scale: str) -> str:
    return scale.rpartition(".")[0] + ".weight"


def _refuse_other_types(path, weights: Collection[str], dtypes: Mapping[str, torch.dtype]) -> None:
    other = next((name for name in weights if name.endswith(_OTHER_LEAVES)), None)
    if other is not None:
        raise CheckpointError(
            f"{path}: quantised in blocks (nvfp4, int4: {shown(other)}), which is not read here; {_INSTEAD}"
        )
    whole = next((name for name in weights if not dtypes[name].is_floating_point), None)
    if whole is not None:
        raise CheckpointError(
            f"{path}: weight {shown(whole)} is {dtypes[whole]}; floating point is needed (int8, nvfp4, mxfp8 and int4 "
            f"are not read here): {_INSTEAD}"
        )


def _said(path, metadata: Mapping[str, str], layers: Mapping[str, str]) -> dict[str, str]:
    """Formats by plain layer, out of the metadata."""
    if METADATA not in metadata:
        return {}
    try:
        values = parse_json(metadata[METADATA])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its metadata entry {METADATA!r} is not JSON ({shown(str(error), 80)}); {_INSTEAD}"
        ) from error
    said = values.get("layers") if isinstance(values, dict) else None
    if not isinstance(said, dict):
        raise CheckpointError(f"{path}: its metadata entry {METADATA!r} has no 'layers'; {_INSTEAD}")
    return {layers.get(layer, layer): _format_in(entry) for layer, entry in said.items()}


def _format_in(values) -> str:
    return str(values.get("format")) if isinstance(values, dict) else ""


def _check_whole(path, scaled: set[str], weights: list[str], scales: Mapping[str, str], form: str) -> None:
    """Each scaled weight has its scale, each scale its weight."""
    missing = sorted(name for name in scaled if name not in scales)
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} fp8 weights have no scale ({shown(missing[0])} needs "
            f"{shown(missing[0].removesuffix('weight') + form)}); without it they mean other numbers: {_INSTEAD}"
        )
    stray = sorted(scale for name, scale in scales.items() if name not in set(weights))
    lost = sorted(scaled - set(weights)) or stray
    if lost:
        raise CheckpointError(f"{path}: {len(lost)} fp8 scales have no weight ({shown(lost[0])}); {_INSTEAD}")
