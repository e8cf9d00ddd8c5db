"""The built-in latent space (our extension): lossless appearance plus a backward-flow grid, both generated.

A working square of 64 px becomes 8x8 cells of 200 channels: 192 block-DCT coefficients of the colours in [-1, 1]
and 8 that fold a 16x16 flow grid (dx, dy). The codec has no weights. Decoding onto a photo warps the photo itself at
its own size, so the video stays as crisp as the photo.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from ...errors import ShapeError
from ...layers.block_dct import APPEARANCE_CHANNELS, BLOCK, coefficients_to_pixels, pixels_to_coefficients
from ...layers.letterbox import Letterbox, fit_square
from ...layers.warp import FlowResampler, fold_grid, resample_flow, resample_square, unfold_grid, warp
from ...limits import MAX_SIDE

FLOW_CHANNELS = 8
FLOW_UNIT = 4.0  # working pixels per latent unit
LATENT_CHANNELS = APPEARANCE_CHANNELS + FLOW_CHANNELS
BAND = 64  # rows of a photo that are decoded at a time


def check_photo_size(height: int, width: int) -> None:
    """Refuse photos that cannot be held. Raises ShapeError."""
    if height < 1 or width < 1:
        raise ShapeError(f"photo is {width}x{height} px; both sides must be at least 1")
    if max(height, width) > MAX_SIDE:
        raise ShapeError(
            f"photo is {width}x{height} px; sides go up to {MAX_SIDE} px; scale it down first (core: Upscale Image)"
        )


def row_bands(height: int) -> Iterator[slice]:
    """Cut the rows of a photo into bands of BAND; the last takes what is left over, so none is thinner if it can be.

    Thin bands would go through other matrix kernels, whose rounding differs from that of whole pictures.
    """
    count = max(1, height // BAND)
    return (slice(n * BAND, height if n == count - 1 else (n + 1) * BAND) for n in range(count))


class FlowCodec:
    """Photo frames ↔ built-in latents. Latents here are unscaled: what the host's LATENT socket carries."""

    def __init__(self, working_size: int = 64):
        if working_size < 16 or working_size % (2 * BLOCK):
            raise ShapeError(f"working_size is {working_size}; it must be a multiple of {2 * BLOCK}")
        self.working_size = working_size
        self.cells = working_size // BLOCK

    def check(self, latents: Tensor) -> None:
        """Refuse latents of another space. Raises ShapeError."""
        need = (LATENT_CHANNELS, self.cells, self.cells)
        if latents.ndim != 5 or (latents.shape[1], *latents.shape[3:]) != need:
            raise ShapeError(
                f"latents are {tuple(latents.shape)}; the built-in model needs (b, {need[0]}, t, {need[1]}, {need[2]})"
                "; make them with the Photo to Video node and the built-in VAE"
            )

    def encode(self, frames: Tensor, flow: Tensor | None = None) -> Tensor:
        """Letterbox frames into the working square and turn them into latents.

        frames: (b, 3, t, h, w) in [0, 1], any size. flow: (b, t, 2, 2·cells, 2·cells) in working px, default 0.
        Returns (b, 200, t, cells, cells), dtype of frames (float32 for narrower types).
        """
        b, _, t, h, w = frames.shape
        check_photo_size(h, w)
        pixels = rearrange(frames, "b c t h w -> (b t) c h w")
        pixels = pixels if pixels.dtype == torch.float64 else pixels.float()
        coefficients = pixels_to_coefficients(fit_square(pixels, self.working_size) * 2 - 1)
        if flow is None:
            channels = coefficients.new_zeros(b * t, FLOW_CHANNELS, self.cells, self.cells)
        else:
            channels = fold_grid(rearrange(flow, "b t c h w -> (b t) c h w").to(coefficients), FLOW_UNIT)
        return rearrange(torch.cat((coefficients, channels), 1), "(b t) c h w -> b c t h w", t=t)

    def decode(self, latents: Tensor) -> Tensor:
        """Appearance alone, at working size: (b, 200, t, cells, cells) -> (b, 3, t, 64, 64) in [0, 1]."""
        return self.pixels_of(latents).clamp(0, 1)

    def pixels_of(self, latents: Tensor) -> Tensor:
        """Appearance at working size as it is, not held to [0, 1]: (b, 200, t, cells, cells) -> (b, 3, t, 64, 64)."""
        self.check(latents)
        t = latents.shape[2]
        coefficients = rearrange(latents[:, :APPEARANCE_CHANNELS].float(), "b c t h w -> (b t) c h w")
        pixels = coefficients_to_pixels(coefficients) / 2 + 0.5
        return rearrange(pixels, "(b t) c h w -> b c t h w", t=t)

    def flow_of(self, latents: Tensor) -> Tensor:
        """The flow grid (b, t, 2, 2·cells, 2·cells) in working px; frame_n(x) = frame_0(x + flow_n(x))."""
        self.check(latents)
        t = latents.shape[2]
        channels = rearrange(latents[:, APPEARANCE_CHANNELS:].float(), "b c t h w -> (b t) c h w")
        return rearrange(unfold_grid(channels, FLOW_UNIT), "(b t) c h w -> b t c h w", t=t)

    def decode_onto(self, latents: Tensor, photo: Tensor, *, even: bool = True) -> Tensor:
        """Play the latents' motion on the photo itself, at the photo's size.

        latents: (b, 200, t, cells, cells). photo: (3, h, w) in [0, 1]. Returns (b, 3, t, h', w') float32, sides
        edge-padded to even numbers when `even`. Frame 0 is the photo, bit for bit; frame n is the photo warped by
        flow n plus the upsampled difference between generated and warped appearance.
        """
        b, _, t = latents.shape[:3]
        video = None
        for row in range(b):
            for n, frame in enumerate(self.frames_onto(latents[row : row + 1], photo, even=even)):
                video = frame.new_empty(b, 3, t, *frame.shape[1:]) if video is None else video
                video[row, :, n] = frame
        return video

    def frames_onto(self, latents: Tensor, photo: Tensor, *, even: bool = True) -> Iterator[Tensor]:
        """The frames of `decode_onto` one by one, (3, h', w') each, so that a long video needs no more memory.

        latents: (1, 200, t, cells, cells). What cannot be is refused now, not at the first frame.
        """
        check_photo_size(*photo.shape[-2:])
        photo = photo.float()
        pixels, flow = self.pixels_of(latents), self.flow_of(latents)
        return (self._frame(photo, pixels, flow, n, even) for n in range(latents.shape[2]))

    def _frame(self, photo: Tensor, pixels: Tensor, flow: Tensor, n: int, even: bool) -> Tensor:
        """Frame n on the photo: pixels (1, 3, t, 64, 64) and flow (1, t, 2, 16, 16) of all frames -> (3, h', w')."""
        h, w = photo.shape[-2:]
        frame = photo.new_empty(h + h % 2, w + w % 2, 3) if even else photo.new_empty(h, w, 3)
        frame = rearrange(frame, "h w c -> c h w")  # colours lie side by side, as whoever writes them needs them
        shown = frame[:, :h, :w]
        if n:
            self._play(photo, pixels[:, :, 0], pixels[:, :, n], flow[:, n], shown)
        else:
            shown.copy_(photo)
        frame[:, h:, :w] = shown[:, -1:]
        frame[:, :, w:] = frame[:, :, w - 1 : w]
        return frame

    def _play(self, photo: Tensor, first: Tensor, pixels: Tensor, flow: Tensor, shown: Tensor) -> None:
        """Warp the photo and add what the network changed, into `shown` (3, h, w).

        On a CPU band of rows by band: what lies between fits the cache then, and a third of the time is saved.
        """
        h, w = photo.shape[-2:]
        box, square = Letterbox(h, w, self.working_size), Letterbox(*[self.working_size] * 3)
        residual = pixels - warp(first, resample_flow(flow, square))
        resampler = FlowResampler(flow, box)
        for band in row_bands(h) if photo.device.type == "cpu" else [slice(0, h)]:
            moved = warp(photo.unsqueeze(0), resampler.rows(band), top=band.start)
            shown[:, band] = (moved + resample_square(residual, box, band)).clamp_(0, 1)[0]


def rgb_factors() -> list[list[float]]:
    """Exact linear map from latent channels to RGB in [-1, 1]: each colour's DC coefficient / 8."""
    factors = [[0.0, 0.0, 0.0] for _ in range(LATENT_CHANNELS)]
    for colour in range(3):
        factors[colour * BLOCK * BLOCK][colour] = 1.0 / BLOCK
    return factors
