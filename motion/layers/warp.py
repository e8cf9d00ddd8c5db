"""Backward warps: frame_n(x) = picture(x + flow_n(x)), flow in pixels as (dx, dy)."""

import torch
from einops import rearrange
from torch import Tensor

from .letterbox import Letterbox

RING = 2  # cells a cubic B-spline reaches beyond the place it is read at


def extend_grid(grid: Tensor) -> Tensor:
    """Add one ring of cells by linear extrapolation, so that zoom and rotation stay straight at the border."""
    grid = torch.cat((2 * grid[..., :1] - grid[..., 1:2], grid, 2 * grid[..., -1:] - grid[..., -2:-1]), dim=-1)
    top, bottom = 2 * grid[..., :1, :] - grid[..., 1:2, :], 2 * grid[..., -1:, :] - grid[..., -2:-1, :]
    return torch.cat((top, grid, bottom), dim=-2)


def spline_weights(place: Tensor, count: int) -> Tensor:
    """Cubic B-spline weights of `count` unit-spaced cells (centres 0, 1, ...) at each place: (m,) -> (m, count).

    They sum to 1 and reproduce straight lines; everything finer than a cell is smoothed.
    """
    distance = (place.unsqueeze(-1) - torch.arange(count, device=place.device, dtype=place.dtype)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)


class FlowResampler:
    """Brings one flow grid over the working square to a photo's own pixels, smoothly, as many rows at a time as asked.

    flow: (b, 2, gh, gw) in working pixels over the whole square. at: heights and widths in px of the photo, where other
    places than the middles of its pixels are meant.
    """

    def __init__(self, flow: Tensor, box: Letterbox, at: tuple[Tensor, Tensor] | None = None):
        cells = flow
        for _ in range(RING):
            cells = extend_grid(cells)
        found = box.content_places(device=flow.device) if at is None else box.places(*at)
        rows, columns = (place.to(flow) for place in found)
        gh, gw = flow.shape[-2:]
        self._down = spline_weights(rows * gh - 0.5 + RING, gh + 2 * RING) @ cells
        self._across = spline_weights(columns * gw - 0.5 + RING, gw + 2 * RING).T
        self._scale = box.scale

    def rows(self, band: slice = slice(None)) -> Tensor:
        """Flow of these rows of the photo, all by default: (b, 2, rows, width) in photo pixels."""
        return self._down[..., band, :] @ self._across / self._scale

    def reading_places(self, band: slice, y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Where these rows of a video read a picture of `size` (height, width): (b, rows, columns, 2) for grid_sample.

        The places x + flow(x) in one matrix product: a fifth of the time that `rows` and adding them up would take. y,
        x: heights of these rows and widths of all columns, in px of the picture, where the flow is zero.
        """
        h, w = size
        cells, columns = self._across.shape
        across = self._across.new_zeros(2 * cells + 2, columns, 2)
        across[:cells, :, 0] = self._across * (2 / (w * self._scale))
        across[cells : 2 * cells, :, 1] = self._across * (2 / (h * self._scale))
        across[-2, :, 0] = x * (2 / w) - 1
        across[-1, :, 1] = 1
        rows = self._down[..., band, :]
        heights = (y * (2 / h) - 1).expand(len(rows), -1)
        down = torch.cat((rows[:, 0], rows[:, 1], torch.ones_like(heights)[..., None], heights[..., None]), dim=-1)
        return (down @ across.flatten(1)).unflatten(-1, (columns, 2))


def resample_flow(flow: Tensor, box: Letterbox) -> Tensor:
    """Bring a flow grid that covers the working square to the photo's own pixels, smoothly.

    flow: (b, 2, gh, gw) in working pixels over the whole square. Returns (b, 2, height, width) in photo pixels.
    """
    return FlowResampler(flow, box).rows()


def resample_square(
    images: Tensor, box: Letterbox, band: slice = slice(None), at: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Bring images over the working square (b, c, size, size) to these rows of the photo: (b, c, rows, width).

    at: as for `FlowResampler`.
    """
    found = box.content_places(device=images.device) if at is None else box.places(*at)
    rows, columns = (place.to(images) * 2 - 1 for place in found)
    grid = torch.stack(torch.meshgrid(columns, rows[band], indexing="xy"), dim=-1)
    return torch.nn.functional.grid_sample(
        images, grid.expand(images.shape[0], -1, -1, -1), padding_mode="border", align_corners=False
    )


def warp(pictures: Tensor, flow: Tensor, *, mode: str = "bilinear", top: int = 0) -> Tensor:
    """Read each picture at x + flow(x); outside the picture it is reflected.

    pictures: (b, c, h, w). flow: (b, 2, rows, w) px, (dx, dy), of the rows from `top` on. Returns (b, c, rows, w).
    Zero flow returns the picture to rounding.
    """
    y = torch.arange(top, top + flow.shape[-2], device=flow.device, dtype=flow.dtype) + 0.5
    x = torch.arange(pictures.shape[-1], device=flow.device, dtype=flow.dtype) + 0.5
    return warp_at(pictures, flow, y, x, mode=mode)


def warp_at(pictures: Tensor, flow: Tensor, y: Tensor, x: Tensor, *, mode: str = "bilinear") -> Tensor:
    """As `warp`, for places at heights y (rows,) and widths x (columns,) in px of the pictures, 0 = their edge.

    flow: (b, 2, rows, columns) px. Returns (b, c, rows, columns).
    """
    h, w = pictures.shape[-2:]
    grid_x = (flow[:, 0] + x) * (2 / w) - 1
    grid_y = (flow[:, 1] + y.unsqueeze(-1)) * (2 / h) - 1
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return torch.nn.functional.grid_sample(
        pictures, grid, mode=mode, padding_mode="reflection", align_corners=False
    )


def fold_grid(flow: Tensor, unit: float) -> Tensor:
    """Flow grid (b, 2, 2h, 2w) in px -> latent channels (b, 8, h, w) in units of `unit` px."""
    return rearrange(flow / unit, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)


def unfold_grid(channels: Tensor, unit: float) -> Tensor:
    """Exact inverse of `fold_grid`: (b, 8, h, w) -> (b, 2, 2h, 2w) in px."""
    return rearrange(channels * unit, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
