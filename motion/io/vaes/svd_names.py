"""Stable Video Diffusion's VAE (picture encoder, temporal decoder): diffusers' tensors as the host's network has them.

The host keeps the names of the first Stable Diffusion: attention as 1x1 convolutions, stages of the decoder counted
from the finest, and no convolution between encoder and latents, which is worked into the encoder's last one.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..files.kind import shown

CLASS_NAME = "AutoencoderKLTemporalDecoder"
MARK = ".temporal_res_block."
STAGES = 4  # the first keeps the size: 8 px a cell
MAX_WIDTH = 4096
LAYERS = 2  # diffusers gives the middle as many blocks as a stage has, the host always two
_NEED = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "scaling_factor": 0.18215, "layers_per_block": LAYERS,
}  # fmt: skip
_RESNET = {"conv_shortcut": "nin_shortcut"}
_TIME = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_TOP = {"conv_norm_out": "norm_out", "time_conv_out": "conv_out.time_mix_conv"}
_MIDDLE = {"resnets.0": "mid.block_1", "attentions.0": "mid.attn_1", "resnets.1": "mid.block_2"}
_PLACE = re.compile(
    r"(?P<half>encoder|decoder)\.(?:mid_block\.(?P<middle>resnets\.[01]|attentions\.0)|(?P<way>down|up)_blocks\."
    r"(?P<stage>\d)\.(?:resnets\.(?P<block>\d{1,2})|(?P<resampler>(?:down|up)sample)rs\.0))\.(?P<rest>.+)"
)


def host_names(names: Collection[str]) -> dict[str, str]:
    """Names of the host -> names in a diffusers file. What belongs to no part of the VAE keeps its name."""
    return {host_name(name): name for name in names}


def host_name(name: str) -> str:
    """One tensor name of diffusers as the host's; other names as they are."""
    place = _PLACE.fullmatch(name)
    if place is None:
        half, _, tail = name.partition(".")
        part, _, leaf = tail.partition(".")
        return f"{half}.{_TOP[part]}.{leaf}" if half in ("encoder", "decoder") and part in _TOP else name
    return f"{place['half']}.{_module(place)}.{_inside(place['rest'])}"


def _module(place: re.Match) -> str:
    if place["middle"]:
        return _MIDDLE[place["middle"]]
    stage = int(place["stage"])
    stage = STAGES - 1 - stage if place["way"] == "up" else stage
    return f"{place['way']}.{stage}.{place['resampler'] or 'block.' + place['block']}"


def _inside(rest: str) -> str:
    """The part of a name below its block."""
    first, _, leaf = rest.removeprefix("spatial_res_block.").removeprefix("time_mixer.").partition(".")
    if first == "temporal_res_block":
        layer, _, leaf = leaf.partition(".")
        return f"time_stack.{_TIME.get(layer, layer)}.{leaf}"
    if first == "to_out":
        return f"proj_out.{leaf.removeprefix('0.')}"
    first = _RESNET.get(first, _ATTENTION.get(first, first))
    return f"{first}.{leaf}" if leaf else first


def host_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the host's names as the host shapes them."""
    result = {
        name: value[:, :, None, None] if ".attn_1." in name and value.ndim == 2 else value
        for name, value in tensors.items()
    }
    parts = [result.pop(f"quant_conv.{kind}", None) for kind in ("weight", "bias")]
    ends = [result.get(f"encoder.conv_out.{kind}") for kind in ("weight", "bias")]
    if all(part is not None for part in (*parts, *ends)):
        folded = _folded(*(part.float() for part in (*parts, *ends)))
        result |= {f"encoder.conv_out.{kind}": value for kind, value in zip(("weight", "bias"), folded)}
    return result


def _folded(quant: Tensor, quant_bias: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution followed by a 1x1 one, as one."""
    mix = quant[:, :, 0, 0]
    return torch.einsum("oi,ichw->ochw", mix, weight), mix @ bias + quant_bias


def host_config(config: Mapping | None, path: Path) -> dict:
    """Widths and layers from diffusers' config.json (None: the published one). Raises CheckpointError."""
    config = {} if config is None else config
    for name, need in _NEED.items():
        if config.get(name, need) != need:
            raise CheckpointError(f"{path}: its config says {name} = {shown(str(config[name]))}; {need} is needed")
    widths = config.get("block_out_channels", (128, 256, 512, 512))
    whole = isinstance(widths, list | tuple) and len(widths) == STAGES
    if not whole or not all(isinstance(w, int) and 32 <= w <= MAX_WIDTH and w % widths[0] == 0 for w in widths):
        raise CheckpointError(f"{path}: its config gives the widths as {shown(str(widths))}; {STAGES} are needed (f8)")
    return {"ch": widths[0], "ch_mult": [width // widths[0] for width in widths], "num_res_blocks": LAYERS}
