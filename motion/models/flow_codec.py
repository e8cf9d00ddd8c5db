"""The built-in latent space (our extension): lossless appearance plus a backward-flow grid, both generated.

A working square of 64 px becomes 8x8 cells of 200 channels: 192 block-DCT coefficients of the colours in [-1, 1]
and 8 that fold a 16x16 flow grid (dx, dy). The codec has no weights. Decoding onto a photo warps the photo itself at
its own size, so the video stays as crisp as the photo.
"""

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ShapeError
from ..layers.block_dct import APPEARANCE_CHANNELS, BLOCK, coefficients_to_pixels, pixels_to_coefficients
from ..layers.letterbox import Letterbox, fit_square
from ..layers.warp import fold_grid, resample_flow, resample_square, unfold_grid, warp

FLOW_CHANNELS = 8
FLOW_UNIT = 4.0  # working pixels per latent unit
LATENT_CHANNELS = APPEARANCE_CHANNELS + FLOW_CHANNELS
MAX_SIDE = 4096


def check_photo_size(height: int, width: int) -> None:
    """Refuse photos that cannot be held. Raises ShapeError."""
    if height < 1 or width < 1:
        raise ShapeError(f"photo is {width}x{height} px; both sides must be at least 1")
    if max(height, width) > MAX_SIDE:
        raise ShapeError(
            f"photo is {width}x{height} px; sides go up to {MAX_SIDE} px; scale it down first (core: Upscale Image)"
        )


def pad_even(frames: Tensor) -> Tensor:
    """Repeat the last row and column where a side is odd, since video encoders need even sides."""
    h, w = frames.shape[-2:]
    if h % 2:
        frames = torch.cat((frames, frames[..., -1:, :]), dim=-2)
    if w % 2:
        frames = torch.cat((frames, frames[..., -1:]), dim=-1)
    return frames


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
                "; make them with the Image to Video node and the built-in VAE"
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
        return self._pixels(latents).clamp(0, 1)

    def _pixels(self, latents: Tensor) -> Tensor:
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
        check_photo_size(*photo.shape[-2:])
        photo = photo.float()
        box = Letterbox(*photo.shape[-2:], self.working_size)
        square = Letterbox(self.working_size, self.working_size, self.working_size)
        pixels, flow = self._pixels(latents), self.flow_of(latents)
        b, _, t = pixels.shape[:3]
        h, w = (side + side % 2 if even else side for side in photo.shape[-2:])
        video = photo.new_empty(b, 3, t, h, w)
        for row in range(b):
            for frame in range(t):
                grid, shown = flow[row : row + 1, frame], photo.unsqueeze(0)
                if frame:
                    expected = warp(pixels[row : row + 1, :, 0], resample_flow(grid, square))
                    residual = resample_square(pixels[row : row + 1, :, frame] - expected, box)
                    shown = (warp(shown, resample_flow(grid, box)) + residual).clamp(0, 1)
                video[row, :, frame] = (pad_even(shown) if even else shown)[0]
        return video


def rgb_factors() -> list[list[float]]:
    """Exact linear map from latent channels to RGB in [-1, 1]: each colour's DC coefficient / 8."""
    factors = [[0.0, 0.0, 0.0] for _ in range(LATENT_CHANNELS)]
    for colour in range(3):
        factors[colour * BLOCK * BLOCK][colour] = 1.0 / BLOCK
    return factors
