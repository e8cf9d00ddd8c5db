"""Cross-frame attention beside a block's own: every frame also reads the first frame and the one before it.

    CFA(X_i, X_j) = Attn(X_i W_Q', X_j W_K, X_j W_V) W_O'        W_K, W_V: the block's own; W_Q' = W_Q + up · down
    "separate": λ1(t) · CFA(X_i, X_1) + λ2(t) · CFA(X_i, X_(i-1)) is added to attention, inside its gate
    "joint":    one attention over the keys of both frames, whose values are scaled by λ1 and λ2
W_O' = up · down starts at zero, so a fresh adapter changes nothing. Frames 1 and 2 have one reference, frame 1: with
λ1 + λ2 = 1 that is one read, which "joint" halves. Attention is of the block's own kind, without places: where that is
linear, another frame is read through its state, at no cost of its keys; else by softmax over its keys, where pairs of
tokens are weighed by masks of the subject, if a call is told of any (subject_masks.py).
Source: MIVA, arXiv 2512.20000, Eq. 2; the joint form is that of its published code; states in its place are ours.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...kernels.spatial_state import SpatialState, read_spatial_state
from ..errors import ConfigError
from ..models.block_adapters import AttentionSite
from ..models.subject_masks import SubjectMasks
from .low_rank import LowRank
from .whole_matrix import WholeMatrix

MODES = ("separate", "joint")


class FrameWeights(nn.Module):
    """λ(t): (λ1, λ2) = softmax((W · SiLU(e(t)) + b) / τ) of the call's embedding e. Starts at a half each."""

    def __init__(self, embedding_width: int, tau: float, *, device=None):
        super().__init__()
        self.tau = tau
        self.weight = nn.Parameter(torch.zeros(2, embedding_width, device=device))
        self.bias = nn.Parameter(torch.zeros(2, device=device))

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, t or 1, d) -> (b, t or 1, 2), float32; each pair sums to 1."""
        logits = F.linear(F.silu(embedding.to(self.weight.dtype)), self.weight, self.bias)
        return (logits / self.tau).softmax(-1)


class CrossFrameReads(nn.Module):
    """What stands beside one block's attention. rank: of W_Q' - W_Q and of W_O'. Raises ConfigError.

    whole: those of "q" and "o" that are a matrix of full rank instead, W_Q' itself; biased: those of them with a bias.
    has_lam: else λ is another one's, given with each call.
    """

    def __init__(
        self, width: int, embedding_width: int, rank: int, *, mode: str, tau: float, whole: tuple[str, ...] = (),
        biased: tuple[str, ...] = (), has_lam: bool = True, device=None,
    ):  # fmt: skip
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"cross-frame mode is {mode!r}; it must be one of {', '.join(MODES)}")
        self.mode = mode
        self.q, self.o = (
            WholeMatrix(width, width, bias=name in biased, device=device) if name in whole
            else LowRank(width, width, rank, device=device) for name in ("q", "o")
        )  # fmt: skip
        self.lam = FrameWeights(embedding_width, tau, device=device) if has_lam else None

    def forward(
        self, site: AttentionSite, *, lam: FrameWeights | None = None, masks: SubjectMasks | None = None
    ) -> Tensor:
        """(b, t, n, d), to be added to the block's own answer before its gate. masks: scores of these rows' tokens."""
        b, t, n, d = site.tokens.shape
        query = self.q(site.tokens).reshape(b * t, n, d).to(site.unnormed_query.dtype)
        query = query if isinstance(self.q, WholeMatrix) else site.unnormed_query + query
        norm = getattr(site.attention, "norm_q", None)
        query = (query if norm is None else norm(query)).reshape(b, t, n, *site.query.shape[-2:])
        lam = (lam or self.lam)(site.around.embedding).to(query.dtype).expand(b, t, 2).reshape(b, t, 2, 1, 1, 1)
        reads = SoftmaxReads(site, query, masks) if site.state is None else StateReads(site, query)
        found = reads.joint(lam) if self.mode == "joint" else separate(reads, lam)
        return self.o(found.reshape(b, t, n, d)).to(site.tokens.dtype)


class Reads(Protocol):
    """What queries (b, t, n, nh, dh) find in other frames; lam (b, t, 2, 1, 1, 1)."""

    def first(self) -> Tensor:
        """In frame 1: (b, t, n, nh, dh)."""

    def before(self) -> Tensor:
        """Frames from the third on, in the one before: (b, t - 2, n, nh, dh)."""

    def joint(self, lam: Tensor) -> Tensor:
        """In both at once: (b, t, n, nh, dh)."""


def separate(reads: Reads, lam: Tensor) -> Tensor:
    """λ1 · first + λ2 · before; the first two frames have one reference, which is read once."""
    first = reads.first()
    if first.shape[1] < 3:
        return first
    of_first, of_before = lam[:, 2:].unbind(2)
    return torch.cat((first[:, :2], of_first * first[:, 2:] + of_before * reads.before()), dim=1)


class StateReads:
    """Of linear attention: frames are read through their states."""

    def __init__(self, site: AttentionSite, query: Tensor):
        self.query, self.kernels, self.scale = query, site.around.kernels, site.state.scale
        self.sums = site.state.sums.unflatten(0, query.shape[:2])  # (b, t, nh, dh + 1, dh)

    def first(self) -> Tensor:
        """See `Reads`."""
        return self._read(self.query, self.sums[:, :1].expand_as(self.sums))

    def before(self) -> Tensor:
        """See `Reads`."""
        return self._read(self.query[:, 2:], self.sums[:, 1:-1])

    def joint(self, lam: Tensor) -> Tensor:
        """See `Reads`. The states are added, the values in them scaled, and read once."""
        before = torch.cat((self.sums[:, :1], self.sums[:, :-1]), dim=1)
        of_first, of_before = lam.to(self.sums.dtype).unbind(2)
        values = of_first * self.sums[:, :1, :, :-1] + of_before * before[..., :-1, :]
        keys = self.sums[:, :1, :, -1:] + before[..., -1:, :]
        return self._read(self.query, torch.cat((values, keys), dim=-2))

    def _read(self, query: Tensor, sums: Tensor) -> Tensor:
        state = SpatialState(sums.flatten(0, 1), self.scale)
        return read_spatial_state(query.flatten(0, 1), state, kernels=self.kernels).unflatten(0, query.shape[:2])


class SoftmaxReads:
    """Of softmax attention: by the block's normed keys, which no place has turned. masks: scores that weigh pairs."""

    def __init__(self, site: AttentionSite, query: Tensor, masks: SubjectMasks | None = None):
        self.query, self.masks = query, masks
        self.key, self.value = (part.unflatten(0, query.shape[:2]) for part in (site.key, site.value))

    def first(self) -> Tensor:
        """See `Reads`. All frames are one long query, so the keys are not repeated."""
        return self._of_first(self.query.shape[1])

    def before(self) -> Tensor:
        """See `Reads`."""
        return self._later(self.key[:, 1:-1], self.value[:, 1:-1], SubjectMasks.of_before)

    def joint(self, lam: Tensor) -> Tensor:
        """See `Reads`. Two equal references halve what one says."""
        start = self._of_first(2) / 2
        if self.query.shape[1] < 3:
            return start
        of_first, of_before = lam[:, 2:].unbind(2)
        before = self.value[:, 1:-1]
        keys = torch.cat((self.key[:, :1].expand_as(before), self.key[:, 1:-1]), dim=2)
        values = torch.cat((of_first * self.value[:, :1], of_before * before), dim=2)
        return torch.cat((start, self._later(keys, values, SubjectMasks.of_both)), dim=1)

    def _of_first(self, frames: int) -> Tensor:
        """What the first so many frames find in frame 1."""
        query, n = self.query[:, :frames], self.query.shape[2]
        table = None if self.masks is None else self.masks.of_first(query.dtype)[:, : frames * n]
        return _softmax(query.flatten(1, 2), self.key[:, 0], self.value[:, 0], table).reshape(query.shape)

    def _later(self, keys: Tensor, values: Tensor, table_of: Callable[[SubjectMasks, torch.dtype], Tensor]) -> Tensor:
        """What frames from the third on find among keys and values (b, t - 2, m, nh, dh), each frame in its own."""
        query = self.query[:, 2:]
        table = None if self.masks is None else table_of(self.masks, query.dtype)
        if table is not None:
            table = table.expand(len(query), -1, -1, -1).flatten(0, 1)
        return _softmax(*(part.flatten(0, 1) for part in (query, keys, values)), table).reshape(query.shape)


def _softmax(query: Tensor, key: Tensor, value: Tensor, table: Tensor | None = None) -> Tensor:
    """(m, n, nh, dh) each -> (m, n, nh, dh). table: (m or 1, n, keys), added to the scores of all heads."""
    parts = (rearrange(part, "m n nh dh -> m nh n dh") for part in (query, key, value))
    table = None if table is None else table.unsqueeze(1)
    return rearrange(F.scaled_dot_product_attention(*parts, attn_mask=table), "m nh n dh -> m n nh dh")
