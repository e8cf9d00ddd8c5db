"""Wan 2.1 and the A14B experts of Wan 2.2: full attention over the tokens of a video, text, feed-forward.

Shapes in this file: (b, c, t, h, w) latents outside, (b, n, d) tokens inside, n = t·(h/p)·(w/p), frame by frame.
Modules and weights have the names of the host's own Wan, whose state dict fits as it is.
Source: Wan, arXiv 2503.20314, and its published code.
"""

from collections.abc import Callable, Hashable

import torch
from einops import rearrange
from torch import Tensor, nn

from ..block_adapters import BlockAdapters
from ..block_inputs import WeightsOf
from ..conditions import Conditions
from ..linear_video.attentions import torch_attention
from ..module_weights import plain_weights
from ..text_cache import TextCache
from .block_run import check_places, modulated
from .blocks import Attention, WanBlock, WanInputs, drawn_rows
from .checks import check_inputs
from .config import EPS, FREQUENCIES, IMAGE_WIDTH, WanConfig
from .rotary import WanRotary, wan_rotary

__all__ = ["WanDiT", "WanConfig"]


def timestep_features(timestep: Tensor) -> Tensor:
    """Cosines, then sines of timestep · 10000^(-i/128): (…,) -> (…, 256) float32.

    Speeds are float32 powers as in the published code: at timestep 1000 another rounding of them, such as that of
    `sinusoid`, moves a feature by 1e-4.
    """
    half = FREQUENCIES // 2
    speed = torch.pow(10000, -torch.arange(half, device=timestep.device, dtype=torch.float32) / half)
    angle = timestep.float().unsqueeze(-1) * speed
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


