"""Plays the motion of built-in latents on the photo itself: no mirrored edges, a region that may move, full detail.

Where `FlowCodec.decode_onto` keeps to the photo's frame and mirrors what lies beyond it, this finds the part of the
photo that no frame leaves. It reads the photo with a kernel that keeps its sharpness, and adds what the network changed
only where that is more than the network's own noise.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...choices import CROP, EDGES
from ...errors import ConfigError, ShapeError
from ...layers.letterbox import Letterbox
from ...layers.warp import FlowResampler, resample_flow, resample_square, warp, warp_at
from ..heads.flow_codec import FlowCodec, check_photo_size, row_bands
from .photo_window import PhotoWindow, find_window

# What a network changed counts from here on: 99.9 % of its changes stay below 14 of 255 in clips that only move, and
# reach over 100 in rain and snow. Between the two it fades in.
NOISE, CHANGE = 16 / 255, 32 / 255
FEATHER, WAYS = 0.03, 2.0  # a region's motion fades in over this of the long side, or so many times its longest way
LOOKED_AT = 64  # places along a side at which the longest way inside a region is looked for
SHARP_PIXELS = 1920 * 1088  # on a CPU larger photos, which are softer by the pixel, are read by the quicker kernel
TOLERATED = 0.03  # share of the shown part that may be mirrored in some frame: corners of a turn, a thin rim
LEAST_HELD, HOLD_STEPS = 0.3, 6  # the motion is held back to no less than this, found in so many halvings
MOST_REGAIN, JUDGED = 0.6, 512  # of lost detail; px of the middle of a photo by which it is found


class PhotoPlayer:
    """The frames of a video, each made when it is asked for; (3, h', w') in [0, 1] on the photo's device.

    latents: (1, 200, t, cells, cells), unscaled. photo: (3, h, w) in [0, 1]. edges: "crop" shows the part of the photo
    that no frame leaves, at most 1.35 times enlarged; little of the rest is mirrored, and the motion is held back where
    it would be more. "mirror" shows all of the photo and mirrors what lies beyond it. region: (h, w) in [0, 1], what
    may move; None is everything. Sides are padded to even numbers. Raises ShapeError and ConfigError.
    """

    def __init__(
        self, codec: FlowCodec, latents: Tensor, photo: Tensor, *, edges: str = CROP, region: Tensor | None = None
    ):
        check_photo_size(*photo.shape[-2:])
        if edges not in EDGES:
            raise ConfigError(f"edges is {str(edges)[:60]!r}; it must be one of: {', '.join(EDGES)}")
        if region is not None and region.shape != photo.shape[-2:]:
            raise ShapeError(f"region is {tuple(region.shape)}, the photo {tuple(photo.shape[-2:])}; they must agree")
        self.codec, self.photo = codec, photo.float()
        self.box = Letterbox(*photo.shape[-2:], codec.working_size)
        self.flow = codec.flow_of(latents)[0]  # (t, 2, g, g) working px
        self.change = _change(codec, latents, self.flow)
        self.share = None if region is None else feathered(region, self._longest_way(region)).to(photo.device)
        self.window = PhotoWindow(*photo.shape[-2:])
        self.held = 1.0  # share of the motion that is shown
        if edges == CROP:
            self.window = find_window(self.flow, self.box, share=self.share)
            if self.window.mirrored > TOLERATED:
                self._hold_back()
        self.at = (self.window.rows(device=photo.device), self.window.columns(device=photo.device))
        on_cpu = photo.device.type == "cpu"
        self.is_sharp = not on_cpu or photo.shape[-1] * photo.shape[-2] <= SHARP_PIXELS
        self.regain = _regain(self.photo) if self.is_sharp else 0.0
        self.bands = list(row_bands(photo.shape[-2])) if on_cpu else [slice(0, photo.shape[-2])]

    def __len__(self) -> int:
        return len(self.flow)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.frame(n) for n in range(len(self)))

    @property
    def note(self) -> str:
        """What was done to keep edges out of sight, in one line; "" when nothing was."""
        if self.window.is_whole:
            return ""
        note = f"the photo is enlarged {self.window.scale:.2f} times"
        if self.held < 1:
            note += f" and moves {100 * self.held:.0f} % as far as dynamics asks"
        note += ", so that no frame shows more than the photo"
        if self.window.mirrored:
            note += " (thin rims that still do are mirrored)"
        return note + '; edges "mirror" shows all of it'

    def _longest_way(self, region: Tensor) -> float:
        """How far anything inside a region moves from its place, px of the photo."""
        rows, columns = (torch.linspace(0.5, side - 0.5, min(side, LOOKED_AT)) for side in region.shape)
        inside = region.detach().cpu()[rows.long()][:, columns.long()] > 0
        flow = FlowResampler(self.flow.cpu(), self.box, (rows, columns)).rows()
        return float((flow.norm(dim=1) * inside).max())

    def _hold_back(self) -> None:
        """Scale the motion down until the largest enlargement leaves little to mirror."""
        asked, low, high = self.flow, LEAST_HELD, 1.0
        for _ in range(HOLD_STEPS):
            middle = (low + high) / 2
            window = find_window(middle * asked, self.box, share=self.share)
            low, high = (low, middle) if window.mirrored > TOLERATED else (middle, high)
        self.held, self.flow = low, low * asked
        self.window = find_window(self.flow, self.box, share=self.share)

    def frame(self, n: int) -> Tensor:
        """Frame n, (3, h', w')."""
        h, w = self.photo.shape[-2:]
        frame = rearrange(self.photo.new_empty(h + h % 2, w + w % 2, 3), "h w c -> c h w")
        for band, picture in self._parts(n):
            frame[:, band, :w] = picture
        return _padded(frame, h, w)

    def byte_frame(self, n: int) -> Tensor:
        """Frame n as bytes, rounded, (3, h', w') uint8: a quarter of the memory, and made in less time."""
        h, w = self.photo.shape[-2:]
        frame = torch.empty(h + h % 2, w + w % 2, 3, dtype=torch.uint8, device=self.photo.device)
        for band, picture in self._parts(n):
            frame[band, :w] = rearrange((picture * 255).round_(), "c h w -> h w c")
        return _padded(rearrange(frame, "h w c -> c h w"), h, w)

    def _parts(self, n: int) -> Iterator[tuple[slice, Tensor]]:
        """Frame n, band of rows by band: (rows, (3, rows, w) in [0, 1])."""
        if self.window.is_whole and not n:
            yield from ((band, self.photo[:, band]) for band in self.bands)
            return
        flow = FlowResampler(self.flow[n : n + 1], self.box, self.at)
        for band in self.bands:
            picture = self._read(flow, band)
            if n and self.change is not None:
                change = resample_square(self.change[n : n + 1], self.box, band, self.at)
                picture = picture + change * self._share(band)
            yield band, picture.clamp(0, 1)[0]

    def _read(self, flow: FlowResampler, band: slice) -> Tensor:
        """The photo as these rows of the video see it: (1, 3, rows, w)."""
        if not self.is_sharp and self.share is None:
            places = flow.reading_places(band, self._y(band), self.at[1], self.photo.shape[-2:])
            return F.grid_sample(self.photo[None], places, padding_mode="reflection", align_corners=False)
        if not self.is_sharp:
            return warp_at(self.photo.unsqueeze(0), flow.rows(band) * self._share(band), self._y(band), self.at[1])
        height = self.photo.shape[-2]
        wide = slice(max(0, band.start - 1), min(height, band.stop + 1))  # a row more on both sides, for the detail
        moved, y = flow.rows(wide) * self._share(wide), self._y(wide)
        picture = warp_at(self.photo.unsqueeze(0), moved, y, self.at[1], mode="bicubic")
        between = _between(moved[:, :1] + self.at[1]) + _between(moved[:, 1:] + y.unsqueeze(-1))
        picture = picture + self.regain * between * _detail(picture)
        top = band.start - wide.start
        return picture[..., top : top + band.stop - band.start, :]

    def _y(self, band: slice) -> Tensor:
        return self.at[0][band]

    def _share(self, band: slice) -> Tensor | float:
        """How much of the flow acts on these rows, (rows, w); 1 without a region."""
        if self.share is None:
            return 1.0
        if self.window.is_whole:
            return self.share[band]
        grid = torch.stack(torch.meshgrid(
            self.at[1] * (2 / self.box.width) - 1, self._y(band) * (2 / self.box.height) - 1, indexing="xy"), -1)
        return F.grid_sample(self.share[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]


def _padded(frame: Tensor, h: int, w: int) -> Tensor:
    """Fill what lies beyond h rows and w columns with the last of them."""
    frame[:, h:, :w] = frame[:, h - 1 : h, :w]
    frame[:, :, w:] = frame[:, :, w - 1 : w]
    return frame


def feathered(region: Tensor, longest_way: float = 0.0) -> Tensor:
    """Share of the flow that acts at each place of a region (h, w) in [0, 1]: 0 outside, rising from its rim inwards.

    longest_way: px. Where a rim is narrower than the way to go, what moves folds over what stays; so it is WAYS times
    as wide, but no wider than the region is deep. Returns (h, w) float32 on the CPU.
    """
    from scipy.ndimage import distance_transform_edt

    inside = region.detach().float().cpu().clamp(0, 1)
    if not bool((inside <= 0).any()):
        return inside
    depth = torch.from_numpy(distance_transform_edt((inside > 0).numpy())).float()
    width = max(1.0, FEATHER * max(region.shape), min(WAYS * longest_way, float(depth.max())))
    return inside * (depth / width).clamp(max=1)


def _change(codec: FlowCodec, latents: Tensor, flow: Tensor) -> Tensor | None:
    """What the network changed beside the motion, (t, 3, size, size) in [0, 1]; None where that is but its noise."""
    pixels = rearrange(codec.pixels_of(latents), "1 c t h w -> t c h w")
    square = Letterbox(*[codec.working_size] * 3)
    moved = torch.cat([warp(pixels[:1], resample_flow(grid[None], square)) for grid in flow])
    change = pixels - moved
    change[0] = 0
    largest = change.abs().flatten().kthvalue(max(1, round(0.999 * change.numel()))).values
    seen = ((largest - NOISE) / (CHANGE - NOISE)).clamp(0, 1)
    return change * seen if seen > 0 else None


def _regain(photo: Tensor) -> float:
    """How much detail to add half way between two pixels so that a photo stays as sharp there as on its pixels.

    Found on the photo's middle, moved by half a pixel along both axes: what the kernel loses depends on the photo.
    """
    top, left = (max(0, (side - JUDGED) // 2) for side in photo.shape[-2:])
    part = photo[None, :, top : top + JUDGED, left : left + JUDGED]
    moved = warp(part, part.new_full((1, 2, *part.shape[-2:]), 0.5), mode="bicubic")
    detail, wanted = _detail(moved), _roughness(part)
    low, high = (float(_roughness(moved + 2 * share * detail)) for share in (0.0, MOST_REGAIN))
    return MOST_REGAIN * min(1.0, max(0.0, (float(wanted) - low) / (high - low))) if high > low else 0.0


def _roughness(picture: Tensor) -> Tensor:
    """Root mean square step between neighbouring pixels."""
    across, down = picture.diff(dim=-1).square().mean(), picture.diff(dim=-2).square().mean()
    return torch.nan_to_num(across + down).sqrt()


def _between(place: Tensor) -> Tensor:
    """How much detail a kernel loses at a place in px: 0 in the middle of a pixel, 1 half way to the next."""
    part = (place - 0.5).remainder(1.0)
    return (4 * part * (1 - part)).square()


def _detail(picture: Tensor) -> Tensor:
    """A picture (1, c, h, w) less its mean over 3x3 pixels, weighted 1 2 1."""
    kernel = picture.new_tensor([1.0, 2.0, 1.0]) / 4
    channels = picture.shape[1]
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, 3).expand(channels, 1, 1, 3), groups=channels)
    return picture - F.conv2d(across, kernel.view(1, 1, 3, 1).expand(channels, 1, 3, 1), groups=channels)
