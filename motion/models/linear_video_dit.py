"""Linear-attention video diffusion transformer (MiraMo), and our extensions of it as flags that default to off.

Shapes in this file: (b, c, t, h, w) latents outside, (b, t, n, d) tokens inside, n = (h/p)·(w/p) row-major.
Weight names are those of the MiraMo reference; extension weights have names of their own.
Source: MiraMo, arXiv 2508.07246, Eq. 3-9 and its published text-to-video code; SANA for the 2-D parts.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...kernels.spatial_linear_attention import spatial_linear_attention
from ...kernels.temporal_cosine_attention import temporal_cosine_attention
from ..errors import ConfigError, ShapeError
from ..layers.embeddings import ScalarMLP, place_features
from .flow_head import compose_clean
from .linear_video_dit_config import LinearVideoDiTConfig
from .skip_head import SkipHead

MASK_BIAS = -10000.0
TEXTURE_GAIN = 20.0  # latents of 1/20 are where log1p turns from linear to logarithmic


def torch_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention over (b, n, d) tensors; mask (b, 1, 1, n_key) is added to the scores."""
    query, key, value = (rearrange(x, "b n (nh dh) -> b nh n dh", nh=num_heads) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return rearrange(out, "b nh n dh -> b n (nh dh)")


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then adaptive scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def modulation_table(rows: int, width: int, *, dtype=None, device=None) -> nn.Parameter:
    """Rows of shifts, scales and gates, (rows, width), normal with deviation 1/√width.

    On the meta device nothing is drawn: random numbers there would load torch._dynamo and sympy, seconds for nothing.
    """
    table = torch.empty(rows, width, dtype=dtype, device=device)
    if not table.is_meta:
        table = torch.randn(rows, width, dtype=dtype, device=device) / width**0.5
    return nn.Parameter(table)


class SelfAttention(nn.Module):
    """Projections of a linear self-attention; `mix` is the operator between them."""

    def __init__(self, config: LinearVideoDiTConfig, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width = config.width
        self.head_dim = config.attention_head_dim
        self.to_q = operations.Linear(width, width, bias=False, **factory)
        self.to_k = operations.Linear(width, width, bias=False, **factory)
        self.to_v = operations.Linear(width, width, bias=False, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])
        if config.qk_norm:
            self.norm_q = operations.RMSNorm(width, eps=1e-5, **factory)
            self.norm_k = operations.RMSNorm(width, eps=1e-5, **factory)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """x (..., d), its tokens mixed by `mix` -> (..., d)."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.qk_norm:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (rearrange(y, "... (nh dh) -> ... nh dh", dh=self.head_dim) for y in (q, k, v))
        return self.to_out[0](rearrange(mix(q, k, v), "... nh dh -> ... (nh dh)"))


class CrossAttention(nn.Module):
    """Softmax attention from every token to the text; the text is not repeated per frame."""

    def __init__(self, config: LinearVideoDiTConfig, attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width = config.width
        self.num_heads, self.attention = config.num_cross_attention_heads, attention
        self.to_q = operations.Linear(width, width, **factory)
        self.to_k = operations.Linear(width, width, **factory)
        self.to_v = operations.Linear(width, width, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])
        if config.qk_norm:
            self.norm_q = operations.RMSNorm(width, eps=1e-5, **factory)
            self.norm_k = operations.RMSNorm(width, eps=1e-5, **factory)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """x (b, t, n, d), context (b, m, d), mask (b, 1, 1, m) -> (b, t, n, d)."""
        b, t, n, d = x.shape
        query, key, value = self.to_q(x.reshape(b, t * n, d)), self.to_k(context), self.to_v(context)
        if self.qk_norm:
            query, key = self.norm_q(query), self.norm_k(key)
        return self.to_out[0](self.attention(query, key, value, self.num_heads, mask)).reshape(b, t, n, d)


class MixFFN(nn.Module):
    """GLUMBConv: 1x1 up, SiLU, depthwise 3x3, gate by SiLU, 1x1 down; per frame on the token grid."""

    def __init__(self, config: LinearVideoDiTConfig, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width, hidden = config.width, config.hidden_width
        self.conv_inverted = operations.Conv2d(width, 2 * hidden, 1, **factory)
        self.conv_depth = operations.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **factory)
        self.conv_point = operations.Conv2d(hidden, width, 1, bias=False, **factory)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """x (b, t, n, d) with n = height · width -> (b, t, n, d)."""
        b, t = x.shape[:2]
        grid = rearrange(x, "b t (h w) d -> (b t) d h w", h=height, w=width)
        value, gate = self.conv_depth(F.silu(self.conv_inverted(grid))).chunk(2, dim=1)
        return rearrange(self.conv_point(value * F.silu(gate)), "(b t) d h w -> b t (h w) d", b=b, t=t)


class LinearVideoBlock(nn.Module):
    """Spatial attention, temporal attention, cross-attention, Mix-FFN; nine modulation rows in that order."""

    def __init__(self, config: LinearVideoDiTConfig, attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        width = config.width
        self.temporal_form = config.temporal_form
        self.scale_shift_table = modulation_table(6, width, dtype=dtype, device=device)
        self.scale_shift_table_attn3d = modulation_table(3, width, dtype=dtype, device=device)
        self.attn1 = SelfAttention(config, **factory)
        self.attn_temporal = SelfAttention(config, **factory)
        self.attn2 = CrossAttention(config, attention, **factory)
        self.ff = MixFFN(config, **factory)

    def forward(
        self, x: Tensor, modulation: Tensor, context: Tensor, mask: Tensor | None, grid: tuple[int, int],
        positions: Tensor,
    ) -> Tensor:  # fmt: skip
        """x (b, t, n, d); modulation (b, t or 1, 9, d); context (b, m, d); positions (t,) or (b, t)."""
        b = x.shape[0]
        table = torch.cat((self.scale_shift_table, self.scale_shift_table_attn3d)).to(x)
        rows = (modulation + table).unsqueeze(3).unbind(2)  # nine of (b, t or 1, 1, d)
        shift, scale, gate, shift_ff, scale_ff, gate_ff, shift_t, scale_t, gate_t = rows
        spatial = rearrange(modulated_norm(x, shift, scale), "b t n d -> (b t) n d")
        mixed = self.attn1(spatial, spatial_linear_attention)
        x = x + gate * rearrange(mixed, "(b t) n d -> b t n d", b=b)
        mixed = self.attn_temporal(
            modulated_norm(x, shift_t, scale_t),
            lambda q, k, v: temporal_cosine_attention(q, k, v, form=self.temporal_form, positions=positions),
        )
        x = x + gate_t * mixed
        x = x + self.attn2(x, context, mask)
        return x + gate_ff * self.ff(modulated_norm(x, shift_ff, scale_ff), *grid)


class LinearVideoDiT(nn.Module):
    """The network: latents, timestep, text and motion bucket in, velocity (noise - clean) out."""

    def __init__(
        self, config: LinearVideoDiTConfig, *, operations=nn, attention=None, dtype=None, device=None
    ):
        super().__init__()
        self.config, self.dtype = config, dtype
        factory = {"dtype": dtype, "device": device}
        width, patch = config.width, config.patch_size
        make = {"operations": operations, **factory}
        self.patch_embed = nn.Module()
        self.patch_embed.proj = operations.Conv2d(config.in_channels, width, patch, stride=patch, **factory)
        self.time_embed = nn.Module()
        self.time_embed.emb = ScalarMLP(width, **make)
        if config.motion_buckets:
            self.time_embed.motion_guidance_emb = ScalarMLP(width, **make)
        self.time_embed.linear = operations.Linear(width, 9 * width, **factory)
        self.caption_projection = nn.Module()
        self.caption_projection.linear_1 = operations.Linear(config.caption_channels, width, **factory)
        self.caption_projection.linear_2 = operations.Linear(width, width, **factory)
        self.caption_norm = operations.RMSNorm(width, eps=1e-5, **factory)
        self.transformer_blocks = nn.ModuleList(
            LinearVideoBlock(config, attention or torch_attention, **make) for _ in range(config.num_layers)
        )
        self.scale_shift_table = modulation_table(2, width, **factory)
        self.proj_out = operations.Linear(width, patch * patch * config.in_channels, **factory)
        self._add_extensions(operations, factory)

    def _add_extensions(self, operations, factory: dict) -> None:
        config, width = self.config, self.config.width
        if config.concat_first_frame:
            self.first_frame_embed = nn.Module()
            self.first_frame_embed.proj = operations.Conv2d(
                config.in_channels, width, config.patch_size, stride=config.patch_size, bias=False, **factory
            )
        if config.first_frame_texture:
            self.texture_projection = nn.Module()
            self.texture_projection.linear_1 = operations.Linear(config.in_channels, width, **factory)
            self.texture_projection.linear_2 = operations.Linear(width, width, **factory)
        if config.frame_index_embedding:
            self.frame_index_embed = ScalarMLP(width, operations=operations, **factory)
        if config.pooled_text_embedding:
            self.pooled_projection = nn.Module()
            self.pooled_projection.linear_1 = operations.Linear(config.caption_channels, width, **factory)
            self.pooled_projection.linear_2 = operations.Linear(width, width, **factory)
        if config.position_features:
            self.position_embed = nn.Module()
            features = place_features(1, 1).shape[-1]
            self.position_embed.linear = operations.Linear(features, width, bias=False, **factory)
        if config.skip_channels:
            self.skip_head = SkipHead(config, operations=operations, **factory)

    def forward(
        self, latents: Tensor, timestep: Tensor, context: Tensor, *, attention_mask: Tensor | None = None,
        motion_bucket_id: Tensor | None = None, pooled: Tensor | None = None, first_latent: Tensor | None = None,
        run_block: Callable | None = None, frame_indices: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Predict the velocity noise - clean.

        latents: (b, c, t, h, w), scaled, as the network sees them. timestep: (b,) float in [0, 1000] = 1000·sigma.
        context: (b, m, caption_channels). attention_mask: (b, m), 1 = real token. motion_bucket_id: (b,) long.
        pooled: (b, caption_channels). first_latent: (b, c, 1, h, w), scaled; needed by the flow head and
        concat_first_frame. run_block(index, call, hidden_states): seam for block patches. frame_indices: (t,) or
        (b, t), default 0..t-1.
        Returns (b, c, t, h, w) in the dtype of latents. Raises ShapeError and ConfigError for inputs that do not fit.
        """
        raw = self.predict_raw(
            latents, timestep, context, attention_mask=attention_mask, motion_bucket_id=motion_bucket_id,
            pooled=pooled, first_latent=first_latent, run_block=run_block, frame_indices=frame_indices,
        )  # fmt: skip
        if self.config.prediction == "velocity":
            return raw
        indices, clean = self._frame_indices(frame_indices, latents), raw
        if self.config.flow_channels:
            clean = compose_clean(raw, first_latent, indices, dead_zone=True)[0]
        if self.config.skip_channels:
            clean = self.skip_head(clean, latents, timestep / 1000, first_latent, indices, pooled, motion_bucket_id)
        sigma = (timestep.float() / 1000).clamp_min(1e-5).view(-1, 1, 1, 1, 1)
        return ((latents.float() - clean.float()) / sigma).to(latents.dtype)

    def predict_raw(
        self, latents: Tensor, timestep: Tensor, context: Tensor, *, attention_mask: Tensor | None = None,
        motion_bucket_id: Tensor | None = None, pooled: Tensor | None = None, first_latent: Tensor | None = None,
        run_block: Callable | None = None, frame_indices: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The head's output before it becomes a velocity; arguments as in `forward`. (b, c, t, h, w)."""
        config = self.config
        self._check(latents, context, first_latent, pooled)
        b, _, t, h, w = latents.shape
        grid = (h // config.patch_size, w // config.patch_size)
        indices = self._frame_indices(frame_indices, latents)
        embedding = self._embed_scalars(timestep, motion_bucket_id, pooled, indices, first_latent, latents.dtype)
        modulation = self.time_embed.linear(F.silu(embedding)).unflatten(-1, (9, -1))
        x = self._embed_patches(latents, first_latent, grid)
        text = self._embed_text(context.to(x.dtype))
        mask = None
        if attention_mask is not None:
            mask = ((1 - attention_mask.to(x.dtype)) * MASK_BIAS)[:, None, None, :]
        for index, block in enumerate(self.transformer_blocks):

            def call(hidden_states: Tensor, block=block) -> Tensor:
                return block(hidden_states, modulation, text, mask, grid, indices)

            x = call(x) if run_block is None else run_block(index, call, x)
        shift, scale = (self.scale_shift_table.to(x) + embedding.unsqueeze(2)).unsqueeze(3).unbind(2)
        x = self.proj_out(modulated_norm(x, shift, scale))
        p = config.patch_size
        return rearrange(
            x, "b t (h w) (p q c) -> b c t (h p) (w q)", h=grid[0], w=grid[1], p=p, q=p
        )  # fmt: skip

    def _check(self, latents: Tensor, context: Tensor, first_latent: Tensor | None, pooled: Tensor | None) -> None:
        config = self.config
        if latents.ndim != 5 or latents.shape[1] != config.in_channels:
            raise ShapeError(
                f"latents are {tuple(latents.shape)}; this model needs (b, {config.in_channels}, t, h, w): use the "
                "VAE and the latent node that belong to it"
            )
        b, c, t, h, w = latents.shape
        if t < 1 or h % config.patch_size or w % config.patch_size or not h or not w:
            raise ShapeError(
                f"latents have {t} frames of {h}x{w}; at least 1 frame and sides that divide by "
                f"{config.patch_size} are needed"
            )
        if context.ndim != 3 or context.shape[-1] != config.caption_channels or context.shape[1] < 1:
            raise ShapeError(
                f"text embedding is {tuple(context.shape)}; this model needs (b, n, {config.caption_channels}): use "
                "the text encoder (CLIP) that belongs to it"
            )
        if config.flow_channels or config.concat_first_frame or config.first_frame_texture:
            if first_latent is None:
                raise ConfigError(
                    "this model animates a start image and got none; give its conditioning one with the node "
                    "Image to Video"
                )
            if (*first_latent.shape[1:2], *first_latent.shape[3:]) != (c, h, w):
                raise ShapeError(
                    f"start image latent is {tuple(first_latent.shape)}, the video latent {tuple(latents.shape)}; "
                    "channels, height and width must agree"
                )
        if config.pooled_text_embedding and pooled is None:
            raise ConfigError("this model needs a pooled prompt; encode the prompt with the CLIP that belongs to it")

    def _frame_indices(self, frame_indices: Tensor | None, latents: Tensor) -> Tensor:
        if frame_indices is None:
            return torch.arange(latents.shape[2], device=latents.device)
        return frame_indices

    def _embed_scalars(
        self, timestep: Tensor, motion_bucket_id: Tensor | None, pooled: Tensor | None, indices: Tensor,
        first_latent: Tensor | None, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """Sum of the scalar embeddings, (b, t or 1, d)."""
        embedding = self.time_embed.emb(timestep, dtype)
        if self.config.motion_buckets:
            if motion_bucket_id is None:
                motion_bucket_id = torch.full_like(timestep, self.config.default_motion_bucket)
            embedding = embedding + self.time_embed.motion_guidance_emb(motion_bucket_id, dtype)
        if self.config.pooled_text_embedding:
            hidden = F.silu(self.pooled_projection.linear_1(pooled.to(dtype)))
            embedding = embedding + self.pooled_projection.linear_2(hidden)
        if self.config.first_frame_texture:
            strength = torch.log1p(TEXTURE_GAIN * first_latent[:, :, 0].float().abs()).mean((-2, -1)) - 1.5
            hidden = F.silu(self.texture_projection.linear_1(strength.to(dtype)))
            embedding = embedding + self.texture_projection.linear_2(hidden)
        embedding = embedding.unsqueeze(1)
        if self.config.frame_index_embedding:
            frames = self.frame_index_embed(indices, dtype)
            embedding = embedding + (frames if frames.ndim == 3 else frames.unsqueeze(0))
        return embedding

    def _embed_patches(self, latents: Tensor, first_latent: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Tokens (b, t, n, d)."""
        b = latents.shape[0]
        x = self.patch_embed.proj(rearrange(latents, "b c t h w -> (b t) c h w"))
        x = rearrange(x, "(b t) d h w -> b t (h w) d", b=b)
        if self.config.concat_first_frame:
            first = self.first_frame_embed.proj(first_latent[:, :, 0].to(latents.dtype))
            x = x + rearrange(first, "b d h w -> b 1 (h w) d")
        if self.config.position_features:
            places = place_features(*grid, device=latents.device).to(latents.dtype)
            x = x + self.position_embed.linear(places)
        return x

    def _embed_text(self, context: Tensor) -> Tensor:
        hidden = F.gelu(self.caption_projection.linear_1(context), approximate="tanh")
        return self.caption_norm(self.caption_projection.linear_2(hidden))
