"""The LTX-2 video VAE: its config as the host's network takes it, and diffusers' names for its tensors.

LTX-Video's VAE has the same class in the host and other latents; its decoder takes a timestep, or its encoder is half
as wide. Only LTX-2.0's blocks are known here, in any depth.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ...errors import CheckpointError
from ..files.kind import shown

LATENT_CHANNELS = 128
CLASS_NAME = "AutoencoderKLLTX2Video"
HOST_MARK = "per_channel_statistics.mean-of-means"
DIFFUSERS_MARK = "latents_mean"
ENCODER_END = "encoder.conv_out.conv.weight"
LEAST_WIDTH = 1024  # of the encoder's end: 2048 in LTX-2, 512 in the first LTX-Video
UNREAD = tuple(  # statistics in some files, which neither encoding nor decoding reads
    f"per_channel_statistics.{name}" for name in ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel")
)
MAX_LAYERS = 64  # of a part of the network, and entries of a list
MAX_SIZE = 65_536  # of any other number in a config
_BLOCKS = {  # what diffusers' config.json says of LTX-2.0, and the host's network takes for granted
    "in_channels": 3, "out_channels": 3, "latent_channels": LATENT_CHANNELS, "patch_size": 4, "patch_size_t": 1,
    "block_out_channels": [256, 512, 1024, 2048], "decoder_block_out_channels": [256, 512, 1024],
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "upsample_type": ["spatiotemporal"] * 3, "upsample_residual": [True] * 3, "upsample_factor": [2, 2, 2],
    "timestep_conditioning": False, "encoder_causal": True, "resnet_norm_eps": 1e-6, "scaling_factor": 1.0,
    "encoder_spatial_padding_mode": "zeros", "decoder_spatial_padding_mode": "reflect",
}  # fmt: skip
_DOWN = ("compress_space_res", "compress_time_res", "compress_all_res", "compress_all_res")
_ENCODER_LAYERS, _DECODER_LAYERS = (4, 6, 6, 2, 2), (5, 5, 5, 5)
_PLACE = re.compile(
    r"(?P<half>encoder|decoder)\.(?:(?P<middle>mid_block)|(?:down|up)_blocks\.(?P<stage>\d)"
    r"(?P<resampler>\.(?:down|up)samplers\.0)?)\.(?P<rest>.+)"
)


def check_sizes(config, path: Path) -> None:
    """Refuse a config that a file brought along when a network of its sizes could never end being built.

    Raises CheckpointError.
    """
    waiting = [("", config)]
    while waiting:
        name, value = waiting.pop()
        inner = list(value.items()) if isinstance(value, dict) else []
        inner = [(name, item) for item in value] if isinstance(value, list) else inner
        limit = MAX_LAYERS if name == "num_layers" else MAX_SIZE
        if len(inner) > MAX_LAYERS or (isinstance(value, int | float) and not -limit <= value <= limit):
            seen = f"{len(inner)} entries" if inner else str(value)[:40]
            raise CheckpointError(
                f"{path}: its config says {shown(str(name))}: {seen}; no more than {MAX_LAYERS if inner else limit} "
                "are possible; get the file again"
            )
        waiting += inner


def host_names(names: Collection[str]) -> dict[str, str]:
    """Names of the host -> names in a diffusers file. What belongs to no part of the VAE keeps its name."""
    return {host_name(name): name for name in names}


def host_name(name: str) -> str:
    """One tensor name of diffusers as the host's; other names as they are.

    The host keeps a half in one flat list: the encoder ends in its middle block, the decoder begins with it.
    """
    if name in ("latents_mean", "latents_std"):
        return f"per_channel_statistics.{name.removeprefix('latents_')}-of-means"
    place = _PLACE.fullmatch(name)
    if place is None:
        return name
    encodes, resampler = place["half"] == "encoder", place["resampler"] is not None
    if place["middle"]:
        index = 2 * len(_DOWN) if encodes else 0
    else:
        index = 2 * int(place["stage"]) + (resampler if encodes else 2 - resampler)
    rest = place["rest"].replace("resnets.", "res_blocks.")
    return f"{place['half']}.{'down' if encodes else 'up'}_blocks.{index}.{rest}"


def host_config(config: Mapping | None, path: Path) -> dict:
    """The host's config of the network from diffusers' config.json (None: LTX-2.0's own).

    Raises CheckpointError for values that the host's network does not have.
    """
    config = {"decoder_causal": False} if config is None else config
    for name, need in _BLOCKS.items():
        if config.get(name, need) != need:
            raise CheckpointError(
                f"{path}: its config says {name} = {shown(str(config[name]))}; {need} is needed, as LTX-2.0 has it"
            )
    encoder = _layers(config.get("layers_per_block", _ENCODER_LAYERS), len(_ENCODER_LAYERS), path)
    decoder = _layers(config.get("decoder_layers_per_block", _DECODER_LAYERS), len(_DECODER_LAYERS), path, last=1)
    return {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3,
        "latent_channels": LATENT_CHANNELS, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "encoder_blocks": _interleaved(encoder, [[kind, {"multiplier": 2}] for kind in _DOWN]),
        "decoder_blocks": _interleaved(decoder, [["compress_all", {"residual": True, "multiplier": 2}]] * 3),
        "causal_decoder": config.get("decoder_causal", True) is True, "timestep_conditioning": False,
    }  # fmt: skip


def _layers(values, count: int, path: Path, *, last: int = 0) -> list[int]:
    whole = isinstance(values, list | tuple) and all(isinstance(v, int) and 0 <= v <= MAX_LAYERS for v in values)
    if not whole or len(values) != count or values[-1] < last:
        raise CheckpointError(
            f"{path}: its config gives the layers as {shown(str(values))}; {count} numbers up to {MAX_LAYERS} are "
            f"needed, the last of them at least {last}"
        )
    return list(values)


def _interleaved(layers: list[int], resamplers: list[list]) -> list[list]:
    """Residual blocks with the resamplers between them."""
    blocks = []
    for count, resampler in zip(layers, [*resamplers, None]):
        blocks += [["res_x", {"num_layers": count, "inject_noise": False}], resampler]
    return blocks[:-1]
