"""Which Wan network a set of weights is, by names and shapes, checked whole; and which relatives are refused by name.

Read are text to video, image to video with and without image tokens, and first-last frame, in the host's names (one
file, with and without prefixes; Wan's own shards) and in diffusers' (folder). The two experts of an A14B model have
equal names and shapes: the user, the metadata or the file's name says which one it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CheckpointError, ConfigError
from ...models.wan.config import FREQUENCIES, IMAGE_WIDTH, PUBLISHED, WanConfig
from ...models.wan.experts import EXPERTS
from ..files.kind import shown
from ..files.weight_folder import DOCS
from .families import CONTAINERS, strip_containers
from .linear_video import compare_shapes
from .scaled_fp8 import Fp8Scales, find_scales
from .wan_names import DIFFUSERS_MARKS, HOST_MARKS, host_name, naming_of, wan_shapes

CLASSES = ("WanModel", "WanTransformer3DModel")  # in config.json, of Wan's own code and of diffusers
FAMILY = "a Wan 2.1 or 2.2 video model"
HEAD = 128  # width of a head of every published Wan
SHOWN = 2
NEED = "a text-to-video, image-to-video or first-last-frame model is needed"
_RELATIVES = (  # title, beginnings of plain names that only it has
    ("Wan VACE", ("vace_patch_embedding.", "vace_blocks.")),
    ("Wan Fun-Camera (camera control)", ("control_adapter.",)),
    ("Wan S2V (sound to video)", ("casual_audio_encoder.", "trainable_cond_mask.", "audio_injector.")),
    ("HuMo", ("audio_proj.audio_proj_glob",)),
    ("Wan Animate", ("face_adapter.", "face_encoder.", "motion_encoder.", "pose_patch_embedding.")),
    ("SCAIL", ("patch_embedding_pose.", "patch_embedding_mask.")),
    ("WanDancer", ("patch_embedding_global.",)),
    ("Wan Fun-Control with a reference image", ("ref_conv.",)),
)
_CONTROL_CHANNELS = (48, 52)  # of a 16-channel model: Fun-Control of 2.1 and 2.2
_NOISE = re.compile(r"(?<![a-z])(high|low)[-_ .]?noise(?![a-z])")
_SHORT = re.compile(r"(?<![a-z])(high|low)(?![a-z])")
_OF_A14B = re.compile(r"2[._-]?2|a14b")


@dataclass(frozen=True)
class WanLayout:
    """A recognised set of weights. naming: host or diffusers. names: the file's names by the host's.

    scales: of weights in fp8, by the host's names, those of `beside` included. expert: of EXPERTS, "" where nothing
    says it or there is one network only.
    """

    config: WanConfig
    naming: str
    names: dict[str, str]
    scales: Fp8Scales
    expert: str

    @property
    def variant(self) -> str:
        """What the sizes are called: of PUBLISHED, or in words."""
        found = [name for name, sizes in PUBLISHED.items() if sizes == self.config]
        if found:
            return found[-1] if self.expert else found[0]
        kind = "FLF2V" if self.config.position_tokens else "I2V" if self.config.concat_channels else "T2V"
        return f"{kind} of other sizes than the published"

    @property
    def weight_names(self) -> list[str]:
        """Names of the network's weights, the host's, without scales."""
        return list(wan_shapes(self.config))


def detect_wan(
    path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype], *, config: Mapping | None = None,
    metadata: Mapping[str, str] | None = None, expert: str = "",
) -> WanLayout:  # fmt: skip
    """Recognise Wan weights by the headers of a file or folder, checked whole. path: for messages, and the expert.

    config: config.json, of Wan's own code or diffusers', which decides where shapes cannot. expert: what the user says.
    Raises CheckpointError naming what it is instead.
    """
    names, metadata = strip_containers(shapes), metadata or {}
    plain = {name: tuple(shapes[full]) for name, full in names.items()}
    naming = _one_naming(path, plain)
    _refuse_relatives(path, plain)
    layers = {full.removesuffix(".weight"): name.removesuffix(".weight") for name, full in names.items()}
    scales = find_scales(path, plain, {name: dtypes[full] for name, full in names.items()}, metadata, layers)
    weights = {name: shape for name, shape in plain.items()
               if name not in scales.beside and name not in scales.scales.values()}  # fmt: skip
    given = config if config and config.get("_class_name") in CLASSES else {}  # else a neighbour's
    try:
        sizes = _config({host_name(name): shape for name, shape in weights.items()}, given)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {FAMILY}, but {error}; see {DOCS}") from error
    compare_shapes(path, weights, wan_shapes(sizes, naming))
    ours = Fp8Scales(
        scales.form, {host_name(name): host_name(scale) for name, scale in scales.scales.items()},
        tuple(map(host_name, scales.beside)), {host_name(layer): kind for layer, kind in scales.said.items()},
    )  # fmt: skip
    return WanLayout(sizes, naming, {host_name(name): full for name, full in names.items()}, ours,
                     "" if sizes.image_tokens else expert_of(path, metadata, expert))  # fmt: skip


def expert_of(path, metadata: Mapping[str, str], said: str = "") -> str:
    """Which expert of an A14B model weights are: as the user says, as the metadata says, as file or folder is called.

    In a diffusers folder with both, `transformer` is the one for high noise. Raises ConfigError for another word.
    """
    if said and said not in EXPERTS:
        raise ConfigError(f"expert is {said!r}; {' or '.join(EXPERTS)} is needed; leave it out for a single model")
    if said or metadata.get("expert") in EXPERTS:
        return said or metadata["expert"]
    path = Path(path)
    for place in (path, path.parent):
        name = place.name.lower()
        found = {f"{word}_noise" for word in (_NOISE.findall(name) or (_SHORT.findall(name) if _OF_A14B.search(name)
                                                                        else ()))}  # fmt: skip
        if len(found) == 1:
            return found.pop()
        if name == "transformer_2":
            return EXPERTS[1]
        if name == "transformer" and (place.parent / "transformer_2").is_dir():
            return EXPERTS[0]
    return ""


def _one_naming(path, plain: Mapping[str, tuple[int, ...]]) -> str:
    """Of the two namings the one all names are in."""
    naming = naming_of(plain)
    prefixed = [name for name in plain if name.startswith(CONTAINERS)]
    if naming and 0 < len(prefixed) < len(plain):
        bare = next(name for name in plain if not name.startswith(CONTAINERS))
        raise CheckpointError(
            f"{path}: {FAMILY}, but {len(prefixed)} of {len(plain)} names have a prefix ({shown(prefixed[0])}) and "
            f"others none ({shown(bare)}); one layout is needed: get the file again, or its parts as files of their own"
        )
    if naming == "mixed":
        pieces = [next(name for name in plain if any(mark in name for mark in marks))
                  for marks in (HOST_MARKS, DIFFUSERS_MARKS)]  # fmt: skip
        raise CheckpointError(
            f"{path}: {FAMILY}, but of two layouts mixed: ComfyUI's ({shown(pieces[0])}) and diffusers' "
            f"({shown(pieces[1])}); one layout is needed: get the file again"
        )
    if not naming:
        first = ", ".join(shown(name, 60) for name in list(plain)[:SHOWN])
        raise CheckpointError(f"{path}: no Wan video model ({len(plain)} tensors: {first}); {NEED}: see {DOCS}")
    return naming


def _refuse_relatives(path, plain: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse, by name, models with parts that are not built here."""
    for title, marks in _RELATIVES:
        found = next((name for name in plain if name.startswith(marks)), None)
        if found is not None:
            raise CheckpointError(
                f"{path}: this is {title} ({shown(found)}), a Wan model with parts that are not built here; {NEED} "
                f"(see {DOCS}), or ComfyUI's own nodes for this one"
            )


