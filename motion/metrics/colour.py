"""Colours as the eye sees them: sRGB to CIE Lab, and how far two colours are apart (CIEDE2000).

Values are sRGB as pictures store them; white is D65, 2 degree observer. The formulas are elementwise torch and follow
the dtype and device of their input.
"""

import math

import torch
from torch import Tensor

from ..errors import ShapeError

CHUNK_PIXELS = 1 << 19  # pixels per step: the formula keeps about twenty maps alive
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in optical_flow
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
DARK = (6 / 29) ** 3  # below this share of white the cube root of Lab becomes a straight line
POW7 = 25.0**7


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """CIE 1976 L*a*b* of sRGB colours.

    rgb: (..., 3) floating point in [0, 1]. Returns (..., 3): L* in [0, 100], a*, b* about -110..110.
    Raises ShapeError for other last axes. Source: IEC 61966-2-1 (transfer curve), CIE 15 (Lab).
    """
    if not rgb.is_floating_point() or rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise ShapeError(f"colours are {tuple(rgb.shape)} {rgb.dtype}; floats (..., 3) in [0, 1] are needed")
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    share = linear @ (linear.new_tensor(RGB_TO_XYZ) / linear.new_tensor(WHITE).unsqueeze(1)).T
    root = torch.where(share > DARK, share.clamp_min(DARK) ** (1 / 3), share * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-1)


def delta_e_2000(lab_a: Tensor, lab_b: Tensor) -> Tensor:
    """CIEDE2000 colour difference, with kL = kC = kH = 1.

    lab_a, lab_b: (..., 3) that broadcast. Returns (...), 0 = the same colour; black to white is 100.
    Source: Sharma, Wu, Dalal 2005, "The CIEDE2000 color-difference formula", Eq. 2 to 22.
    """
    (l1, a1, b1), (l2, a2, b2) = lab_a.unbind(-1), lab_b.unbind(-1)
    grey = 1.5 - 0.5 * _fade((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # stretches a* near grey
    c1, c2 = torch.hypot(grey * a1, b1), torch.hypot(grey * a2, b2)
    h1, h2 = torch.atan2(b1, grey * a1), torch.atan2(b2, grey * a2)
    turn = torch.remainder(h2 - h1 + math.pi, 2 * math.pi) - math.pi  # the short way round
    both = (c1 * c2) > 0
    hue = torch.where(both, h1 + turn / 2, h1 + h2)
    d_light, d_chroma = l2 - l1, c2 - c1
    d_hue = torch.where(both, 2 * (c1 * c2).sqrt() * (turn / 2).sin(), 0.0)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    s_light = 1 + 0.015 * (light - 50) ** 2 / (20 + (light - 50) ** 2).sqrt()
    s_chroma, s_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * _hue_weight(hue)
    blue = 60 * torch.exp(-(((torch.rad2deg(hue) % 360 - 275) / 25) ** 2))
    twist = -2 * _fade(chroma) * torch.deg2rad(blue).sin()
    x, y, z = d_light / s_light, d_chroma / s_chroma, d_hue / s_hue
    return (x * x + y * y + z * z + twist * y * z).clamp_min(0).sqrt()


def mean_colour_difference(a: Tensor, b: Tensor) -> float:
    """Mean CIEDE2000 difference of two pictures, pixel by pixel; computed in float64, some rows at a time.

    a, b: (h, w, 3) in [0, 1]. Returns Delta E, 0 = equal. Raises ShapeError for shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ShapeError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; two equal (h, w, 3) are needed")
    pairs = zip(_in_chunks(a), _in_chunks(b))
    return sum(float(delta_e_2000(srgb_to_lab(x), srgb_to_lab(y)).sum()) for x, y in pairs) / a[..., 0].numel()


def mean_lab(frame: Tensor) -> Tensor:
    """Mean Lab colour of a picture (h, w, 3) in [0, 1]: (3,) float64 on the CPU."""
    sums = [srgb_to_lab(part).sum(dim=0) for part in _in_chunks(frame)]
    return torch.stack(sums).sum(dim=0).cpu() / frame[..., 0].numel()


def luma(frames: Tensor) -> Tensor:
    """Brightness of sRGB pictures (..., 3) as stored, BT.601 weights: (...) in [0, 1]."""
    return frames @ frames.new_tensor(LUMA)


def _in_chunks(picture: Tensor) -> tuple[Tensor, ...]:
    flat = picture.detach().reshape(-1, picture.shape[-1])
    kind = torch.float32 if picture.device.type == "mps" else torch.float64
    return tuple(part.to(kind) for part in flat.split(CHUNK_PIXELS))


def _fade(chroma: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7)), 0 for grey and 1 for strong colours."""
    power = chroma**7
    return (power / (power + POW7)).sqrt()


def _hue_weight(hue: Tensor) -> Tensor:
    """T of the formula, hue in radians."""
    shift = math.radians
    return (
        1
        - 0.17 * (hue - shift(30)).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + shift(6)).cos()
        - 0.20 * (4 * hue - shift(63)).cos()
    )
