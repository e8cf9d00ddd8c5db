"""Motion model files: recognise, read, check against the network they describe, build, save.

A file is used whole or not at all: names and shapes of every weight are compared with the network of its config on
the meta device before anything is handed out.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ....kernels.self_test import resolve_kernels
from ...errors import CheckpointError, ConfigError
from ...models.architectures import ARCHITECTURES
from ...models.linear_video.architecture import LINEAR_VIDEO
from ...models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from ...models.model_spec import LinearVideoSpec
from ...models.sana_video.dims import ratio_of
from ...text.encoder import MotionTextEncoder
from ..files.atomic import write_safetensors
from ..files.kind import shown
from ..files.safetensors import check_values, read_header, read_safetensors
from .families import strip_containers, weights_family

TEXT_PREFIX = "text_encoder."
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
CROSS_HEADS = {1152: 16, 2240: 20}
LISTED = 5
NEED = "this loader needs a linear video model (MiraMo layout, or one saved by MotionBlocks)"


@dataclass(frozen=True)
class LinearVideoFile:
    """A file that has passed every check. state_dict: the network's weights under their plain names."""

    spec: LinearVideoSpec
    state_dict: dict[str, Tensor]
    text_encoder: dict[str, Tensor] | None
    metadata: dict[str, str]


class UnfilledLayers:
    """Layers that draw no random numbers, for modules on the meta device, where drawing would load torch._dynamo."""

    Linear = nn.Linear

    class Embedding(nn.Embedding):
        """An embedding whose weight stays as it was allocated."""

        def reset_parameters(self) -> None:
            """Leave the weight alone; a file fills it."""


def read_linear_video(path: str | os.PathLike) -> LinearVideoFile:
    """Read a motion model file, whole. Raises CheckpointError with file, value, need and way out."""
    path = Path(path)
    refuse_pickle_name(path)
    header = read_header(path)

    def read() -> dict[str, Tensor]:
        tensors, _ = read_safetensors(path)
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != header.shapes:
            raise CheckpointError(f"{path}: changed while it was read; try again when it is written")
        return tensors

    return checked_linear_video(path, header.shapes, header.metadata, read)


def checked_linear_video(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str],
    read: Callable[[], dict[str, Tensor]],
) -> LinearVideoFile:  # fmt: skip
    """A motion model of opened weights, however they are stored; `read` is called when the headers are right.

    path is for messages. Raises CheckpointError.
    """
    spec, names, text_names = _describe(path, shapes, metadata)
    compare_shapes(path, {plain: shapes[full] for plain, full in names.items()}, network_shapes(spec.config))
    if text_names:
        found = {plain: shapes[full] for plain, full in text_names.items()}
        compare_shapes(path, found, _text_shapes(path, found, spec.config))
    tensors = read()
    state = {plain: tensors[full] for plain, full in names.items()}
    text = {plain: tensors[full] for plain, full in text_names.items()}
    for name, tensor in (*state.items(), *text.items()):
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: weight {shown(name)} is {tensor.dtype}; floating point is needed")
    return LinearVideoFile(spec, state, text or None, dict(metadata))


def describe_linear_video(path: str | os.PathLike) -> tuple[str, LinearVideoSpec | None, dict[str, str]]:
    """Family, spec (None for foreign files) and metadata from the header alone. Raises CheckpointError."""
    path = Path(path)
    refuse_pickle_name(path)
    header = read_header(path)
    family = weights_family(header.shapes, header.metadata)
    if family != LINEAR_VIDEO.name:
        return family, None, header.metadata
    return family, _describe(path, header.shapes, header.metadata)[0], header.metadata


def build_linear_video(
    file: LinearVideoFile, *, operations=nn, attention=None, kernels: str = "auto", dtype: torch.dtype | None = None,
    device=None,
) -> LinearVideoDiT:  # fmt: skip
    """Build the network with the file's weights copied into it, in evaluation mode.

    dtype: None keeps the type the weights are stored in. kernels: backend of the operators, "auto", "torch" or
    "triton".
    Raises ConfigError for a type the device cannot compute in and for "triton" where it cannot be had,
    CheckpointError when the weights do not fit.
    """
    device = torch.device(device or "cpu")
    dtype = dtype or file.state_dict["patch_embed.proj.weight"].dtype
    if operations is nn:  # the host's layers cast by themselves
        check_compute(dtype, device)
    backend = resolve_kernels(kernels, device, dtype, LINEAR_VIDEO.operators)
    model = LinearVideoDiT(
        file.spec.config, operations=operations, attention=attention, kernels=backend, dtype=dtype, device="meta"
    )
    return fill_module(model, file.state_dict, dtype=dtype, device=device)


