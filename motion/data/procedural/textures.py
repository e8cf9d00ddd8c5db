"""Drawn pictures with the statistics of photographs: 1/f noise, skies and grounds, boxes, ellipses, stripes."""

import torch
from torch import Tensor


def canvases(num: int, size: int, generator: torch.Generator, *, num_shapes: int = 12) -> Tensor:
    """Draw periodic colour pictures (num, 3, size, size) in [0, 1] of varied contrast, colour and sharpness."""
    base = _noise(num, size, generator)
    picture = _tone(base, generator)
    detail = _noise(num, size, generator).roll(size // 3, -1)
    for _ in range(num_shapes):
        picture = _paint_shape(picture, detail, size, generator)
    return _develop(picture, generator)


def sample_periodic(canvas: Tensor, place: Tensor) -> Tensor:
    """Read canvases (b, c, s, s), repeated without end, at pixel places (b, t, y, x, 2): (b, c, t, y, x)."""
    b, c, size, _ = canvas.shape
    t, h, w = place.shape[1:4]
    ring = torch.cat((canvas, canvas[..., :1]), -1)
    ring = torch.cat((ring, ring[..., :1, :]), -2)
    grid = torch.remainder(place, size) * (2 / size) - 1
    seen = torch.nn.functional.grid_sample(
        ring, grid.reshape(b, t * h, w, 2), mode="bilinear", padding_mode="border", align_corners=True
    )
    return seen.reshape(b, c, t, h, w)


def _uniform(shape, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _noise(num: int, size: int, generator: torch.Generator) -> Tensor:
    """Three unit-variance fields a row with spectrum f^-alpha, alpha 0.5 to 1.8, stretched in a random direction."""
    fy = torch.fft.fftfreq(size).view(1, 1, -1, 1) * size
    fx = torch.fft.rfftfreq(size).view(1, 1, 1, -1) * size
    alpha = _uniform((num, 1, 1, 1), 0.5, 1.8, generator)
    stretch = torch.exp(_uniform((num, 2, 1, 1), -0.6, 0.6, generator))
    radius = torch.sqrt((fy * stretch[:, :1]) ** 2 + (fx * stretch[:, 1:]) ** 2).clamp_min(1.0)
    shape = (num, 3, size, size // 2 + 1)
    spectrum = torch.complex(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
    field = torch.fft.irfft2(spectrum * radius**-alpha, s=(size, size))
    field = field - field.mean((-1, -2), keepdim=True)
    return field / field.std((-1, -2), keepdim=True).clamp_min(1e-6)


def _tone(field: Tensor, generator: torch.Generator) -> Tensor:
    """Mix one luminance and two chroma fields into RGB about a random mean colour, with a slow gradient."""
    num, _, size, _ = field.shape
    mix = _uniform((num, 3, 3), -1, 1, generator) * _uniform((num, 1, 1), 0.0, 0.5, generator)
    mix[:, :, 0] = 1.0
    rgb = torch.einsum("nij,njyx->niyx", mix, field)
    turn = _uniform((num, 3, 1, 1), 0, 6.28, generator)
    wave = torch.cos(torch.arange(size).view(1, 1, -1, 1) * (6.2832 / size) + turn)
    contrast = _uniform((num, 1, 1, 1), 0.05, 0.2, generator)
    gradient = _uniform((num, 1, 1, 1), 0.0, 0.2, generator) * wave
    return _uniform((num, 3, 1, 1), 0.25, 0.75, generator) + contrast * rgb + gradient


def _paint_shape(picture: Tensor, detail: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Lay one soft-edged box, ellipse or striped box a row over the picture."""
    num = len(picture)
    u = torch.rand(num, 12, generator=generator).unsqueeze(-1).unsqueeze(-1)
    cells = torch.arange(size, dtype=torch.float32)
    dx = torch.remainder(cells.view(1, 1, -1) - u[:, 0] * size + size / 2, size) - size / 2
    dy = torch.remainder(cells.view(1, -1, 1) - u[:, 1] * size + size / 2, size) - size / 2
    tilt = (u[:, 2] - 0.5) * torch.where(u[:, 3] < 0.5, 0.1, 3.0)
    x, y = torch.cos(tilt) * dx + torch.sin(tilt) * dy, torch.cos(tilt) * dy - torch.sin(tilt) * dx
    half_x, half_y = 2 + 20 * u[:, 4] ** 2, 2 + 20 * u[:, 5] ** 2
    box = torch.maximum(x.abs() - half_x, y.abs() - half_y)
    ellipse = (torch.sqrt((x / half_x) ** 2 + (y / half_y) ** 2) - 1) * torch.minimum(half_x, half_y)
    soft = 0.5 + 2.0 * u[:, 6] ** 4
    cover = (0.5 - torch.where(u[:, 7] < 0.5, box, ellipse) / soft).clamp(0, 1).unsqueeze(1)
    colour = torch.rand(num, 3, 1, 1, generator=generator)
    stripes = (torch.sin(x * (0.3 + u[:, 8])) * torch.sin(y * (0.3 + u[:, 9]))).unsqueeze(1)
    shade = (u[:, 10:11] - 0.5) * 0.02 * y.unsqueeze(1) + torch.where(u[:, 11:12] < 0.3, 0.25, 0.0) * stripes
    return picture + cover * (colour + shade + 0.1 * detail - picture)


def _develop(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Vary exposure, contrast and saturation a row; about one in seven is grey."""
    num = len(picture)
    grey = picture.mean(1, keepdim=True)
    saturation = _uniform((num, 1, 1, 1), 0.3, 1.3, generator)
    saturation = torch.where(torch.rand(num, 1, 1, 1, generator=generator) < 0.15, 0.0, saturation)
    picture = grey + saturation * (picture - grey)
    contrast = torch.exp(_uniform((num, 1, 1, 1), -0.5, 0.5, generator))
    picture = (picture - 0.5) * contrast + 0.5 + _uniform((num, 1, 1, 1), -0.2, 0.2, generator)
    return picture.clamp(0, 1)
