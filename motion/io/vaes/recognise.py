"""Recognise the VAEs that this pack loads, from a file or a diffusers folder, by headers alone."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...models.latent_spaces import SPACES, LatentSpace
from ..files.kind import shown
from ..files.weight_folder import WeightSource, open_weights, pointing_to
from ..networks.families import detect_family
from ..networks.linear_video import compare_shapes
from . import dcae, ltx2_names, svd_names, wan_names

FOLDER = "vae"  # of a diffusers folder that holds network, text encoder and VAE side by side
PREFIXES = ("first_stage_model.", "vae.", "model.")  # of a VAE cut out of a whole checkpoint, or wrapped
CLASSES = {
    "dcae": dcae.CLASS_NAME, "wan21": wan_names.CLASS_NAME, "ltx2": ltx2_names.CLASS_NAME,
    "svd": svd_names.CLASS_NAME,
}  # fmt: skip
KNOWN = "; Load Video VAE takes DC-AE f32c32, Wan 2.1, LTX-2 and SVD's"


@dataclass(frozen=True)
class VAEFile:
    """Weights of a known VAE. places: the host's tensor names -> the file's. config: of the network, for the host.

    adapt: what else the host has otherwise, from and to tensors by its names.
    """

    source: WeightSource
    space: LatentSpace
    places: dict[str, str]
    config: dict
    adapt: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the host's names, as the host has them."""
        shapes = self.source.shapes
        stand_ins = {name: torch.empty(shapes[place], device="meta") for name, place in self.places.items()}
        return {name: tuple(tensor.shape) for name, tensor in self.adapt(stand_ins).items()}

    def check_shapes(self, needed: Mapping[str, tuple[int, ...]], unread: tuple[str, ...] = ()) -> None:
        """Compare with the weights that the host's network has; unread: those that may be absent. CheckpointError."""
        here = {name: shape for name, shape in self.shapes.items() if name not in unread}
        with pointing_to(self.space.row or "VAEs"):
            compare_shapes(self.source.path, here, {name: s for name, s in needed.items() if name not in unread})

    def read(self, on_bytes: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """Every tensor by the host's names, in memory of its own. Raises CheckpointError."""
        tensors = self.source.read(on_bytes)
        return self.adapt({name: tensors[place] for name, place in self.places.items()})


def open_vae(path: str | os.PathLike) -> VAEFile:
    """Recognise DC-AE f32c32, Wan 2.1, LTX-2 and SVD VAEs in the names of diffusers, the first three in the host's too.

    Raises CheckpointError, which names what it is otherwise, the way out, and the row of docs/models.md.
    """
    source = open_weights(path, row="VAEs", folder=FOLDER)
    plain = _without_prefix(source.shapes)
    with pointing_to(source.row or "VAEs"):
        kind = _kind(plain, source)
    source = replace(source, row=SPACES[kind].row)
    with pointing_to(source.row or "VAEs"):
        places, config = _READERS[kind](plain, source)
    adapt = svd_names.host_tensors if kind == "svd" else dict
    return VAEFile(source, SPACES[kind], {name: plain[place] for name, place in places.items()}, config, adapt)


def _without_prefix(names) -> dict[str, str]:
    """Plain names -> names in the file."""
    prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), "")
    return {name[len(prefix) :]: name for name in names}


def _kind(names: Mapping[str, str], source: WeightSource) -> str:
    """Kind of latent space; raises CheckpointError for VAEs of another kind and for what is no VAE."""
    said = str((source.config or {}).get("_class_name", ""))
    marks = {
        "wan21": (wan_names.HOST_MARK, wan_names.DIFFUSERS_MARK),
        "ltx2": (ltx2_names.HOST_MARK, ltx2_names.DIFFUSERS_MARK),
    }
    kind = next((kind for kind, found in marks.items() if any(mark in names for mark in found)), "")
    if not kind and any(".to_qkv_multiscale." in name for name in names):
        kind = "dcae"
    if not kind and any(svd_names.MARK in name for name in names):
        kind = "svd"
    host_layout = names.keys() & {wan_names.HOST_MARK, ltx2_names.HOST_MARK}
    if not kind or (said.startswith("Autoencoder") and said != CLASSES[kind] and not host_layout):
        _refuse_others(names, said, source)
    return kind


