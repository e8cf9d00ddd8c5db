"""SANA-Video: one linear attention over all tokens of a video, text, and an FFN that also looks along the frames.

Shapes in this file: (b, c, t, h, w) latents outside, (b, t, n, d) tokens inside, n = (h/p)·(w/p) row-major.
Weight names are those of the published diffusers layout.
Source: SANA-Video, arXiv 2509.24695, and its published code; SANA, arXiv 2410.10629, for the parts it keeps.
"""

from collections.abc import Callable, Hashable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....kernels.gate_norm_modulate import Rows
from ....kernels.joint_linear_attention import Scale, axis_rotary, joint_linear_attention
from ....kernels.token_rstd import token_rstd
from ...errors import ConfigError, ShapeError
from ...layers.embeddings import ScalarMLP
from ..block_adapters import BlockAdapters
from ..block_inputs import BlockInputs, WeightsOf
from ..block_stack import BlockStack
from ..conditions import Conditions
from ..linear_video.attentions import CrossAttention, SelfAttention, torch_attention
from ..linear_video.blocks import MixFFN, TokenBlock, TokenStream, modulation_table, read_text
from ..module_weights import is_untouched, plain_weights
from ..text_cache import TextCache
from .config import NO_ADAPTERS, SanaVideoConfig

__all__ = ["SanaVideoDiT", "SanaVideoConfig"]

QK_EPS = 1e-5  # of SelfAttention's norms


class JointAttention(SelfAttention):
    """Linear self-attention over all tokens of all frames, rotated by frame, row and column in its numerator."""

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Normed tokens (b, t, n, d) -> what they gather, (b, t, n, d), before the gate."""
        return self.to_out[0](self.mix(x.flatten(1, 2), around)).reshape(x.shape)

    def mix(self, x: Tensor, around: BlockInputs) -> Tensor:
        """x (b, t·n, d) -> what the tokens gather, (b, t·n, d), before `to_out`.

        The norms of q and k are called, or, where `weights_of` gives their weights, applied by the operator on load.
        """
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        del x
        if not self.qk_norm:
            return self._attend(q, k, v, around)
        with around.weights_of(self.norm_q, q) as q_given, around.weights_of(self.norm_k, k) as k_given:
            q, q_scale = _normed(self.norm_q, q, q_given, around.kernels)
            k, k_scale = _normed(self.norm_k, k, k_given, around.kernels)
            return self._attend(q, k, v, around, q_scale=q_scale, k_scale=k_scale)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, around: BlockInputs, **scales: Scale | None) -> Tensor:
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v))
        return joint_linear_attention(q, k, v, rotary=around.rotary, kernels=around.kernels, **scales).flatten(-2)


def _normed(norm: nn.Module, x: Tensor, given: tuple | None, kernels: str) -> tuple[Tensor, Scale | None]:
    """The normed x, or x as it is and the scale that norms it."""
    if given is None:
        return norm(x), None
    return x, (token_rstd(x, eps=QK_EPS, kernels=kernels), given[0])


class TemporalMixFFN(MixFFN):
    """Mix-FFN per frame, and to its answer y a convolution of y over three frames."""

    def __init__(self, config: SanaVideoConfig, *, operations, dtype=None, device=None):
        super().__init__(config, operations=operations, dtype=dtype, device=device)
        width = config.width
        self.conv_temp = operations.Conv2d(
            width, width, (3, 1), padding=(1, 0), bias=False, dtype=dtype, device=device
        )

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Normed tokens (b, t, n, d) -> (b, t, n, d), before the gate."""
        return self.mix_video(x, around)

    def mix_video(self, x: Tensor, around: BlockInputs) -> Tensor:
        """x (b, t, n, d) -> (b, t, n, d). The convolution sees a view whose channels lie last in memory."""
        y = rearrange(self.mix(x.flatten(0, 1), around), "(b t) n d -> b d t n", b=len(x))
        return rearrange(y + self.conv_temp(y), "b d t n -> b t n d")


