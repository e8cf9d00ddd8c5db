"""What a Wan network refuses: latents, timesteps and conditions that do not fit its config."""

from torch import Tensor

from ...errors import ConfigError, ShapeError
from ..conditions import Conditions
from ..latent_spaces import SPACES
from .config import IMAGE_TOKENS, IMAGE_WIDTH, WanConfig

CELL = SPACES["wan21"].spatial_ratio  # px


def check_inputs(config: WanConfig, latents: Tensor, timestep: Tensor, conditions: Conditions) -> None:
    """Refuse what `WanDiT.forward` cannot take. Raises ShapeError, or ConfigError for what is missing."""
    _check_latents(config, latents)
    b, _, t = latents.shape[:3]
    if tuple(timestep.shape) not in ((b,), (b, 1), (b, t)):
        raise ShapeError(
            f"timestep is {tuple(timestep.shape)}; ({b},) or ({b}, {t}) is needed: one a sample, or one a latent frame"
        )
    indices = conditions.frame_indices
    if indices is not None and tuple(indices.shape) not in ((t,), (b, t)):
        raise ShapeError(
            f"frame_indices are {tuple(indices.shape)}; ({t},) or ({b}, {t}) is needed: a place for each latent frame"
        )
    _check_text(config, conditions.context, b)
    if config.concat_channels:
        _check_concat(config, conditions.concat_latents, latents)
    if config.image_tokens:
        _check_image(config, conditions.image_tokens, b)


def _check_latents(config: WanConfig, latents: Tensor) -> None:
    if latents.ndim != 5 or latents.shape[1] != config.in_channels:
        raise ShapeError(
            f"latents are {tuple(latents.shape)}; this model needs (b, {config.in_channels}, t, h, w): use the Wan 2.1 "
            "VAE and its latents"
        )
    (t, h, w), p = latents.shape[2:], config.patch_size
    if t < 1 or not h or not w or h % p or w % p:
        raise ShapeError(
            f"latents have {t} frames of {h}x{w} cells, {w * CELL}x{h * CELL} px; at least 1 frame and sides that "
            f"divide by {p} cells, {p * CELL} px, are needed: scale or crop the pictures"
        )


def _check_text(config: WanConfig, context: Tensor, b: int) -> None:
    if context.ndim != 3 or context.shape[-1] != config.caption_channels or context.shape[1] < 1:
        raise ShapeError(
            f"text embedding is {tuple(context.shape)}; this model needs (b, n, {config.caption_channels}): use the "
            "text encoder (CLIP) that belongs to it, UMT5-XXL"
        )
    if context.shape[0] != b:
        raise ShapeError(f"{context.shape[0]} texts came with {b} videos; repeat the texts, one a video")


def _check_concat(config: WanConfig, concat: Tensor | None, latents: Tensor) -> None:
    b, _, t, h, w = latents.shape
    need = (b, config.concat_channels, t, h, w)
    if concat is None:
        raise ConfigError(
            f"concat_latents are missing; this model reads a start video beside the latents: give {need}, mask and "
            "scaled latents, or zeros to start from nothing"
        )
    if tuple(concat.shape) != need:
        raise ShapeError(
            f"concat_latents are {tuple(concat.shape)}; {need} is needed, "
            f"{config.concat_channels - config.in_channels} channels of mask and {config.in_channels} of a start video "
            "of the same size: encode it with the Wan 2.1 VAE at the size and length of the latents"
        )


def _check_image(config: WanConfig, tokens: Tensor | None, b: int) -> None:
    most = config.position_tokens
    need = f"({b}, {most or IMAGE_TOKENS}, {IMAGE_WIDTH})"
    if tokens is None:
        raise ConfigError(
            f"image_tokens are missing; this model reads its start image's CLIP vision tokens: give {need} of CLIP "
            "ViT-H, penultimate layer, or take a model without them"
        )
    if tokens.ndim != 3 or tokens.shape[0] != b or tokens.shape[-1] != IMAGE_WIDTH or not tokens.shape[1]:
        raise ShapeError(
            f"image_tokens are {tuple(tokens.shape)}; {need} is needed: use CLIP ViT-H, penultimate layer, a row a "
            "video"
        )
    if most and tokens.shape[1] > most:
        raise ShapeError(
            f"image_tokens are {tuple(tokens.shape)}; this model has places for {most} of them: give the first image's "
            "and the last's, no more"
        )
