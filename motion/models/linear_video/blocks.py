"""The transformer block of the linear video DiT: spatial, temporal and cross-attention, Mix-FFN; places for adapters.

Other architectures build their blocks of the same parts.

Tokens are (b, t, n, d) throughout, n = height · width row-major, and are never moved: attentions read views of them.
The attention and FFN modules hold layers; the block calls those, so forward hooks on any layer act, and asks
`weights_of` for the weights that an operator takes as arguments. A module that is itself hooked or patched is called,
with (tokens, around), and gives tokens; text is then not added in place, all else costs the same.
Source: MiraMo, arXiv 2508.07246, Eq. 3-9 and its published text-to-video code; SANA for the 2-D parts.
"""

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ....kernels.gate_norm_modulate import Rows, gate_norm_modulate
from ....kernels.glu_depthwise import glu_depthwise
from ..block_adapters import TokenSite
from ..block_inputs import BlockInputs
from ..module_weights import PLAIN_TENSORS, is_untouched
from .attentions import BlockSizes, CrossAttention, SpatialAttention, TemporalAttention, joined
from .config import LinearVideoDiTConfig

UNCHUNKED_BYTES = 2**27  # of the FFN's widest tensor; above, frames go through it in at least FEWEST_CHUNKS parts
FEWEST_CHUNKS = 4


class TokenStream:
    """Tokens x (b, t, n, d) and what is still to be added to them, x + bias + gate·y.

    The sum is made together with the next norm, which may lie in the next block, so that x is read and written once.
    """

    def __init__(self, x: Tensor, kernels: str):
        self.x, self.kernels = x, kernels
        self._pending: dict = {}

    def add(self, y: Tensor | None = None, *, gate: Rows | None = None, bias: Tensor | None = None) -> None:
        """Have bias + gate·y added at the next norm or `settle`; gate None counts as 1."""
        self.settle()
        self._pending = {"y": y, "gate": gate, "bias": bias}

    def settle(self) -> Tensor:
        """The complete tokens."""
        if self._pending:
            self.x, _ = gate_norm_modulate(self.x, **self._pending, kernels=self.kernels)
            self._pending = {}
        return self.x

    def norm(self, shift: Rows, scale: Rows) -> Tensor:
        """LayerNorm of the complete tokens · (1 + scale) + shift."""
        self.x, h = gate_norm_modulate(self.x, **self._pending, shift=shift, scale=scale, kernels=self.kernels)
        self._pending = {}
        return h


def modulation_table(rows: int, width: int, *, dtype=None, device=None) -> nn.Parameter:
    """Rows of shifts, scales and gates, (rows, width), normal with deviation 1/√width.

    On the meta device nothing is drawn: random numbers there would load torch._dynamo and sympy, seconds for nothing.
    """
    table = torch.empty(rows, width, dtype=dtype, device=device)
    if not table.is_meta:
        table = torch.randn(rows, width, dtype=dtype, device=device) / width**0.5
    return nn.Parameter(table)


class MixFFN(nn.Module):
    """GLUMBConv: 1x1 up, SiLU, depthwise 3x3, gate by SiLU, 1x1 down; per frame on the token grid."""

    def __init__(self, config: BlockSizes, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width, hidden = config.width, config.hidden_width
        self.wide = 2 * hidden
        self.conv_inverted = operations.Conv2d(width, 2 * hidden, 1, **factory)
        self.conv_depth = operations.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **factory)
        self.conv_point = operations.Conv2d(hidden, width, 1, bias=False, **factory)

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Normed tokens (b, t, n, d) -> (b, t, n, d), before the gate."""
        return self.mix(x.flatten(0, 1), around).reshape(x.shape)

    def mix(self, x: Tensor, around: BlockInputs) -> Tensor:
        """x (m, n, d), m frames of n = height · width tokens -> (m, n, d), in chunks of frames where they are large."""
        chunk = self._chunk(x)
        if chunk >= len(x):
            return self._mix_frames(x, around)
        y = torch.empty_like(x)
        for start in range(0, len(x), chunk):
            place = y[start : start + chunk]
            part = self._mix_frames(x[start : start + chunk], around, place)
            if part is not place:
                place.copy_(part)
        return y

    def _chunk(self, x: Tensor) -> int:
        """Frames that go through the FFN together. With gradients all of them: what is computed is kept anyway."""
        frames = len(x)
        wide = x[:, :, 0].numel() * self.wide * x.element_size()
        if torch.is_grad_enabled() or wide <= UNCHUNKED_BYTES:
            return max(1, frames)
        return max(1, min(frames // FEWEST_CHUNKS, frames * UNCHUNKED_BYTES // wide))

    def _mix_frames(self, x: Tensor, around: BlockInputs, place: Tensor | None = None) -> Tensor:
        """The result lies in `place` where a plain product can write there."""
        wide = _pointwise(self.conv_inverted, x, around)
        with around.weights_of(self.conv_depth, wide) as given:
            if given is not None:
                narrow = glu_depthwise(wide, *given, grid=around.grid, kernels=around.kernels)
            else:
                image = rearrange(F.silu(wide), "m (h w) c -> m c h w", h=around.grid[0])
                value, gate = self.conv_depth(image).chunk(2, dim=1)
                narrow = rearrange(value * F.silu(gate), "m c h w -> m (h w) c")
        del wide
        return _pointwise(self.conv_point, narrow, around, place)


def _pointwise(conv: nn.Module, x: Tensor, around: BlockInputs, place: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of tokens x (m, n, c) -> (m, n, c'), written into `place` where that is given and can be."""
    with around.weights_of(conv, x) as given:
        if given is not None:
            weight, bias = given
            if place is not None and bias is None and type(weight) in PLAIN_TENSORS and weight.dtype == place.dtype:
                torch.mm(x.flatten(0, 1), weight.flatten(1).t(), out=place.flatten(0, 1))
                return place
            return F.linear(x, weight.flatten(1), bias)
    image = rearrange(x, "m (h w) c -> m c h w", h=around.grid[0])
    return rearrange(conv(image), "m c h w -> m (h w) c")


