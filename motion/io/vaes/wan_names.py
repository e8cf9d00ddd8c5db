"""Tensor names of the Wan 2.1 VAE: diffusers' AutoencoderKLWan and the names that ComfyUI's files have.

The modules are the same; Wan's own code keeps each half in one flat list, diffusers groups the decoder by resolution.
"""

import re
from collections.abc import Collection

LATENT_CHANNELS = 16
CLASS_NAME = "AutoencoderKLWan"
HOST_MARK = "decoder.middle.0.residual.0.gamma"
DIFFUSERS_MARK = "decoder.mid_block.resnets.0.norm1.gamma"
_STAGE = 4  # of the decoder's flat list: three residual blocks and a resampler a resolution
_TOP = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
_ENDS = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_MIDDLE = {"resnets.0": "middle.0", "attentions.0": "middle.1", "resnets.1": "middle.2"}
_BLOCK = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
_PLACE = re.compile(
    r"(?P<half>encoder|decoder)\.(?:mid_block\.(?P<middle>resnets\.[01]|attentions\.0)|down_blocks\.(?P<down>\d{1,3})|"
    r"up_blocks\.(?P<up>\d{1,3})\.(?:resnets\.(?P<block>[0-2])|upsamplers\.0))\.(?P<rest>.+)"
)


def host_names(names: Collection[str]) -> dict[str, str]:
    """Names of the host -> names in a diffusers file. What belongs to no part of the VAE keeps its name."""
    return {host_name(name): name for name in names}


def host_name(name: str) -> str:
    """One tensor name of diffusers as the host's; other names as they are."""
    head, _, tail = name.partition(".")
    if head in _TOP:
        return f"{_TOP[head]}.{tail}"
    part, _, leaf = tail.partition(".")
    if head in ("encoder", "decoder") and part in _ENDS:
        return f"{head}.{_ENDS[part]}.{leaf}"
    place = _PLACE.fullmatch(name)
    return f"{place['half']}.{_module(place)}.{_inside(place['rest'])}" if place else name


def _module(place: re.Match) -> str:
    if place["middle"]:
        return _MIDDLE[place["middle"]]
    if place["down"]:
        return f"downsamples.{place['down']}"
    within = int(place["block"]) if place["block"] else _STAGE - 1
    return f"upsamples.{_STAGE * int(place['up']) + within}"


def _inside(rest: str) -> str:
    """The part of a name below its block: the host numbers residual blocks, and names resamplers and attention."""
    first, _, leaf = rest.partition(".")
    return f"{_BLOCK[first]}.{leaf}" if first in _BLOCK else rest
