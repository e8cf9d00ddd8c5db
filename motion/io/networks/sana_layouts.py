"""Names of the public SANA weights, NVlabs' and diffusers', as one table; which file is which, and what is refused.

Our own names are those of diffusers. NVlabs keeps q, k, v (and k, v of the cross-attention) in one tensor.
Sizes: D width, C latent channels, p and pt patch sides, T text width, H hidden width, O numbers per token at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...models.linear_video.architecture import LINEAR_VIDEO
from ...models.sana_video.dims import SanaDims
from ..files.kind import shown
from ..files.weight_folder import DOCS
from .families import detect_family, strip_containers
from .linear_video import CROSS_HEADS, compare_shapes

CLASSES = {"SanaTransformer2DModel": "sana", "SanaVideoTransformer3DModel": "sana_video"}
DROPPED = ("pos_embed", "y_embedder.y_embedding", "logvar_linear.weight", "logvar_linear.bias")
SPRINT_MARKS = ("guidance_embedder.", "time_embed.timestep_embedder.", "cfg_embedder.")
VIDEO_HEADS = {2240: (20, 112)}  # SANA-Video's width does not tell its heads: D/32 would fit the shapes too
DCAE_VIDEO_CHANNELS = 32
LARGEST_PLACELESS = 1024  # tokens of a 1024 px image; SANA 2K and 4K have more, and a table of positions

_VECTOR, _SQUARE = {".weight": ("D",)}, {".weight": ("D", "D")}
_LINEAR = {".weight": ("D", "D"), ".bias": ("D",)}
_SHARED = (
    ("t_embedder.mlp.0", ("time_embed.emb.timestep_embedder.linear_1",), {".weight": ("D", 256), ".bias": ("D",)}),
    ("t_embedder.mlp.2", ("time_embed.emb.timestep_embedder.linear_2",), _LINEAR),
    ("t_block.1", ("time_embed.linear",), {".weight": ("6D", "D"), ".bias": ("6D",)}),
    ("y_embedder.y_proj.fc1", ("caption_projection.linear_1",), {".weight": ("D", "T"), ".bias": ("D",)}),
    ("y_embedder.y_proj.fc2", ("caption_projection.linear_2",), _LINEAR),
    ("attention_y_norm", ("caption_norm",), _VECTOR),
    ("final_layer.linear", ("proj_out",), {".weight": ("O", "D"), ".bias": ("O",)}),
    ("final_layer.scale_shift_table", ("scale_shift_table",), {"": (2, "D")}),
)
_BLOCK = (
    ("scale_shift_table", ("scale_shift_table",), {"": (6, "D")}),
    ("attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v"), _SQUARE),
    ("attn.proj", ("attn1.to_out.0",), _LINEAR),
    ("cross_attn.q_linear", ("attn2.to_q",), _LINEAR),
    ("cross_attn.kv_linear", ("attn2.to_k", "attn2.to_v"), _LINEAR),
    ("cross_attn.proj", ("attn2.to_out.0",), _LINEAR),
    ("mlp.inverted_conv.conv", ("ff.conv_inverted",), {".weight": ("2H", "D", 1, 1), ".bias": ("2H",)}),
    ("mlp.depth_conv.conv", ("ff.conv_depth",), {".weight": ("2H", 1, 3, 3), ".bias": ("2H",)}),
    ("mlp.point_conv.conv", ("ff.conv_point",), {".weight": ("D", "H", 1, 1)}),
)
_BLOCK_NORMS = (
    ("attn.q_norm", ("attn1.norm_q",), _VECTOR),
    ("attn.k_norm", ("attn1.norm_k",), _VECTOR),
    ("cross_attn.q_norm", ("attn2.norm_q",), _VECTOR),
    ("cross_attn.k_norm", ("attn2.norm_k",), _VECTOR),
)
_OF_FAMILY = {
    "sana": (("x_embedder.proj", ("patch_embed.proj",), {".weight": ("D", "C", "p", "p"), ".bias": ("D",)}),),
    "sana_video": (
        ("x_embedder.proj", ("patch_embedding",), {".weight": ("D", "C", "pt", "p", "p"), ".bias": ("D",)}),
    ),
}
_BLOCK_OF_FAMILY = {"sana": (), "sana_video": (("mlp.t_conv", ("ff.conv_temp",), {".weight": ("D", "D", 3, 1)}),)}
_TELLING = {  # weights that tell a size: axes needed, name in diffusers' and in NVlabs' layout
    "text": (2, "caption_projection.linear_1.weight", "y_embedder.y_proj.fc1.weight"),
    "hidden": (4, "transformer_blocks.0.ff.conv_point.weight", "blocks.0.mlp.point_conv.conv.weight"),
}
_MUST_BE = {  # entries of diffusers' config.json that change the mathematics, and the values that are read here
    "norm_elementwise_affine": (False, None), "attention_bias": (False, None), "norm_eps": (1e-6, None),
    "qk_norm": ("rms_norm_across_heads", None),
}  # fmt: skip


class Weight(NamedTuple):
    """One tensor of NVlabs' layout and the tensors of ours that it is, one below the other, all of one shape."""

    nvlabs: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SanaLayout:
    """A recognised set of weights. naming: diffusers or nvlabs. names: the file's names by plain names.

    dropped: names in the file that the network does not use (a table of no text, positions, a loss weight).
    """

    dims: SanaDims
    naming: str
    names: dict[str, str]
    dropped: tuple[str, ...]