def fill_module(
    module: nn.Module, state: Mapping[str, Tensor], *, dtype: torch.dtype, device, copy: bool = True
) -> nn.Module:
    """Give a module made on the meta device copies of these weights; without copy, the weights where they fit as is.

    Raises CheckpointError; never fills half.
    """
    copies = {name: tensor.to(device=device, dtype=dtype, copy=copy) for name, tensor in state.items()}
    try:
        module.load_state_dict(copies, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the network: {shown(str(error), 300)}") from error
    return module.eval()


def check_compute(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a type the device cannot multiply in. Raises ConfigError."""
    advice = f"{dtype} cannot be computed on {device}; use bfloat16 or float32"
    if not dtype.is_floating_point or dtype.itemsize == 1:
        raise ConfigError(advice)
    try:
        torch.ones(2, 2, dtype=dtype, device=device) @ torch.ones(2, 2, dtype=dtype, device=device)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ConfigError(f"{advice} ({shown(str(error), 80)})") from error


def save_linear_video(
    path: str | os.PathLike,
    spec: LinearVideoSpec,
    dit_state: Mapping[str, Tensor],
    text_encoder: Mapping[str, Tensor] | None = None,
    extra_metadata: Mapping[str, str] | None = None,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Save a motion model, whole or not at all; what is saved can be read back. on_bytes: as of write_safetensors.

    Raises CheckpointError for weights that do not fit the spec or are not finite, ConfigError for taken metadata names.
    """
    path, own = Path(path), spec.to_metadata()
    taken = sorted(set(own) & set(extra_metadata or {}))
    if taken:
        raise ConfigError(f"extra metadata uses the names {taken}, which describe the model; choose others")
    shapes = {name: tuple(tensor.shape) for name, tensor in dit_state.items()}
    compare_shapes(path, shapes, network_shapes(spec.config))
    tensors = dict(dit_state)
    if text_encoder is not None:
        shapes = {name: tuple(tensor.shape) for name, tensor in text_encoder.items()}
        compare_shapes(path, shapes, _text_shapes(path, shapes, spec.config))
        tensors |= {TEXT_PREFIX + name: tensor for name, tensor in text_encoder.items()}
    for name, tensor in tensors.items():
        check_values(name, tensor, path)
    write_safetensors(path, tensors, {**own, **(extra_metadata or {})}, on_bytes=on_bytes)


def network_shapes(config: LinearVideoDiTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the network; takes no memory."""
    return {name: tuple(p.shape) for name, p in LinearVideoDiT(config, device="meta").state_dict().items()}


def refuse_pickle_name(path: Path) -> None:
    """Refuse files that are pickles by name. Raises CheckpointError with how to convert."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path}: {path.suffix} files are pickles, which can run code, and are never opened here; a .safetensors "
            "file is needed: `motionblocks convert FILE -o OUT.safetensors` makes one of SANA, SANA-Video and MiraMo"
        )


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> LinearVideoDiTConfig:
    """Config of a MiraMo layout without metadata. Raises ConfigError when the shapes do not tell."""
    width, channels, patch, _ = _shape(shapes, "patch_embed.proj.weight", 4)
    if width % 32 or width not in CROSS_HEADS:
        raise ConfigError(
            f"width {width}: the number of cross-attention heads cannot be told from shapes; known without metadata "
            f"are widths {', '.join(map(str, CROSS_HEADS))}; add MotionBlocks metadata (motion.io.save_linear_video)"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("transformer_blocks.")}
    hidden = _shape(shapes, "transformer_blocks.0.ff.conv_point.weight", 4)[1]
    return LinearVideoDiTConfig(
        in_channels=channels,
        patch_size=patch,
        num_layers=len(blocks),
        num_attention_heads=width // 32,
        num_cross_attention_heads=CROSS_HEADS[width],
        caption_channels=_shape(shapes, "caption_projection.linear_1.weight", 2)[1],
        mlp_ratio=ratio_of(hidden, width),
        qk_norm="transformer_blocks.0.attn1.norm_q.weight" in shapes,
        motion_buckets=20 if any("motion_guidance_emb" in name for name in shapes) else 0,
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != rank:
        raise ConfigError(f"weight {name} is {shape or 'missing'}; {rank} axes are needed to tell the config")
    return shape


def says_its_spec(metadata: Mapping[str, str]) -> bool:
    """Whether a file was saved by this pack, with its spec; MiraMo's layout is told by its weights."""
    return ARCHITECTURES.in_metadata(metadata) is LINEAR_VIDEO


def _describe(path: Path, shapes, metadata) -> tuple[LinearVideoSpec, dict[str, str], dict[str, str]]:
    """Spec, and file names by plain names: of the network and of the text encoder."""
    family = weights_family(shapes, metadata)
    if family != LINEAR_VIDEO.name:
        way_out = "; make one of it with `motionblocks inflate`" if family.startswith("a SANA image") else ""
        raise CheckpointError(f"{path}: this is {_seen(family, shapes)}; {NEED}{way_out}")
    try:
        if says_its_spec(metadata):
            text = {name[len(TEXT_PREFIX) :]: name for name in shapes if name.startswith(TEXT_PREFIX)}
            network = {name: name for name in shapes if not name.startswith(TEXT_PREFIX)}
            return LinearVideoSpec.from_metadata(metadata), network, text
        names = strip_containers(shapes)
        config = config_from_shapes({plain: shapes[full] for plain, full in names.items()})
        return _spec_for(config), names, {}
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _spec_for(config: LinearVideoDiTConfig) -> LinearVideoSpec:
    """The preset whose latent space has the channels and patch of this config. Raises ConfigError."""
    for preset in (LinearVideoSpec.paper_dcae(), LinearVideoSpec.ref_sdvae_p2()):
        if (preset.config.in_channels, preset.config.patch_size) == (config.in_channels, config.patch_size):
            return replace(preset, config=config)
    raise ConfigError(
        f"{config.in_channels} channels with patch {config.patch_size}: the latent space cannot be told; known without "
        "metadata are 32 with patch 1 (DC-AE) and 4 with patch 2 (SVD VAE); add MotionBlocks metadata"
    )


def _seen(family: str, names) -> str:
    first = ", ".join(shown(name, 60) for name in list(names)[:LISTED])
    return f"{family or 'not a model known here'} ({len(names)} tensors: {first}{', …' if len(names) > LISTED else ''})"


def _text_shapes(path: Path, shapes, config: LinearVideoDiTConfig) -> dict[str, tuple[int, ...]]:
    rows = shapes.get("embedding.weight", ())
    if len(rows) != 2 or not 1 <= rows[0] <= 2**20 or rows[1] != config.caption_channels:
        raise CheckpointError(
            f"{path}: its text encoder's embedding is {rows or 'missing'}; (words, {config.caption_channels}) is needed"
        )
    encoder = MotionTextEncoder(*rows, operations=UnfilledLayers, device="meta")
    return {name: tuple(p.shape) for name, p in encoder.state_dict().items()}


def compare_shapes(path: Path, found: Mapping[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing, extra and wrongly shaped weights. Raises CheckpointError with the first five and the count."""
    missing = [name for name in needed if name not in found]
    extra = [name for name in found if name not in needed]
    wrong = [f"{n}: {found[n]} here, {s} needed" for n, s in needed.items() if n in found and found[n] != s]
    problems = [
        f"{len(items)} weights {what} ({'; '.join(shown(item, 120)[1:-1] for item in items[:LISTED])}"
        f"{f'; and {len(items) - LISTED} more' if len(items) > LISTED else ''})"
        for items, what in ((missing, "missing"), (extra, "not known"), (wrong, "of another shape"))
        if items
    ]
    if problems:
        raise CheckpointError(
            f"{path}: {', '.join(problems)}; {len(needed)} weights are needed for its config; the file is incomplete, "
            "of another version, or its config is not its own: get it again or save it with its right config"
        )