class ImageEmbedding(nn.Module):
    """CLIP vision tokens -> tokens that text attention reads; in models from first to last image each has an offset."""

    def __init__(self, config: WanConfig, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.proj = nn.Sequential(
            operations.LayerNorm(IMAGE_WIDTH, **factory), operations.Linear(IMAGE_WIDTH, IMAGE_WIDTH, **factory),
            nn.GELU(), operations.Linear(IMAGE_WIDTH, config.width, **factory),
            operations.LayerNorm(config.width, **factory),
        )  # fmt: skip
        self.emb_pos = None
        if config.position_tokens:
            self.emb_pos = nn.Parameter(torch.zeros(1, config.position_tokens, IMAGE_WIDTH, **factory))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (b, m, 1280) -> (b, m, d)."""
        if self.emb_pos is not None:
            tokens = tokens + self.emb_pos[:, : tokens.shape[1]].to(tokens)
        return self.proj(tokens)


class WanHead(nn.Module):
    """Tokens -> patches of velocity, after a norm that is shifted and scaled by noise level."""

    def __init__(self, config: WanConfig, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm = operations.LayerNorm(config.width, eps=EPS, elementwise_affine=False, **factory)
        self.head = operations.Linear(config.width, config.patch_size**2 * config.in_channels, **factory)
        self.modulation = drawn_rows(2, config, **factory)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (b, n, d), embedding (b, t or 1, d) -> (b, n, p·p·c)."""
        shift, scale = (self.modulation.to(embedding) + embedding.unsqueeze(2)).unbind(2)
        return self.head(modulated(self.norm(x), shift, scale))


class WanDiT(nn.Module):
    """The network: latents, timesteps, text and what the variant is told of a start image in, velocity out.

    operations: where Linear, Conv3d, LayerNorm and RMSNorm come from. attention: softmax attention, called like
    `torch_attention`. The patch embedding is float32 whatever dtype says, and stays so: assign it such weights.
    kernels, weights_of: as all networks have them; no operator of `kernels` is called here.
    """

    def __init__(
        self, config: WanConfig, *, operations=nn, attention: Attention | None = None, kernels: str = "auto",
        weights_of: WeightsOf | None = None, dtype=None, device=None,
    ):  # fmt: skip
        super().__init__()
        self.config, self.dtype = config, dtype
        self.kernels, self.weights_of = kernels, weights_of or plain_weights
        factory, width = {"dtype": dtype, "device": device}, config.width
        make, patch = {"operations": operations, **factory}, (1, config.patch_size, config.patch_size)
        channels, wide = config.in_channels + config.concat_channels, _wide(dtype)
        self.patch_embedding = operations.Conv3d(channels, width, patch, stride=patch, dtype=wide, device=device)
        self.text_embedding = nn.Sequential(
            operations.Linear(config.caption_channels, width, **factory), nn.GELU(approximate="tanh"),
            operations.Linear(width, width, **factory),
        )  # fmt: skip
        self.time_embedding = nn.Sequential(
            operations.Linear(FREQUENCIES, width, **factory), nn.SiLU(), operations.Linear(width, width, **factory)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), operations.Linear(width, 6 * width, **factory))
        self.blocks = nn.ModuleList(
            WanBlock(config, attention or torch_attention, **make) for _ in range(config.num_layers)
        )
        self.head = WanHead(config, **make)
        self.img_emb = ImageEmbedding(config, **make) if config.image_tokens else None

    def forward(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, *, run_block: Callable | None = None,
        text_cache: TextCache | None = None, text_keys: tuple[Hashable, ...] | None = None,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:  # fmt: skip
        """Predict the velocity noise - clean.

        latents: (b, c, t, h, w), scaled, as the network sees them. timestep: (b,), or (b, t) with one a latent frame,
        float in [0, 1000] = 1000·sigma; a frame that is given clean has 0. conditions: b rows. Read are the prompt,
        without its mask, since Wan reads the padding too; frame_indices, any real places; and, where the config has
        them, concat_latents and image_tokens. run_block(index, call, hidden_states): seam for block patches, on tokens
        (b, n, d). text_cache, text_keys: not used, every call reads the text anew. adapters: inside every block.
        Returns (b, c, t, h, w) in the dtype of latents. Raises ShapeError for inputs that do not fit, ConfigError for
        missing ones and for adapters beside attention along the frames, of which there is none.
        """
        check_places(adapters)
        check_inputs(self.config, latents, timestep, conditions)
        x, grid = self.embed_patches(latents, conditions.concat_latents)
        embedding = self.embed_timestep(timestep, latents.dtype)
        modulation = self.time_projection(embedding).unflatten(-1, (6, -1))
        text = self.text_embedding(conditions.context.to(latents.dtype))
        image = None if self.img_emb is None else self.img_emb(conditions.image_tokens.to(latents.dtype))
        rotary = self.places(conditions.frame_indices, grid, latents)
        around = WanInputs(
            embedding, modulation, text, image, rotary, grid, self.kernels, adapters, masks=conditions.masks
        )
        for index, block in enumerate(self.blocks):
            if adapters is not None:
                around = around._replace(block=index)
            if run_block is None:
                x = block(x, around)
            else:
                x = run_block(index, lambda hidden_states, block=block, told=around: block(hidden_states, told), x)
        return self.patches_to_latents(self.head(x, embedding), grid)

    def embed_patches(self, latents: Tensor, concat_latents: Tensor | None) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens (b, n, d) in the dtype of latents, contiguous, and how many frames, rows and columns they have."""
        if self.config.concat_channels:
            latents = torch.cat((latents, concat_latents.to(latents.dtype)), dim=1)
        x = self.patch_embedding(latents.to(_wide(latents.dtype))).to(latents.dtype)
        return rearrange(x, "b d t h w -> b (t h w) d").contiguous(), tuple(x.shape[2:])

    def embed_timestep(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """timestep (b,) or (b, t or 1) -> (b, t or 1, d)."""
        each = timestep if timestep.ndim == 2 else timestep.unsqueeze(1)
        return self.time_embedding(timestep_features(each).to(dtype))

    def places(self, frame_indices: Tensor | None, grid: tuple[int, int, int], like: Tensor) -> WanRotary:
        """The turns of a grid's tokens, on the device of `like`; frame_indices (t,) or (b, t), None: 0..t-1."""
        frames, rows, columns = (torch.arange(size, device=like.device) for size in grid)
        if frame_indices is not None:
            frames = frame_indices.to(like.device)
        return wan_rotary(frames, rows, columns, self.config.axes, dtype=_wide(like.dtype))

    def patches_to_latents(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(b, n, p·p·c) -> (b, c, t, h, w)."""
        (t, h, w), p = grid, self.config.patch_size
        return rearrange(x, "b (t h w) (p q c) -> b c t (h p) (w q)", t=t, h=h, w=w, p=p, q=p)


def _wide(dtype: torch.dtype | None) -> torch.dtype:
    """What is computed in float32 for all types but float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
