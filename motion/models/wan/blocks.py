"""The Wan transformer block of our own network; its formula stands in `block_run`, which runs the host's as well.

Tokens are (b, n, d), n = t·h·w: frame by frame, row by row. What is told of frames is (b, t or 1, …) and holds for
the n / t tokens of a frame. Modules and weights have the names of the host's own Wan.
Source: Wan, arXiv 2503.20314, Sec. 4.2, and its published code.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..block_adapters import BlockAdapters
from ..module_weights import is_untouched
from ..subject_masks import SubjectMasks
from .block_run import BlockCalls, WanAround, run_wan_block
from .config import EPS, WanConfig
from .rotary import WanRotary, turned

Attention = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]  # called like `torch_attention`


class WanInputs(NamedTuple):
    """What all blocks of one call share."""

    embedding: Tensor  # (b, t or 1, d), of the timestep
    modulation: Tensor  # (b, t or 1, 6, d), made of it; each block adds a table of its own
    text: Tensor  # (b, m, d)
    image: Tensor | None  # (b, m', d): embedded CLIP vision tokens
    rotary: WanRotary
    grid: tuple[int, int, int]  # frames, rows and columns of tokens
    kernels: str = "auto"
    adapters: BlockAdapters | None = None
    block: int = 0  # index of the block that is running; kept up to date where there are adapters
    masks: SubjectMasks | None = None

    @property
    def site(self) -> WanAround:
        """What adapters are told of the call."""
        return WanAround(self.embedding, self.grid[1:], self.rotary, self.kernels, self.block, self.masks)


def drawn_rows(rows: int, config: WanConfig, *, dtype=None, device=None) -> nn.Parameter:
    """A table (1, rows, d), normal with deviation 1/√d; on the meta device nothing is drawn."""
    table = torch.empty(1, rows, config.width, dtype=dtype, device=device)
    if not table.is_meta:
        nn.init.normal_(table, std=config.width**-0.5)
    return nn.Parameter(table)


class WanAttention(nn.Module):
    """Projections q, k, v and o; q and k are normed over the full width, heads lie side by side."""

    def __init__(self, config: WanConfig, attention: Attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory, width = {"dtype": dtype, "device": device}, config.width
        self.num_heads, self.attention = config.num_attention_heads, attention
        self.q = operations.Linear(width, width, **factory)
        self.k = operations.Linear(width, width, **factory)
        self.v = operations.Linear(width, width, **factory)
        self.o = operations.Linear(width, width, **factory)
        self.norm_q = operations.RMSNorm(width, eps=EPS, **factory)
        self.norm_k = operations.RMSNorm(width, eps=EPS, **factory)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention: q (b, n, d), k and v (b, m, d) -> (b, n, d), before `o`."""
        return self.attention(q, k, v, self.num_heads, None)


class WanSelfAttention(WanAttention):
    """From every token to all tokens of all frames."""

    def query(self, x: Tensor, rotary: WanRotary) -> Tensor:
        """x (b, n, d), modulated -> queries (b, n, d), normed and turned."""
        return turned(self.norm_q(self.q(x)), rotary, self.num_heads)

    def key(self, x: Tensor, rotary: WanRotary) -> Tensor:
        """x (b, n, d), modulated -> keys (b, n, d), normed and turned."""
        return turned(self.norm_k(self.k(x)), rotary, self.num_heads)

    def project(self, x: Tensor, rotary: WanRotary) -> tuple[Tensor, Tensor, Tensor]:
        """x (b, n, d), modulated -> q, k, v (b, n, d), ready for `attend`."""
        return self.query(x, rotary), self.key(x, rotary), self.v(x)

    def forward(self, x: Tensor, rotary: WanRotary) -> Tensor:
        """x (b, n, d), modulated -> what the tokens gather, (b, n, d), before the gate."""
        return self.o(self.attend(*self.project(x, rotary)))


class WanCrossAttention(WanAttention):
    """From every token to the text, and, in networks with image tokens, to those by keys of their own."""

    def __init__(self, config: WanConfig, attention: Attention, *, operations, dtype=None, device=None):
        super().__init__(config, attention, operations=operations, dtype=dtype, device=device)
        factory, width = {"dtype": dtype, "device": device}, config.width
        if config.image_tokens:
            self.k_img = operations.Linear(width, width, **factory)
            self.v_img = operations.Linear(width, width, **factory)
            self.norm_k_img = operations.RMSNorm(width, eps=EPS, **factory)

    def query(self, x: Tensor) -> Tensor:
        """x (b, n, d), normed -> queries (b, n, d), the same for text and image."""
        return self.norm_q(self.q(x))

    def read_text(self, query: Tensor, text: Tensor) -> Tensor:
        """What queries (b, n, d) find in the text (b, m, d): (b, n, d), before `o`."""
        return self.attend(query, self.norm_k(self.k(text)), self.v(text))

    def read_image(self, query: Tensor, image: Tensor) -> Tensor:
        """What queries (b, n, d) find in the image tokens (b, m', d): (b, n, d), before `o`."""
        return self.attend(query, self.norm_k_img(self.k_img(image)), self.v_img(image))

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
        """x (b, n, d), normed -> what the tokens find, (b, n, d), to be added to them."""
        query = self.query(x)
        found = self.read_text(query, text)
        if image is not None:
            found = found + self.read_image(query, image)
        return self.o(found)


class WanBlock(nn.Module):
    """Self-attention, text attention, feed-forward; the first and the last shifted, scaled and gated by noise level."""

    def __init__(self, config: WanConfig, attention: Attention, *, operations, dtype=None, device=None):
        super().__init__()
        factory, width = {"dtype": dtype, "device": device}, config.width
        make = {"operations": operations, **factory}
        self.norm1 = operations.LayerNorm(width, eps=EPS, elementwise_affine=False, **factory)
        self.self_attn = WanSelfAttention(config, attention, **make)
        self.norm3 = operations.LayerNorm(width, eps=EPS, **factory)
        self.cross_attn = WanCrossAttention(config, attention, **make)
        self.norm2 = operations.LayerNorm(width, eps=EPS, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(width, config.hidden_width, **factory), nn.GELU(approximate="tanh"),
            operations.Linear(config.hidden_width, width, **factory),
        )  # fmt: skip
        self.modulation = drawn_rows(6, config, **factory)

    def forward(self, x: Tensor, around: WanInputs) -> Tensor:
        """Tokens (b, n, d) -> tokens (b, n, d)."""
        attention = self.self_attn
        calls = BlockCalls(
            self_attention=lambda h: attention(h, around.rotary),
            turn=lambda h: turned(h, around.rotary, attention.num_heads), attend=attention.attend,
            cross_attention=lambda h: self.cross_attn(h, around.text, around.image), feed_forward=self.ffn,
            may_open=is_untouched(attention),
        )  # fmt: skip
        return run_wan_block(self, x, around.modulation, calls, around.adapters, around.site)
