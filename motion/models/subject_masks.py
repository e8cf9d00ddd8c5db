"""Where the subject of a video is, for adapters that learnt it: what a call of the network is told of masks.

Tokens p and q of scores s in [0, 1], 1 = subject, meet in attention as if their score were longer by
M = log(s_p s_q + (1 - s_p)(1 - s_q) + e): subject with subject, ground with ground.
Source: MIVA, arXiv 2512.20000, Eq. 3.
"""

import torch
from torch import Tensor

EPSILON = 1e-4  # two tokens that have nothing in common still meet, this much


class SubjectMasks:
    """Told to a call whose rows are videos, with their scores (b or 1, t, n); or, without scores, videos of masks.

    The tables of pairs are made once for all blocks, where one is asked for.
    """

    def __init__(self, scores: Tensor | None = None):
        self.scores, self._tables = scores, {}

    @property
    def are_shown(self) -> bool:
        """Whether the rows themselves are masks, whose attention nothing steers."""
        return self.scores is None

    def to(self, device: torch.device | str) -> "SubjectMasks":
        """The same on a device."""
        return SubjectMasks(None if self.scores is None else self.scores.to(device))

    def of_first(self, dtype: torch.dtype) -> Tensor:
        """M of all tokens with those of frame 1: (b or 1, t·n, n)."""
        return self._made("first", dtype, lambda s: _table(s.flatten(1), s[:, 0]))

    def of_before(self, dtype: torch.dtype) -> Tensor:
        """M of the tokens from frame 3 on with those of the frame before: (b or 1, t - 2, n, n)."""
        return self._made("before", dtype, lambda s: _table(s[:, 2:], s[:, 1:-1]))

    def of_both(self, dtype: torch.dtype) -> Tensor:
        """The same with those of frame 1, then of the frame before: (b or 1, t - 2, n, 2n)."""
        return self._made("both", dtype, lambda s: torch.cat(
            (_table(s[:, 2:], s[:, :1].expand_as(s[:, 2:])), _table(s[:, 2:], s[:, 1:-1])), dim=-1))  # fmt: skip

    def _made(self, name: str, dtype: torch.dtype, make) -> Tensor:
        if (name, dtype) not in self._tables:
            self._tables[name, dtype] = make(self.scores.to(torch.promote_types(dtype, torch.float32))).to(dtype)
        return self._tables[name, dtype]


def _table(asking: Tensor, asked: Tensor) -> Tensor:
    """(…, n), (…, m) -> (…, n, m)."""
    p, q = asking.unsqueeze(-1), asked.unsqueeze(-2)
    return (p * q + (1 - p) * (1 - q) + EPSILON).log()
