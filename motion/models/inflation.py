"""SANA, an image model, made a video model: temporal attention that changes nothing until it is trained.

Source: MiraMo's published code for where new weights come from; zero output of the new branch is ours, so that every
frame is at first what the image model makes of it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..choices import INITS
from ..errors import ConfigError, ShapeError
from .linear_video.config import LinearVideoDiTConfig
from .sana_video.dims import SanaDims

TEMPORAL = ("to_q.weight", "to_k.weight", "to_v.weight", "norm_q.weight", "norm_k.weight")
OUT = ("to_out.0.weight", "to_out.0.bias")
_TIME, _BUCKET = "time_embed.emb.timestep_embedder.", "time_embed.motion_guidance_emb.timestep_embedder."


def inflated_config(dims: SanaDims, *, motion_buckets: int = 20) -> LinearVideoDiTConfig:
    """Config of the video model that comes from a SANA image model. Raises ConfigError for other models."""
    if dims.family != "sana" or dims.patch_size[0] != 1:
        raise ConfigError(f"{dims.family} is a video model already; only SANA image models are inflated")
    return LinearVideoDiTConfig(**dims.config_sizes(), motion_buckets=motion_buckets)


def inflate(state: Mapping[str, Tensor], config: LinearVideoDiTConfig, *, init: str = "zero") -> dict[str, Tensor]:
    """Weights of the video model from those of the image model; on the meta device it takes no memory.

    state: image weights under diffusers' names, not written into; shared weights are the same tensors, new ones copies.
    init: "zero" puts zeros at the end of the temporal branch, so that each frame equals the image model's, whatever the
    motion bucket; "copy" takes the spatial branch's output weights there, as the published code does, and so is not
    equal. The bucket's embedding starts at zero in both. Raises ConfigError, ShapeError.
    """
    if init not in INITS:
        raise ConfigError(f"init is {init!r}; it must be one of {', '.join(INITS)}")
    width = config.width
    rows = tuple(state["time_embed.linear.weight"].shape) if "time_embed.linear.weight" in state else None
    if rows != (6 * width, width):
        raise ShapeError(f"time_embed.linear.weight is {rows}; {(6 * width, width)} is needed: a SANA image model")
    new = dict(state)
    for leaf in ("weight", "bias"):
        linear = state[f"time_embed.linear.{leaf}"]
        new[f"time_embed.linear.{leaf}"] = torch.cat((linear, linear[: 3 * width]))
        if config.motion_buckets:
            new[f"{_BUCKET}linear_1.{leaf}"] = state[f"{_TIME}linear_1.{leaf}"].clone()
            new[f"{_BUCKET}linear_2.{leaf}"] = torch.zeros_like(state[f"{_TIME}linear_2.{leaf}"])
    for index in range(config.num_layers):
        new |= _temporal_weights(state, f"transformer_blocks.{index}.", init, config.qk_norm)
    return new


def _temporal_weights(state: Mapping[str, Tensor], block: str, init: str, norms: bool) -> dict[str, Tensor]:
    """The new weights of one block, all from its spatial attention."""
    new = {f"{block}scale_shift_table_attn3d": state[f"{block}scale_shift_table"][:3].clone()}
    for leaf in TEMPORAL if norms else TEMPORAL[:3]:
        new[f"{block}attn_temporal.{leaf}"] = state[f"{block}attn1.{leaf}"].clone()
    for leaf in OUT:
        source = state[f"{block}attn1.{leaf}"]
        new[f"{block}attn_temporal.{leaf}"] = torch.zeros_like(source) if init == "zero" else source.clone()
    return new
