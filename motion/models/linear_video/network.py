"""Linear-attention video diffusion transformer (MiraMo), and our extensions of it as flags that default to off.

Shapes in this file: (b, c, t, h, w) latents outside, (b, t, n, d) tokens inside, n = (h/p)·(w/p) row-major.
Weight names are those of the MiraMo reference; extension weights have names of their own.
Source: MiraMo, arXiv 2508.07246, Eq. 3-9 and its published text-to-video code; SANA for the 2-D parts.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....kernels.gate_norm_modulate import Rows
from ....kernels.temporal_cosine_attention import rotary_table
from ...errors import ConfigError, ShapeError
from ...layers.embeddings import ScalarMLP, place_features
from ..block_adapters import BlockAdapters
from ..block_inputs import BlockInputs, WeightsOf
from ..block_stack import BlockStack
from ..conditions import Conditions
from ..heads.flow_head import compose_clean
from ..heads.skip_head import SkipHead
from ..module_weights import plain_weights
from ..text_cache import TextCache
from .attentions import torch_attention
from .blocks import LinearVideoBlock, TokenStream, modulation_table
from .config import LinearVideoDiTConfig

__all__ = ["LinearVideoDiT", "LinearVideoDiTConfig", "torch_attention"]

TEXTURE_GAIN = 20.0  # latents of 1/20 are where log1p turns from linear to logarithmic


class LinearVideoDiT(BlockStack):
    """The network: latents, timestep, text and motion bucket in, velocity (noise - clean) out.

    operations: where Linear, Conv2d and RMSNorm come from. attention: softmax attention, called like `torch_attention`.
    kernels: backend of the operators, "auto", "torch" or "triton"; may be changed at any time. weights_of: resolver of
    weights that operators take as arguments (see module_weights.py).
    """

    def __init__(
        self, config: LinearVideoDiTConfig, *, operations=nn, attention=None, kernels: str = "auto",
        weights_of: WeightsOf | None = None, dtype=None, device=None,
    ):  # fmt: skip
        super().__init__()
        self.config, self.dtype = config, dtype
        self.kernels, self.weights_of = kernels, weights_of or plain_weights
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
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, *, run_block: Callable | None = None,
        text_cache: TextCache | None = None, text_keys: tuple[Hashable, ...] | None = None,
        adapters: BlockAdapters | None = None, raw: bool = False,
    ) -> Tensor:  # fmt: skip
        """Predict the velocity noise - clean.

        latents: (b, c, t, h, w), scaled, as the network sees them. timestep: (b,) float in [0, 1000] = 1000·sigma.
        conditions: b rows. first_latent and pooled are needed by what the config names so. curve: with a flow head
        the blocks see its frames at its places only, and the other frames follow. detail_indices: for the skip head.
        run_block(index, call, hidden_states): seam for block patches. text_cache: texts of one sampling run, with
        text_keys naming the text of each row; used where gradients are off and no layer that reads the text is hooked.
        adapters: what stands in the places of every block. raw: answer as `predict_raw` does, as trainers need it.
        Returns (b, c, t, h, w) in the dtype of latents. Raises ShapeError and ConfigError for inputs that do not fit.
        """
        if raw:
            return self.predict_raw(
                latents, timestep, conditions, run_block=run_block, text_cache=text_cache, text_keys=text_keys,
                adapters=adapters,
            )  # fmt: skip
        told, curve = conditions, conditions.curve
        if self.config.prediction != "x0" or not self.config.flow_channels:
            curve = None
        seen = latents
        if curve is not None:
            seen, told = latents[:, :, curve.frames], replace(conditions, frame_indices=curve.places)
        said = self.predict_raw(
            seen, timestep, told, run_block=run_block, text_cache=text_cache, text_keys=text_keys, adapters=adapters
        )  # fmt: skip
        if self.config.prediction == "velocity":
            return said
        indices, clean = self._frame_indices(conditions, latents), said
        if self.config.flow_channels:
            at = indices if curve is None else curve.places
            clean = compose_clean(said, conditions.first_latent, at, dead_zone=True, curve=curve)[0]
        if self.config.skip_channels:
            places = indices if conditions.detail_indices is None else conditions.detail_indices
            clean = self.skip_head(
                clean, latents, timestep / 1000, conditions.first_latent, places, conditions.pooled,
                conditions.motion_bucket_id,
            )  # fmt: skip
        sigma = (timestep.float() / 1000).clamp_min(1e-5).view(-1, 1, 1, 1, 1)
        return ((latents.float() - clean.float()) / sigma).to(latents.dtype)

    def predict_raw(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, *, run_block: Callable | None = None,
        text_cache: TextCache | None = None, text_keys: tuple[Hashable, ...] | None = None,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:  # fmt: skip
        """The head's output before it becomes a velocity, (b, c, t, h, w); arguments as in `forward`.

        Frames are at frame_indices; curve and detail_indices are not read.
        """
        config, first_latent = self.config, conditions.first_latent
        self._check(latents, conditions)
        b, _, t, h, w = latents.shape
        grid = (h // config.patch_size, w // config.patch_size)
        indices = self._frame_indices(conditions, latents)
        embedding = self._embed_scalars(timestep, conditions, indices, latents.dtype)
        modulation = self.time_embed.linear(F.silu(embedding)).unflatten(-1, (9, -1)).unbind(-2)
        stream = TokenStream(self._embed_patches(latents, first_latent, grid), self.kernels)
        text = self._read_text(
            conditions.context.to(stream.x.dtype), conditions.attention_mask, text_cache, text_keys
        )  # fmt: skip
        precise = torch.float64 if stream.x.dtype == torch.float64 else torch.float32
        rotary = rotary_table(indices, config.attention_head_dim, dtype=precise)
        around = BlockInputs(embedding, modulation, text, grid, rotary, self.kernels, self.weights_of, adapters)
        stream = self._run_blocks(stream, around, run_block)
        table = self.scale_shift_table.to(stream.x)
        x = self.proj_out(stream.norm(Rows(embedding, table[0]), Rows(embedding, table[1])))
        p = config.patch_size
        return rearrange(
            x, "b t (h w) (p q c) -> b c t (h p) (w q)", h=grid[0], w=grid[1], p=p, q=p
        )  # fmt: skip

    def _check(self, latents: Tensor, conditions: Conditions) -> None:
        config, first_latent = self.config, conditions.first_latent
        self._check_sizes(latents, conditions.context)
        if config.flow_channels or config.concat_first_frame or config.first_frame_texture:
            if first_latent is None:
                raise ConfigError(
                    "this model animates a start image and got none; give its conditioning one with the node "
                    "Photo to Video"
                )
            _, c, _, h, w = latents.shape
            if (*first_latent.shape[1:2], *first_latent.shape[3:]) != (c, h, w):
                raise ShapeError(
                    f"start image latent is {tuple(first_latent.shape)}, the video latent {tuple(latents.shape)}; "
                    "channels, height and width must agree"
                )
        if config.pooled_text_embedding and conditions.pooled is None:
            raise ConfigError("this model needs a pooled prompt; encode the prompt with the CLIP that belongs to it")

    def _frame_indices(self, conditions: Conditions, latents: Tensor) -> Tensor:
        if conditions.frame_indices is None:
            return torch.arange(latents.shape[2], device=latents.device)
        return conditions.frame_indices

    def _embed_scalars(self, timestep: Tensor, conditions: Conditions, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Sum of the scalar embeddings, (b, t or 1, d)."""
        embedding = self.time_embed.emb(timestep, dtype)
        if self.config.motion_buckets:
            bucket = conditions.motion_bucket_id
            if bucket is None:
                bucket = torch.full_like(timestep, self.config.default_motion_bucket)
            embedding = embedding + self.time_embed.motion_guidance_emb(bucket, dtype)
        if self.config.pooled_text_embedding:
            hidden = F.silu(self.pooled_projection.linear_1(conditions.pooled.to(dtype)))
            embedding = embedding + self.pooled_projection.linear_2(hidden)
        if self.config.first_frame_texture:
            first = conditions.first_latent[:, :, 0].float()
            strength = torch.log1p(TEXTURE_GAIN * first.abs()).mean((-2, -1)) - 1.5
            hidden = F.silu(self.texture_projection.linear_1(strength.to(dtype)))
            embedding = embedding + self.texture_projection.linear_2(hidden)
        embedding = embedding.unsqueeze(1)
        if self.config.frame_index_embedding:
            frames = self.frame_index_embed(indices, dtype)
            embedding = embedding + (frames if frames.ndim == 3 else frames.unsqueeze(0))
        return embedding

    def _embed_patches(self, latents: Tensor, first_latent: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Tokens (b, t, n, d), contiguous."""
        b = latents.shape[0]
        x = self.patch_embed.proj(rearrange(latents, "b c t h w -> (b t) c h w"))
        x = rearrange(x, "(b t) d h w -> b t (h w) d", b=b).contiguous()
        if self.config.concat_first_frame:
            first = self.first_frame_embed.proj(first_latent[:, :, 0].to(latents.dtype))
            x = x + rearrange(first, "b d h w -> b 1 (h w) d")
        if self.config.position_features:
            places = place_features(*grid, device=latents.device).to(latents.dtype)
            x = x + self.position_embed.linear(places)
        return x
