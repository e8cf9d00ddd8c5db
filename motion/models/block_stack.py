"""What our video transformers share: text in, blocks in turn, the sizes of what comes in.

Shapes in this file: (b, c, t, h, w) latents outside, (b, t, n, d) tokens inside.
"""

from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from .block_inputs import BlockInputs
from .linear_video.blocks import TokenStream
from .module_weights import is_untouched
from .text_cache import CachedText, MaskedText, TextCache


class BlockStack(nn.Module):
    """Base of a network with `config`, `kernels`, `caption_projection`, `caption_norm` and `transformer_blocks`."""

    def _check_sizes(self, latents: Tensor, context: Tensor) -> None:
        config = self.config
        if latents.ndim != 5 or latents.shape[1] != config.in_channels:
            raise ShapeError(
                f"latents are {tuple(latents.shape)}; this model needs (b, {config.in_channels}, t, h, w): use the "
                "VAE and the latent node that belong to it"
            )
        t, h, w = latents.shape[2:]
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

    def _run_blocks(self, stream: TokenStream, around: BlockInputs, run_block: Callable | None) -> TokenStream:
        """All blocks in turn. Whoever stands between two blocks sees complete tokens, made by a pass of their own."""
        for index, block in enumerate(self.transformer_blocks):
            if around.adapters is not None:
                around = around._replace(block=index)

            def call(hidden_states: Tensor, block=block, around=around) -> Tensor:
                return block(hidden_states, around)

            if run_block is not None:
                stream = TokenStream(run_block(index, call, stream.settle()), self.kernels)
            elif is_untouched(block):
                block.run(stream, around)
            else:
                stream = TokenStream(call(stream.settle()), self.kernels)
        return stream

    def _read_text(
        self, context: Tensor, attention_mask: Tensor | None, cache: TextCache | None,
        keys: tuple[Hashable, ...] | None,
    ) -> MaskedText | CachedText:  # fmt: skip
        """The batch's texts, from the cache where it may be used."""
        watched = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if cache is not None and keys is not None and not watched and self._text_layers_untouched():
            text = cache.read(keys, context, attention_mask, self._embed_text)
            if text is not None:
                return text
        return MaskedText(self._embed_text(context), attention_mask)

    def _text_layers_untouched(self) -> bool:
        layers = [self.caption_projection.linear_1, self.caption_projection.linear_2, self.caption_norm]
        for block in self.transformer_blocks:
            layers += [block.attn2.to_k, block.attn2.to_v]
            if self.config.qk_norm:
                layers.append(block.attn2.norm_k)
        return all(is_untouched(layer) for layer in layers)

    def _embed_text(self, context: Tensor) -> Tensor:
        hidden = F.gelu(self.caption_projection.linear_1(context), approximate="tanh")
        return self.caption_norm(self.caption_projection.linear_2(hidden))