def _config(ours: Mapping[str, tuple[int, ...]], given: Mapping) -> WanConfig:
    """Sizes by shapes, heads by config.json or as all published ones have them. Raises ConfigError."""
    width, channels, deep, p, across = _shape(ours, "patch_embedding.weight", 5)
    rows = _shape(ours, "head.head.weight", 2)[0]
    if deep != 1 or p != across or not p or rows % (p * p):
        raise ConfigError(f"patches are {deep}x{p}x{across}, with {rows} numbers at the end; 1x2x2 is needed")
    out = rows // (p * p)
    _refuse_channels(channels, out)
    heads, head_dim = _heads(width, given)
    image, positions = "img_emb.proj.1.weight" in ours, "img_emb.emb_pos" in ours
    config = WanConfig(
        in_channels=out,
        concat_channels=channels - out,
        image_tokens=image,
        position_tokens=_shape(ours, "img_emb.emb_pos", 3)[1] if positions else 0,
        patch_size=p,
        num_layers=len({name.split(".")[1] for name in ours if name.startswith("blocks.")}),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        hidden_width=_shape(ours, "blocks.0.ffn.0.weight", 2)[0],
        caption_channels=_shape(ours, "text_embedding.0.weight", 2)[1],
    )
    _check_config(config, given)
    return config