def sana_weights(dims: SanaDims) -> Iterator[Weight]:
    """Every weight of a network of these sizes, in both namings."""
    sizes = _sizes(dims)
    for rows, nvlabs, ours in _sections(dims):
        for theirs, names, leaves in rows:
            for leaf, letters in leaves.items():
                shape = tuple(sizes[side] if isinstance(side, str) else side for side in letters)
                yield Weight(nvlabs + theirs + leaf, tuple(ours + name + leaf for name in names), shape)


def sana_shapes(dims: SanaDims, naming: str = "diffusers") -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight in one naming, "diffusers" (ours) or "nvlabs"."""
    if naming == "nvlabs":
        return {w.nvlabs: (len(w.ours) * w.shape[0], *w.shape[1:]) for w in sana_weights(dims)}
    return {name: weight.shape for weight in sana_weights(dims) for name in weight.ours}


def detect_sana(path, shapes: Mapping[str, tuple[int, ...]], config: Mapping | None = None) -> SanaLayout:
    """Recognise SANA or SANA-Video weights by names and shapes, checked whole. path is for messages only.

    config: diffusers' config.json, which decides where shapes cannot. Raises CheckpointError naming what it is instead.
    """
    config = config if config and config.get("_class_name") in (None, *CLASSES) else {}  # else a neighbour's
    names = strip_containers(shapes)
    plain = {name: tuple(shapes[full]) for name, full in names.items()}
    _refuse_others(path, plain, config)
    naming = "nvlabs" if "x_embedder.proj.weight" in plain else "diffusers"
    try:
        dims = _dims(plain, naming, config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; see {DOCS}") from error
    dropped = tuple(name for name in DROPPED if naming == "nvlabs" and name in plain)
    found = {name: shape for name, shape in plain.items() if name not in dropped}
    compare_shapes(path, found, sana_shapes(dims, naming))
    return SanaLayout(dims, naming, {name: names[name] for name in found}, tuple(names[name] for name in dropped))


def to_our_names(layout: SanaLayout, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names. tensors: by the file's names. Parts of fused tensors are views of them."""
    state = {}
    for weight in sana_weights(layout.dims):
        if layout.naming == "nvlabs":
            state |= zip(weight.ours, tensors[layout.names[weight.nvlabs]].chunk(len(weight.ours)))
        else:
            state |= {name: tensors[layout.names[name]] for name in weight.ours}
    return state


