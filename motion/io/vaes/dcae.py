"""DC-AE: what its config.json must say so that the host's network computes what the weights were trained in.

The host has DC-AE (Chen et al. 2024, arXiv 2410.10733) with the tensor names of diffusers' AutoencoderDC, for the
pictures of music. Two switches of it and one activation are fixed there; files that set them otherwise are refused.
"""

from collections.abc import Mapping
from pathlib import Path

from ...errors import CheckpointError
from ..files.kind import shown

CLASS_NAME = "AutoencoderDC"
STAGES = 6  # of halving, but the first: 32 px a cell
SCALE = 0.41407  # of SANA's latent space; DC-AE of other models has other numbers, and other latents
FIXED = {"encoder_out_shortcut": True, "decoder_in_shortcut": True, "decoder_conv_act_fn": "relu"}
_BLOCKS = ("ResBlock", "EfficientViTBlock")
_NORMS = ("rms_norm", "layer_norm", "group_norm", "batch_norm")
_ACTIVATIONS = ("relu", "relu6", "silu", "leaky_relu")
_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_SCALES = ((), (), (), (5,), (5,), (5,))
DEFAULTS = {  # what a config.json that does not name a value means by it
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32,
    "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": _WIDTHS, "decoder_block_out_channels": _WIDTHS,
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": _SCALES, "decoder_qkv_multiscales": _SCALES,
    "upsample_block_type": "pixel_shuffle", "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "scaling_factor": 1.0,
}  # fmt: skip
_TYPES = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
SANA = DEFAULTS | {  # the published f32c32 of SANA, 1.0 and 1.1: for a file that comes without its config.json
    "encoder_block_types": _TYPES, "decoder_block_types": _TYPES, "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv", "scaling_factor": SCALE,
}  # fmt: skip


def dcae_network(config: Mapping | None, path: Path) -> dict:
    """Keyword arguments of the network from a config.json (None: the published f32c32), without the scaling factor.

    Latents stay as the encoder gives them: the model that works on them scales. Raises CheckpointError for values
    that the host's network does not have, and for a DC-AE of another latent space.
    """
    given = {name: value for name, value in (config or SANA).items() if not name.startswith("_")}
    unknown = sorted(given.keys() - DEFAULTS.keys() - FIXED.keys())
    if unknown:
        _refuse(path, f"sets {shown(unknown[0])}, which is not known here", "a DC-AE f32c32 as diffusers saves it")
    for name, need in FIXED.items():
        if given.get(name, need) != need:
            _refuse(path, f"says {name} = {shown(str(given[name]))}", f"{need} is all that ComfyUI's DC-AE has")
    values = DEFAULTS | {name: _plain(value) for name, value in given.items() if name not in FIXED}
    for name, value in values.items():
        need = _need(name, value)
        if need:
            _refuse(path, f"says {name} = {shown(str(value))}", f"{need} is needed")
    return {name: value for name, value in values.items() if name != "scaling_factor"}


def _refuse(path: Path, what: str, need: str) -> None:
    raise CheckpointError(f"{path}: its config {what}; {need}")


def _plain(value):
    """JSON lists as tuples."""
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _need(name: str, value) -> str:
    """What a value has to be, "" when it is that."""
    exact = {"in_channels": 3, "latent_channels": 32}
    if name in exact:
        return "" if value == exact[name] else f"{exact[name]} (f32c32)"
    if name == "scaling_factor":
        return "" if _is_number(value) and abs(value - SCALE) < 1e-4 else f"{SCALE}, SANA's latent space,"
    if name == "attention_head_dim":
        return "" if _in_range(value, 1, 1024) else "a number from 1 to 1024"
    if name.endswith("_block_types"):
        return _need_each(value, _BLOCKS)
    if name in ("decoder_norm_types", "decoder_act_fns"):
        return _need_each(value, _NORMS if name == "decoder_norm_types" else _ACTIVATIONS)
    if name in ("upsample_block_type", "downsample_block_type"):
        known = ("interpolate", "pixel_shuffle") if name[0] == "u" else ("Conv", "conv", "pixel_unshuffle")
        return "" if value in known else " or ".join(known)
    return _need_stages(name, value)


def _need_each(value, known: tuple[str, ...]) -> str:
    """One name for all stages, or one for each."""
    names = value if isinstance(value, tuple) else (value,) * STAGES
    return "" if len(names) == STAGES and all(n in known for n in names) else f"{STAGES} of {', '.join(known)}"


def _need_stages(name: str, value) -> str:
    """Widths, layers or attention scales, one a stage: as many stages as halve the picture to 1/32."""
    if not isinstance(value, tuple) or len(value) != STAGES:
        return f"a list of {STAGES} (f32)"
    if name.endswith("_multiscales"):
        scales = [size for sizes in value if isinstance(sizes, tuple) for size in sizes]
        good = all(isinstance(sizes, tuple) for sizes in value) and all(_in_range(s, 1, 31) and s % 2 for s in scales)
        return "" if good else "lists of odd sizes"
    low, high = (1, 8192) if name.endswith("_channels") else (0, 64)
    return "" if all(_in_range(item, low, high) for item in value) else f"numbers from {low} to {high}"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_range(value, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
