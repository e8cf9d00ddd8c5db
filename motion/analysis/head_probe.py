"""How much of a head's attention stays in its own frame and near it, and how much goes along time: pure torch.

Tokens are those of a video, frame by frame: row i is frame i // cells, cell i % cells.
Source: Follow-Your-Motion, arXiv 2506.05207, and its released code, whose block maps these closed forms equal.
"""

import torch
from torch import Tensor

from ..errors import ShapeError

BLOCK = 128  # tokens; frames of fewer than two blocks are cut into eight
LEAST_FRAMES = 3  # with fewer both maps say the same
HEADS_AT_ONCE_BYTES = 2**25


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
    asked = query[:, rows].float().unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (b, heads, rows, dh)
    held, told = (part.float().unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (key, value))
    step = max(1, HEADS_AT_ONCE_BYTES // (4 * len(query) * masks[0].numel()))
    errors = []
    for start in range(0, num_heads, step):
        part = slice(start, start + step)
        logits = asked[:, part] @ held[:, part].mT / asked.shape[-1] ** 0.5
        whole = logits.softmax(-1) @ told[:, part]
        errors.append(torch.stack([
            (logits.masked_fill(~mask, -torch.inf).softmax(-1) @ told[:, part] - whole).square().mean((0, 2, 3))
            for mask in masks
        ]))  # fmt: skip
    return torch.cat(errors, dim=1)


def head_masses(query: Tensor, key: Tensor, num_heads: int, rows: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
    """Share of each head's attention that each mask of `band_masks` holds, mean over rows and batch: (2, num_heads).

    query, key: (b, n, d) as attention takes them, normed and turned, heads side by side; rows: those of the masks.
    """
    asked = query[:, rows].float().unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (b, heads, rows, dh)
    held = key.float().unflatten(-1, (num_heads, -1)).transpose(1, 2)
    inside = torch.stack(masks).to(asked)  # (2, rows, n)
    step = max(1, HEADS_AT_ONCE_BYTES // (4 * len(query) * inside[0].numel()))
    masses = []
    for start in range(0, num_heads, step):
        part = slice(start, start + step)
        weight = (asked[:, part] @ held[:, part].mT / asked.shape[-1] ** 0.5).softmax(-1)
        masses.append(torch.einsum("bhrn,mrn->mh", weight, inside) / (len(query) * len(rows)))
    return torch.cat(masses, dim=1)