def _shape(ours: Mapping[str, tuple[int, ...]], name: str, rank: int) -> tuple[int, ...]:
    shape = ours.get(name)
    if shape is None or len(shape) != rank:
        raise ConfigError(f"weight {name} is {shape or 'missing'}; {rank} axes are needed: get the file again, whole")
    return shape


def _refuse_channels(channels: int, out: int) -> None:
    """Refuse, by name, models that differ by their channels alone."""
    if out == 48:
        raise ConfigError(
            "of 48 latent channels: this is the 5B model of Wan 2.2 (TI2V), which has another VAE and is not built "
            f"here; {NEED} with 16: the A14B models of Wan 2.2, or Wan 2.1"
        )
    if out == 16 and channels in _CONTROL_CHANNELS:
        raise ConfigError(
            f"of {channels} channels in: this is Wan Fun-Control, which reads a control video and is not built here; "
            f"{NEED}, such as Fun-InP with 36"
        )
    if channels not in (out, 2 * out + 4):
        raise ConfigError(
            f"of {channels} channels in and {out} out; {out}, or {2 * out + 4} with a start video's mask and latents, "
            f"are read here; {NEED}"
        )


def _heads(width: int, given: Mapping) -> tuple[int, int]:
    """Heads and their width."""
    heads = given.get("num_attention_heads", given.get("num_heads"))
    if heads is not None:
        fits = type(heads) is int and heads >= 1 and not width % heads
        if not fits or given.get("attention_head_dim", width // heads) != width // heads:
            each = f" of {shown(str(given['attention_head_dim']), 40)}" if "attention_head_dim" in given else ""
            raise ConfigError(
                f"config.json gives {shown(str(heads), 40)} heads{each}, the weights are {width} wide; they do not "
                "belong together: get both again"
            )
        return heads, width // heads
    if not width or width % HEAD:
        raise ConfigError(
            f"width {width}: the number of heads cannot be told from shapes; without config.json a multiple of {HEAD} "
            "is needed; put the model's config.json beside the weights"
        )
    return width // HEAD, HEAD


def _check_config(config: WanConfig, given: Mapping) -> None:
    """Refuse a config.json that describes another network than the weights, or mathematics that is not built."""
    channels, out = config.in_channels + config.concat_channels, config.in_channels
    needed = {
        "in_channels": channels, "in_dim": channels, "out_channels": out, "out_dim": out,
        "num_layers": config.num_layers, "dim": config.width, "ffn_dim": config.hidden_width,
        "text_dim": config.caption_channels, "freq_dim": FREQUENCIES, "cross_attn_norm": True, "eps": 1e-6,
    }  # fmt: skip
    if config.image_tokens:
        needed["image_dim"] = IMAGE_WIDTH
    problems = [f"{name} is {shown(str(given[name]), 40)}, {value} is needed"
                for name, value in needed.items() if given.get(name) not in (None, value)]  # fmt: skip
    if given.get("qk_norm") not in (None, True, "rms_norm_across_heads"):
        problems.append(f"qk_norm is {shown(str(given['qk_norm']), 40)}, rms_norm_across_heads is needed")
    if problems:
        raise ConfigError(f"its config.json is of another network: {'; '.join(problems)}; get both again")
