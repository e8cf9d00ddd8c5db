"""Reading scores of a subject off latents of its masks, without a VAE: one number of each cell's channels.

A video of masks is encoded as any other. What its cells say of black and white is nearly a straight line in their
channels, which is fitted once, on the masks that an adapter is trained with, and kept in its file. A network's clean
estimate is a mean over what may follow; a straight line of it is the mean score, which is what is wanted.
Ours. The source decodes each estimate by the VAE: MIVA, arXiv 2512.20000, Sec. on proxy masks.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

RIDGE = 1e-4  # of a channel's mean square: keeps the line finite where clips are few
LEAST_SHARE = 1e-3  # of the clips' area that subject and ground must have each


def cell_means(latents: Tensor, patch: int) -> Tensor:
    """Means of the cells of each token: (b, c, t, h, w) -> (b, c, t, ⌈h / patch⌉, ⌈w / patch⌉)."""
    return F.avg_pool3d(latents, (1, patch, patch), ceil_mode=True, count_include_pad=False)


def read_scores(reader: Tensor, latents: Tensor, patch: int) -> Tensor:
    """Scores of the tokens, (b, t, n) in [0, 1], of latents of masks (b, c, t, h, w). reader: (c + 1,), a line."""
    line = reader.to(latents)
    return (torch.einsum("bcthw,c->bthw", cell_means(latents, patch), line[:-1]) + line[-1]).clamp(0, 1).flatten(2)


def fit_reader(samples: Iterable[tuple[Tensor, Tensor]], patch: int) -> tuple[Tensor, float]:
    """The line (c + 1,), float32, and how far it is off on the mean, over pairs of latents and their true scores.

    samples: (c, t, h, w) latents of masks and (t, rows, columns) scores of their tokens. Frame 1 is left out: it is
    known wherever masks are read. Raises ConfigError where masks are all subject, or all ground.
    """
    features, truth = [], []
    for latents, scores in samples:
        cells = cell_means(latents.double().unsqueeze(0), patch)[0, :, 1:].flatten(1).T
        features.append(torch.cat((cells, torch.ones_like(cells[:, :1])), dim=1))
        truth.append(scores[1:].double().flatten())
    x, y = torch.cat(features), torch.cat(truth)
    share = float(y.mean())
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        raise ConfigError(
            f"the masks of the clips are white on {100 * share:.3g} % of their area; white on the subject and black on "
            "the rest is needed: look at the masks"
        )
    square = x.T @ x
    ridge = RIDGE * square.diagonal().clone()
    ridge[-1] = 0
    line = torch.linalg.solve(square + torch.diag(ridge), x.T @ y)
    return line.float(), float(((x @ line).clamp(0, 1) - y).abs().mean())