def _refuse_others(names: Mapping[str, str], said: str, source: WeightSource) -> None:
    if any(name.startswith("encoder.stages.") for name in names):
        raise CheckpointError(
            f"{source.path}: DC-AE in the tensor names of its makers (encoder.stages…); the diffusers version of the "
            "same weights is needed, whose repository ends in -diffusers"
        )
    family = f"{said} of diffusers" if said.startswith("Autoencoder") else detect_family(names, source.shapes)
    if "vae" in family.lower() or family.startswith("Autoencoder"):
        way = "for other VAEs use the core node Load VAE"
    else:
        way = "choose the VAE"
    raise CheckpointError(
        f"{source.path}: {f'this is {shown(family)[1:-1]}' if family else 'no VAE is known with these tensor names'}"
        f"{KNOWN}; {way}"
    )


def _dcae(names: Mapping[str, str], source: WeightSource) -> tuple[dict[str, str], dict]:
    return {name: name for name in names}, dcae.dcae_network(source.config, source.path)


def _wan(names: Mapping[str, str], source: WeightSource) -> tuple[dict[str, str], dict]:
    shapes, path = source.shapes, source.path
    places = {name: name for name in names}
    if wan_names.DIFFUSERS_MARK in names:
        places = wan_names.host_names(names)
    width = shapes[names[places["conv2.weight"]]][:1] if "conv2.weight" in places else ()
    if width != (wan_names.LATENT_CHANNELS,):
        have = f"{width[0]} latent channels, most likely Wan 2.2's" if width else "no conv2.weight"
        _refuse_wan(path, f"{have}; the Wan 2.1 VAE, with {wan_names.LATENT_CHANNELS}, is needed")
    head = shapes[names[places["decoder.head.0.gamma"]]] if "decoder.head.0.gamma" in places else ()
    if not head:
        _refuse_wan(path, "no decoder.head.0.gamma; the file is incomplete: get it again")
    return places, {"dim": head[0]}


def _refuse_wan(path: Path, what: str) -> None:
    raise CheckpointError(f"{path}: a Wan VAE with {what}")


def _ltx2(names: Mapping[str, str], source: WeightSource) -> tuple[dict[str, str], dict]:
    timed = [name for name in names if "time_embedder" in name or "timestep_scale_multiplier" in name]
    if timed or "decoder.conv_in_x_t.weight" in names:
        raise CheckpointError(
            f"{source.path}: the VAE of LTX-Video or of a later LTX-2, which has other latents or another decoder "
            f"({shown(timed[0] if timed else 'decoder.conv_in_x_t.weight')}); LTX-2.0's is needed"
        )
    if ltx2_names.DIFFUSERS_MARK in names:
        return ltx2_names.host_names(names), ltx2_names.host_config(source.config, source.path)
    end = source.shapes.get(names.get(ltx2_names.ENCODER_END, ""), ())
    if end[1:2] < (ltx2_names.LEAST_WIDTH,):
        raise CheckpointError(
            f"{source.path}: {f'the VAE of LTX-Video, whose encoder ends {end[1]} wide' if end[1:] else 'no encoder'}; "
            f"LTX-2.0's, at least {ltx2_names.LEAST_WIDTH} wide, is needed"
        )
    said = (source.config or {}).get("vae")
    if isinstance(said, dict):
        ltx2_names.check_sizes(said, source.path)
    config = said if isinstance(said, dict) else ltx2_names.host_config(None, source.path)
    return {name: name for name in names}, config


def _svd(names: Mapping[str, str], source: WeightSource) -> tuple[dict[str, str], dict]:
    return svd_names.host_names(names), svd_names.host_config(source.config, source.path)


_READERS = {"dcae": _dcae, "wan21": _wan, "ltx2": _ltx2, "svd": _svd}
