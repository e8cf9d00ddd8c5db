"""Lossless pixel ↔ coefficient transform: orthonormal 8x8 block DCT of colour, as channels of a small grid."""

import torch
from einops import rearrange
from torch import Tensor

BLOCK = 8
APPEARANCE_CHANNELS = 3 * BLOCK * BLOCK


def dct_matrix(size: int, *, dtype=torch.float64, device=None) -> Tensor:
    """Orthonormal DCT-II matrix C (size, size): coefficients = C @ samples, samples = C.T @ coefficients."""
    sample = torch.arange(size, dtype=torch.float64, device=device)
    matrix = torch.cos(torch.pi / size * (sample + 0.5) * sample.unsqueeze(1)) * (2.0 / size) ** 0.5
    matrix[0] /= 2.0**0.5
    return matrix.to(dtype)


def pixels_to_coefficients(pixels: Tensor) -> Tensor:
    """Fold 8x8 blocks into channels and rotate each by a 2-D DCT-II.

    pixels: (b, 3, h, w), h and w multiples of 8. Returns (b, 192, h/8, w/8); channel = (colour, v, u).
    """
    matrix = dct_matrix(BLOCK, dtype=pixels.dtype, device=pixels.device)
    blocks = rearrange(pixels, "b c (h p) (w q) -> b c h w p q", p=BLOCK, q=BLOCK)
    return rearrange(matrix @ blocks @ matrix.T, "b c h w v u -> b (c v u) h w")


def coefficients_to_pixels(coefficients: Tensor) -> Tensor:
    """Exact inverse of `pixels_to_coefficients`: (b, 192, h, w) -> (b, 3, 8h, 8w)."""
    matrix = dct_matrix(BLOCK, dtype=coefficients.dtype, device=coefficients.device)
    blocks = rearrange(coefficients, "b (c v u) h w -> b c h w v u", v=BLOCK, u=BLOCK)
    return rearrange(matrix.T @ blocks @ matrix, "b c h w p q -> b c (h p) (w q)")