class SanaVideoBlock(TokenBlock):
    """Joint linear attention, cross-attention, Mix-FFN with frames; six modulation rows."""

    def __init__(self, config: SanaVideoConfig, attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        self.scale_shift_table = modulation_table(6, config.width, dtype=dtype, device=device)
        self.attn1 = JointAttention(config, **factory)
        self.attn2 = CrossAttention(config, attention, **factory)
        self.ff = TemporalMixFFN(config, **factory)

    def run(self, stream: TokenStream, around: BlockInputs) -> None:
        """Move the stream through the block; the last residual stays pending."""
        table = self.scale_shift_table.to(stream.x)
        rows = [Rows(values, row) for values, row in zip(around.modulation, table)]
        shift, scale, gate = rows[:3]
        if is_untouched(self.attn1):
            mixed = self.attn1.mix(stream.norm(shift, scale).flatten(1, 2), around)
            stream.add(self.attn1.to_out[0](mixed).reshape(stream.x.shape), gate=gate)
            del mixed
        else:
            stream.add(self.attn1(stream.norm(shift, scale), around), gate=gate)
        read_text(stream, self.attn2, around)
        shift, scale, gate = rows[3:]
        stream.add(self.ff(stream.norm(shift, scale), around), gate=gate)


class SanaVideoDiT(BlockStack):
    """The network: latents, timesteps and text in, velocity (noise - clean) out.

    operations: where Linear, Conv2d, Conv3d and RMSNorm come from. attention: softmax attention, called like
    `torch_attention`. kernels: backend of the operators, "auto", "torch" or "triton"; may be changed at any time.
    weights_of: resolver of weights that operators take as arguments (see module_weights.py).
    """

    def __init__(
        self, config: SanaVideoConfig, *, operations=nn, attention=None, kernels: str = "auto",
        weights_of: WeightsOf | None = None, dtype=None, device=None,
    ):  # fmt: skip
        super().__init__()
        self.config, self.dtype = config, dtype
        self.kernels, self.weights_of = kernels, weights_of or plain_weights
        factory = {"dtype": dtype, "device": device}
        width, patch = config.width, (1, config.patch_size, config.patch_size)
        make = {"operations": operations, **factory}
        self.patch_embedding = operations.Conv3d(config.in_channels, width, patch, stride=patch, **factory)
        self.time_embed = nn.Module()
        self.time_embed.emb = ScalarMLP(width, **make)
        self.time_embed.linear = operations.Linear(width, 6 * width, **factory)
        self.caption_projection = nn.Module()
        self.caption_projection.linear_1 = operations.Linear(config.caption_channels, width, **factory)
        self.caption_projection.linear_2 = operations.Linear(width, width, **factory)
        self.caption_norm = operations.RMSNorm(width, eps=1e-5, **factory)
        self.transformer_blocks = nn.ModuleList(
            SanaVideoBlock(config, attention or torch_attention, **make) for _ in range(config.num_layers)
        )
        self.scale_shift_table = modulation_table(2, width, **factory)
        self.proj_out = operations.Linear(width, config.patch_size**2 * config.in_channels, **factory)

    def forward(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, *, run_block: Callable | None = None,
        text_cache: TextCache | None = None, text_keys: tuple[Hashable, ...] | None = None,
        adapters: BlockAdapters | None = None,
    ) -> Tensor:  # fmt: skip
        """Predict the velocity noise - clean.

        latents: (b, c, t, h, w), scaled, as the network sees them. timestep: (b,), or (b, t) with one a latent frame,
        float in [0, 1000] = 1000·sigma; a frame that is given clean has 0. conditions: b rows; the prompt and its mask
        are read, nothing else. run_block(index, call, hidden_states): seam for block patches. text_cache: texts of one
        sampling run, with text_keys naming the text of each row; used where gradients are off and no layer that reads
        the text is hooked. adapters: refused, see below.
        Returns (b, c, t, h, w) in the dtype of latents. Raises ShapeError for inputs that do not fit, ConfigError for
        adapters.
        """
        if adapters is not None:
            raise ConfigError(f"SANA-Video takes no adapters in its blocks: {NO_ADAPTERS}; use a LinearVideo model")
        context, attention_mask = conditions.context, conditions.attention_mask
        self._check(latents, timestep, context, attention_mask)
        config, frames, p = self.config, latents.shape[2], self.config.patch_size
        grid = (latents.shape[3] // p, latents.shape[4] // p)
        each = timestep if timestep.ndim == 2 else timestep.unsqueeze(1)
        embedding = self.time_embed.emb(each, latents.dtype)  # (b, t or 1, d)
        modulation = self.time_embed.linear(F.silu(embedding)).unflatten(-1, (6, -1)).unbind(-2)
        x = rearrange(self.patch_embedding(latents), "b d t h w -> b t (h w) d").contiguous()
        stream = TokenStream(x, self.kernels)
        text = self._read_text(context.to(x.dtype), attention_mask, text_cache, text_keys)
        rotary = axis_rotary(config.attention_head_dim, frames, *grid, device=x.device)
        del x
        around = BlockInputs(embedding, modulation, text, grid, rotary, self.kernels, self.weights_of)
        stream = self._run_blocks(stream, around, run_block)
        table = self.scale_shift_table.to(stream.x)
        x = self.proj_out(stream.norm(Rows(embedding, table[0]), Rows(embedding, table[1])))
        return rearrange(
            x, "b t (h w) (p q c) -> b c t (h p) (w q)", h=grid[0], w=grid[1], p=p, q=p
        )  # fmt: skip

    def _check(self, latents: Tensor, timestep: Tensor, context: Tensor, attention_mask: Tensor | None) -> None:
        self._check_sizes(latents, context)
        b, _, frames = latents.shape[:3]
        if tuple(timestep.shape) not in ((b,), (b, 1), (b, frames)):
            raise ShapeError(
                f"timestep is {tuple(timestep.shape)}; ({b},) or ({b}, {frames}) is needed: one a sample, or one a "
                "latent frame"
            )
        if context.shape[0] != b:
            raise ShapeError(f"{context.shape[0]} texts came with {b} videos; repeat the texts, one a video")
        if attention_mask is not None and attention_mask.shape != context.shape[:2]:
            raise ShapeError(
                f"text mask is {tuple(attention_mask.shape)}; {tuple(context.shape[:2])} is needed, as the text "
                "embedding has; encode the prompt again or leave the mask out"
            )