def to_nvlabs_names(dims: SanaDims, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under NVlabs' names, fused as there. Raises CheckpointError when they are not those of `dims`."""
    compare_shapes("weights", {name: tuple(t.shape) for name, t in state.items()}, sana_shapes(dims))
    return {
        weight.nvlabs: torch.cat([state[name] for name in weight.ours]) if weight.ours[1:] else state[weight.ours[0]]
        for weight in sana_weights(dims)
    }


def _sections(dims: SanaDims):
    """Rows of the table with the prefixes of both namings."""
    yield _OF_FAMILY[dims.family] + _SHARED, "", ""
    rows = _BLOCK + _BLOCK_OF_FAMILY[dims.family] + (_BLOCK_NORMS if dims.qk_norm else ())
    for index in range(dims.num_layers):
        yield rows, f"blocks.{index}.", f"transformer_blocks.{index}."


def _sizes(dims: SanaDims) -> dict[str, int]:
    width, hidden, (pt, p, _) = dims.width, dims.hidden_width, dims.patch_size
    return {
        "D": width, "6D": 6 * width, "C": dims.in_channels, "p": p, "pt": pt, "T": dims.caption_channels, "H": hidden,
        "2H": 2 * hidden, "O": pt * p * p * dims.in_channels,
    }  # fmt: skip


def _refuse_others(path, plain: Mapping[str, tuple[int, ...]], config: Mapping) -> None:
    """Refuse, by name, weights that are not SANA's or that need another network."""
    text = "\n" + "\n".join(plain)
    family = detect_family(plain, plain)
    trained_otherwise = config.get("guidance_embeds") or config.get("timestep_scale", 1.0) not in (1, None)
    if any(mark in text for mark in SPRINT_MARKS) or (trained_otherwise and "SANA" in family):
        raise CheckpointError(
            f"{path}: this is a SANA-Sprint model (TrigFlow, one to four steps); it predicts another quantity and is "
            f"not supported; a SANA, SANA-1.5 or SANA-Video model is needed: see {DOCS}"
        )
    if family == LINEAR_VIDEO.name:
        raise CheckpointError(f"{path}: this is a linear video model already; use it as it is (Load Motion Model)")
    if not family.startswith(("a SANA image model", "a SANA-Video model")):
        first = ", ".join(shown(name, 60) for name in list(plain)[:5])
        raise CheckpointError(
            f"{path}: this is {family or 'not a model known here'} ({len(plain)} tensors: {first}); a SANA, SANA-1.5 "
            f"or SANA-Video model is needed: see {DOCS}"
        )
    positions = plain.get("pos_embed", (0, 0, 0))
    placed = "patch_embed.pos_embed" in plain or config.get("interpolation_scale") is not None
    if "image" in family and (placed or (len(positions) == 3 and positions[1] > LARGEST_PLACELESS)):
        raise CheckpointError(
            f"{path}: this is a SANA 2K or 4K model, which adds a table of positions that is not built here; use a 512 "
            f"px or 1024 px one: see {DOCS}"
        )


def _dims(plain: Mapping[str, tuple[int, ...]], naming: str, config: Mapping) -> SanaDims:
    """Sizes by shapes; heads by config, else by the widths that are known. Raises ConfigError."""
    patch_name = next(n for n in ("x_embedder.proj.weight", "patch_embedding.weight", "patch_embed.proj.weight")
                      if n in plain)  # fmt: skip
    patch, video = plain[patch_name], _is_video(plain)
    if len(patch) != (5 if video else 4) or patch[-1] != patch[-2]:
        raise ConfigError(f"{patch_name} is {patch}; {'5' if video else '4'} axes with square patches are needed")
    width, channels = patch[:2]
    if video and channels == DCAE_VIDEO_CHANNELS:
        raise ConfigError(
            "this is the 720p SANA-Video with the 32-channel video DC-AE (DC-AE-V), which is not supported; use the "
            "480p one with the Wan 2.1 VAE, or the 720p one with the LTX-2 VAE"
        )
    where = 1 if naming == "diffusers" else 2
    told = {what: plain.get(row[where], ()) for what, row in _TELLING.items()}
    for what, row in _TELLING.items():
        if len(told[what]) != row[0]:
            raise ConfigError(f"weight {row[where]} is {told[what] or 'missing'}; the file is incomplete: get it again")
    block = "transformer_blocks." if naming == "diffusers" else "blocks."
    heads, head_dim, cross = _heads(width, video, config)
    dims = SanaDims(
        family="sana_video" if video else "sana",
        in_channels=channels,
        patch_size=tuple(patch[2:]) if video else (1, *patch[2:]),
        num_layers=len({name.split(".")[1] for name in plain if name.startswith(block)}),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_cross_attention_heads=cross,
        caption_channels=told["text"][1],
        hidden_width=told["hidden"][1],
        qk_norm=video or any(".attn1.norm_q." in name or ".attn.q_norm." in name for name in plain),
    )
    _check_config(dims, config)
    return dims


def _is_video(plain: Mapping[str, tuple[int, ...]]) -> bool:
    temporal = any(".mlp.t_conv." in name or ".ff.conv_temp." in name for name in plain)
    return temporal or "patch_embedding.weight" in plain or len(plain.get("x_embedder.proj.weight", ())) == 5


def _heads(width: int, video: bool, config: Mapping) -> tuple[int, int, int]:
    """Heads and their size in the linear attention, and heads of the cross-attention."""
    names = ("num_attention_heads", "attention_head_dim", "num_cross_attention_heads")
    given = tuple(config.get(name) for name in names)
    if all(type(value) is int and value > 0 for value in given):
        if given[0] * given[1] != width:
            raise ConfigError(
                f"config.json gives {given[0]} heads of {given[1]}, the weights are {width} wide; they do not belong "
                "together: get both again"
            )
        return given
    known = VIDEO_HEADS if video else {size: (size // 32, 32) for size in CROSS_HEADS}
    if width not in known:
        raise ConfigError(
            f"width {width}: the number of heads cannot be told from shapes; known without config.json are "
            f"{', '.join(map(str, known))}; put the model's config.json beside the weights"
        )
    return (*known[width], CROSS_HEADS[width])


def _check_config(dims: SanaDims, config: Mapping) -> None:
    """Refuse a config.json that describes another network than the weights, or mathematics that is not built."""
    family = CLASSES.get(config.get("_class_name"))
    problems = [] if family in (None, dims.family) else [f"_class_name is {config['_class_name']}"]
    p = dims.patch_size
    needed = {
        "in_channels": (dims.in_channels,), "out_channels": (dims.in_channels, None), "num_layers": (dims.num_layers,),
        "caption_channels": (dims.caption_channels,), "patch_size": (p[1], list(p)), **_MUST_BE,
    }  # fmt: skip
    for name, values in needed.items():
        if name in config and config[name] not in values:
            problems.append(f"{name} is {shown(str(config[name]), 40)}, {values[0]} is needed")
    if problems:
        raise ConfigError(f"config.json does not belong to these weights: {'; '.join(problems)}; get both again")