def read_text(stream: TokenStream, attention: CrossAttention, around: BlockInputs) -> None:
    """Cross-attention, or the adapter in its place: the query is x as it is, and nothing gates the answer.

    Without gradients a plain `to_out` adds its product to the tokens in place, which nobody else holds here:
    the residual before it has just made them. Its bias then goes with the next norm.
    """
    x = stream.settle()
    instead = around.slot("instead_of_text")
    answer = None if instead is None else instead(TokenSite(x, attention, around))
    if answer is None and not is_untouched(attention):
        answer = attention(x, around)
    if answer is not None:
        stream.add(answer)
        return
    in_place = not torch.is_grad_enabled() and x.is_contiguous() and is_untouched(attention.to_q)
    x = x.flatten(1, 2)
    found = attention.read(x, around.text)
    out = attention.to_out[0]
    if in_place and all(mixed.dtype == x.dtype for _, mixed in found):
        with around.weights_of(out, x) as given:
            if given is not None:
                weight, bias = given
                for rows, mixed in found:
                    x[rows].view(-1, x.shape[-1]).addmm_(mixed.flatten(0, 1), weight.t())
                stream.add(bias=bias if bias is None or bias is out.bias else bias.clone())  # it may be streamed
                return
    mixed = joined(found)
    del found
    stream.add(out(mixed).reshape(stream.x.shape))


class TokenBlock(nn.Module):
    """A block that moves a stream of tokens on; `run` is its own."""

    def forward(self, x: Tensor, around: BlockInputs) -> Tensor:
        """Complete tokens (b, t, n, d) in and out; x is not written into."""
        stream = TokenStream(x, around.kernels)
        self.run(stream, around)
        return stream.settle()

    def run(self, stream: TokenStream, around: BlockInputs) -> None:
        """Move the stream through the block; the last residual stays pending."""
        raise NotImplementedError


class LinearVideoBlock(TokenBlock):
    """Spatial attention, temporal attention, cross-attention, Mix-FFN; nine modulation rows."""

    def __init__(self, config: LinearVideoDiTConfig, attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"operations": operations, "dtype": dtype, "device": device}
        width = config.width
        self.scale_shift_table = modulation_table(6, width, dtype=dtype, device=device)
        self.scale_shift_table_attn3d = modulation_table(3, width, dtype=dtype, device=device)
        self.attn1 = SpatialAttention(config, **factory)
        self.attn_temporal = TemporalAttention(config, config.temporal_form, **factory)
        self.attn2 = CrossAttention(config, attention, **factory)
        self.ff = MixFFN(config, **factory)

    def run(self, stream: TokenStream, around: BlockInputs) -> None:
        """Move the stream through the block; the last residual stays pending."""
        tables = (*self.scale_shift_table.to(stream.x), *self.scale_shift_table_attn3d.to(stream.x))
        rows = [Rows(values, table) for values, table in zip(around.modulation, tables)]
        y = self.attn1.answer(partial(stream.norm, *rows[0:2]), around, "beside_self_attention")
        stream.add(y, gate=rows[2])
        del y
        y = self.attn_temporal.answer(partial(stream.norm, *rows[6:8]), around, "temporal")
        stream.add(y, gate=rows[8])
        del y
        read_text(stream, self.attn2, around)
        shift, scale, gate = rows[3:6]
        if is_untouched(self.ff):
            y = self.ff.mix(stream.norm(shift, scale).flatten(0, 1), around).reshape(stream.x.shape)
        else:
            y = self.ff(stream.norm(shift, scale), around)
        stream.add(y, gate=gate)
