"""Which layers of our video transformers see the tokens of a video, and in which order."""

from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..errors import ShapeError

_TOKENS = ("patch_embed.proj", "proj_out", "transformer_blocks.*", "blocks.*", "head.head")  # the last two: Wan's
_TEXT = ("*.attn2.to_k", "*.attn2.to_v", *(f"*.cross_attn.{part}" for part in ("k", "v", "k_img", "v_img")))


def carries_tokens(name: str) -> bool:
    """Whether the layer of this name answers for every token of the video, and not for text, time or photo."""
    return any(fnmatchcase(name, mark) for mark in _TOKENS) and not any(fnmatchcase(name, mark) for mark in _TEXT)


class TokenValues:
    """Values (b or 1, t, n) of a video's tokens, for the outputs of one layer during one call of the network.

    A layer may be called once, or with some frames at a time, in order; so each layer needs one of these for itself.
    """

    def __init__(self, values: Tensor, grid: tuple[int, int]):
        self.values, self.grid = values, grid
        self._next = 0  # row, b·t in all, that comes next where frames come in parts

    def like(self, output: Tensor, layer: nn.Module) -> Tensor:
        """The values, to be multiplied with the layer's output.

        Linear: (b, t, n, d), (b·t, n, d), (b, t·n, d). Conv2d: (b·t, c, h, w) on the token grid, (b, c, t, n).
        Raises ShapeError for another layout.
        """
        if self.values.device != output.device:
            self.values = self.values.to(output.device)
        b, t, n = self.values.shape
        shape = tuple(output.shape)
        if isinstance(layer, nn.Conv2d):
            if shape[2:] == self.grid:
                return self._rows(shape[0]).reshape(-1, 1, *self.grid)
            if shape[2:] == (t, n) and b in (1, shape[0]):
                return self.values.unsqueeze(1)
        elif shape[1:-1] == (t, n) and b in (1, shape[0]):
            return self.values.unsqueeze(-1)
        elif shape[1:-1] == (n,):
            return self._rows(shape[0]).unsqueeze(-1)
        elif shape[1:-1] == (t * n,) and b in (1, shape[0]):
            return self.values.reshape(b, t * n, 1)
        raise ShapeError(
            f"a layer answered {shape}; the weights are for {b} videos of {t} frames of {self.grid[0]}x{self.grid[1]} "
            "tokens; give those of the video that the network sees"
        )

    def _rows(self, count: int) -> Tensor:
        """(count, n) of the next frames; those of one video are repeated for each of the batch."""
        b, t, _ = self.values.shape
        if b > 1 and self._next + count > b * t:
            raise ShapeError(f"a layer answered {self._next + count} frames; there are {t} of {b} videos each")
        rows = (self._next + torch.arange(count, device=self.values.device)) % (b * t)
        self._next = (self._next + count) % (b * t)
        return self.values.flatten(0, 1)[rows]
