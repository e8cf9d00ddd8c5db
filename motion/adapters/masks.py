"""Masks of a video, as weights of its tokens."""

import torch
from torch import Tensor

from ..errors import ShapeError


def check_mask(mask: Tensor) -> Tensor:
    """A copy of a mask (m, h, w) or (h, w) in [0, 1], as float32 (m, h, w) on the CPU. Raises ShapeError."""
    if mask.ndim not in (2, 3) or not mask.numel():
        raise ShapeError(f"mask is {tuple(mask.shape)}; (frames, height, width) is needed; give it one or all frames")
    values = mask.detach().to("cpu", torch.float32, copy=True).reshape(-1, *mask.shape[-2:])
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise ShapeError(f"mask holds values from {low:g} to {high:g}; 0 to 1 is needed; scale or clamp it")
    return values


def token_mask(mask: Tensor, num_frames: int, temporal_ratio: int, grid: tuple[int, int]) -> Tensor:
    """A mask (m, h, w) of the video's 1 or num_frames frames -> (1 or latent frames, tokens).

    A latent frame has the mean of its frames: the first stands alone, then `temporal_ratio` follow each. A token has
    the mean of its area, counting parts of pixels. Raises ShapeError for another number of frames.
    """
    m = len(mask)
    if m not in (1, num_frames):
        latent = (num_frames - 1) // temporal_ratio + 1
        hint = "; a mask counts the video's frames, not its latent frames" if m == latent else ""
        raise ShapeError(f"mask has {m} frames; 1 is needed, or {num_frames} as the video has{hint}; repeat or cut it")
    if m > 1 and temporal_ratio > 1:
        groups = mask[1:].unflatten(0, (-1, temporal_ratio)).mean(1)
        mask = torch.cat((mask[:1], groups))
    rows, columns = (_area_shares(cells, side) for cells, side in zip(grid, mask.shape[-2:]))
    return (rows @ mask.double() @ columns.T).flatten(1).float()


def _area_shares(cells: int, side: int) -> Tensor:
    """(cells, side): the share of each pixel of a side in the mean of each of its equal cells. Rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * side / cells
    pixel = torch.arange(side, dtype=torch.float64)
    common = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return common.clamp_min(0) * cells / side
