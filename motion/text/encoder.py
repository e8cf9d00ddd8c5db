"""Text encoder of the built-in model: an embedding a motion, mixed by a small MLP. Trained with the network."""

import torch
from torch import Tensor, nn


class MotionTextEncoder(nn.Module):
    """Token ids → context for cross-attention and a pooled vector for AdaLN.

    vocabulary_size counts the empty id 0. Layers come from `operations` (torch.nn or the host's).
    """

    def __init__(self, vocabulary_size: int, width: int = 64, *, operations=nn, dtype=None, device=None):
        super().__init__()
        self.vocabulary_size, self.width = vocabulary_size, width
        self.embedding = operations.Embedding(vocabulary_size, width, dtype=dtype, device=device)
        self.linear_1 = operations.Linear(width, 2 * width, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(2 * width, width, dtype=dtype, device=device)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids: (b, 8) long, 0 = empty.

        Returns context (b, 8, width), pooled (b, width), the sum over the named motions passed through the MLP, and
        mask (b, 8) float, 1 where a key counts. A row without motions keeps its first, empty key.
        """
        mask = (ids > 0).to(torch.float32)
        mask[:, 0] = 1.0
        context = self.embedding(ids)
        summed = (context * mask.unsqueeze(-1).to(context.dtype)).sum(1)
        pooled = summed + self.linear_2(torch.nn.functional.silu(self.linear_1(summed)))
        return context, pooled, mask
