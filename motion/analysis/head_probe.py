"""How much of a head's attention stays in its own frame and near it, and how much goes along time: pure torch.

Tokens are those of a video, frame by frame: row i is frame i // cells, cell i % cells.
Source: Follow-Your-Motion, arXiv 2506.05207, and its released code, whose block maps these closed forms equal.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ShapeError

BLOCK = 128  # tokens; frames of fewer than two blocks are cut into eight
LEAST_FRAMES = 3  # with fewer both maps say the same
ROWS_AT_ONCE = 64  # of one head


def sampled_rows(num_frames: int, cells: int, per_frame: int, seed: int = 0) -> Tensor:
    """Rows (n,) to look from, equally many in every frame, ascending; all of them where per_frame is 0 or too large."""
    if not 0 < per_frame < cells:
        return torch.arange(num_frames * cells)
    generator = torch.Generator().manual_seed(seed)
    picked = [torch.randperm(cells, generator=generator)[:per_frame].sort().values for _ in range(num_frames)]
    return torch.cat([frame * cells + rows for frame, rows in enumerate(picked)])


def band_masks(
    rows: Tensor, num_frames: int, cells: int, *, frames_wide: int = 1, with_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Which keys are near a row (n,) in space, and which along time: (n, num_frames · cells) bool each.

    Space: a band of about frames_wide frames to either side of the row. Time: the same band, with all frames of a cell
    side by side. with_first: every row also sees frame 0. Raises ShapeError for fewer than three frames.
    """
    if num_frames < LEAST_FRAMES:
        raise ShapeError(f"the clip has {num_frames} latent frames; {LEAST_FRAMES} are needed to tell space from time: "
                         "take a longer clip")  # fmt: skip
    block = BLOCK if cells >= 2 * BLOCK else max(1, cells // 8)
    keys = torch.arange(num_frames * cells, device=rows.device)

    def near(place: Tensor, places: Tensor) -> Tensor:
        inside = (place.unsqueeze(1) // block - places // block).abs() < frames_wide * cells // block
        return inside | (keys < cells) if with_first else inside

    def along_time(index: Tensor) -> Tensor:
        return index % cells * num_frames + index // cells

    return near(rows, keys), near(along_time(rows), along_time(keys))


def head_errors(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, rows: Tensor, masks: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean square by which each head's answer changes where it sees the keys of one mask only: (2, num_heads).

    value: (b, n, d) as query and key. Source: Sparse-VideoGen, arXiv 2502.01776, Sec. 4.1, whose masks are those of
    `band_masks` two frames wide, with the first.
    """
    errors = torch.zeros(2, num_heads, device=query.device)
    width = query.shape[-1] // num_heads
    for head, places, logits in _logits(query, key, num_heads, rows):
        told = value[..., head * width : (head + 1) * width].float()
        whole = logits.softmax(-1) @ told
        for number, mask in enumerate(masks):
            seen = logits.masked_fill(~mask[places], -torch.inf).softmax(-1) @ told
            errors[number, head] += (seen - whole).square().sum()
    return errors / (len(query) * len(rows) * width)


def head_masses(query: Tensor, key: Tensor, num_heads: int, rows: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
    """Share of each head's attention that each mask of `band_masks` holds, mean over rows and batch: (2, num_heads).

    query, key: (b, n, d) as attention takes them, normed and turned, heads side by side; rows: those of the masks.
    """
    masses = torch.zeros(2, num_heads, device=query.device)
    for head, places, weight in _logits(query, key, num_heads, rows):
        weight.sub_(weight.amax(-1, keepdim=True)).exp_()
        weight.div_(weight.sum(-1, keepdim=True))
        for number, mask in enumerate(masks):
            masses[number, head] += (weight * mask[places]).sum()
    return masses / (len(query) * len(rows))


def _logits(query: Tensor, key: Tensor, num_heads: int, rows: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """(head, which of the rows, logits (b, rows, n)) in float32, so few at once that they take little room."""
    width = query.shape[-1] // num_heads
    for head in range(num_heads):
        mine = slice(head * width, (head + 1) * width)
        held = key[..., mine].float().mT
        for start in range(0, len(rows), ROWS_AT_ONCE):
            places = slice(start, start + ROWS_AT_ONCE)
            yield head, places, query[:, rows[places], mine].float() @ held * width**-0.5
