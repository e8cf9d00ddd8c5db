"""Fit any photograph into a square without squashing it, and take the matching part of a result out again."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Letterbox:
    """Where a photo of (height, width) lies inside a working square of `size` px, in whole working pixels."""

    height: int
    width: int
    size: int

    @property
    def scale(self) -> float:
        """Working pixels per photo pixel, the same along both axes."""
        return self.size / max(self.height, self.width)

    @property
    def inner_height(self) -> int:
        return max(1, round(self.height * self.scale))

    @property
    def inner_width(self) -> int:
        return max(1, round(self.width * self.scale))

    @property
    def top(self) -> float:
        return (self.size - self.inner_height) / 2

    @property
    def left(self) -> float:
        return (self.size - self.inner_width) / 2

    def content_places(self, *, device=None) -> tuple[Tensor, Tensor]:
        """Where the photo's rows (height,) and columns (width,) lie, as fractions of the square; float32."""
        rows, columns = (torch.arange(side, device=device, dtype=torch.float32) + 0.5
                         for side in (self.height, self.width))  # fmt: skip
        return self.places(rows, columns)

    def places(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Heights and widths in px of the photo (0 = its edge) as fractions of the square."""
        rows = (self.top + rows / self.height * self.inner_height) / self.size
        return rows, (self.left + columns / self.width * self.inner_width) / self.size


def reflect_coordinate(coordinate: Tensor, size: int) -> Tensor:
    """Fold a pixel coordinate (centres at 0..size-1) back into the picture by reflection at its edges."""
    period = 2.0 * size
    folded = torch.remainder(coordinate + 0.5, period)
    return torch.where(folded > size, period - folded, folded).sub(0.5).clamp(0, size - 1)


def fit_square(photos: Tensor, size: int) -> Tensor:
    """Scale the long side to `size`, extend the short side by reflection.

    photos: (b, c, h, w). Returns (b, c, size, size), the picture in the middle. Downscaling is anti-aliased.
    """
    h, w = photos.shape[-2:]
    box = Letterbox(h, w, size)
    inner = (box.inner_height, box.inner_width)
    resized = photos
    if inner != (h, w):
        resized = torch.nn.functional.interpolate(
            photos, size=inner, mode="bilinear", align_corners=False, antialias=True
        )
    if inner == (size, size):
        return resized
    place = torch.arange(size, device=photos.device, dtype=torch.float32)
    rows = reflect_coordinate(place - box.top, inner[0])
    columns = reflect_coordinate(place - box.left, inner[1])
    return _sample_axis(_sample_axis(resized, rows, 2), columns, 3)


def _sample_axis(images: Tensor, coordinate: Tensor, axis: int) -> Tensor:
    """Read images at fractional positions along one axis, linearly."""
    low = coordinate.floor().long()
    high = (low + 1).clamp_max(images.shape[axis] - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    weight = (coordinate - low).to(images.dtype).view(shape)
    return images.index_select(axis, low) * (1 - weight) + images.index_select(axis, high) * weight
