"""Skeletons as pictures, in the colours that are common for bodies of 18 points.

RENDERER_ID stands for every pixel of a drawing: what was trained on one is shown the same one. Bodies come first, and
what is drawn later (hands, faces) changes no pixel of theirs in a picture without it.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import ShapeError
from .body18 import COLOURS, LIMB_LIGHT, LIMBS, POINTS

RENDERER_ID = 1
FINER = 2  # drawn so many times as large, then averaged
HALF_WIDTH = 4.0  # px of limbs and points where the longer side is REFERENCE px
REFERENCE = 512
LEAST_WIDTH = 1.5  # px of a limb, however small the picture
_CORNERS = 24  # of the polygon that a limb is


def draw_bodies(people: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Skeletons on black: (3, height, width) in [0, 1].

    people: (18, 3) each, x and y in px and how sure the point is; points at 0 are left out with their limbs. Points may
    lie outside the picture. Raises ShapeError for other shapes, numbers that are not finite, and empty pictures.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"a skeleton of {width}x{height} px: both sides need 1 px or more")
    rows = [_checked(points) for points in people]
    half = line_width(height, width) / 2 * FINER
    canvas = Image.new("RGB", (width * FINER, height * FINER))
    pen = ImageDraw.Draw(canvas)
    for points in rows:
        for limb, (a, b) in enumerate(LIMBS):
            if points[a][2] > 0 and points[b][2] > 0:
                colour = tuple(round(value * LIMB_LIGHT) for value in COLOURS[limb])
                pen.polygon(_limb(points[a], points[b], half), fill=colour)
        for (x, y, sure), colour in zip(points, COLOURS, strict=True):
            if sure > 0:
                x, y = x * FINER, y * FINER
                pen.ellipse((x - half, y - half, x + half, y + half), fill=colour)
    small = canvas.reduce(FINER)
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return pixels.movedim(-1, 0).float() / 255


def line_width(height: int, width: int) -> float:
    """Width of a limb in px, and across a point."""
    return max(2 * HALF_WIDTH * max(height, width) / REFERENCE, LEAST_WIDTH)


def _checked(points: Tensor) -> list[list[float]]:
    if points.shape != (len(POINTS), 3):
        raise ShapeError(f"a body is {tuple(points.shape)}; ({len(POINTS)}, 3) is needed: x, y and how sure")
    if not points.isfinite().all():
        raise ShapeError("a body holds NaN or infinity; give a point that is missing x, y and confidence 0")
    return points.tolist()


def _limb(a: list[float], b: list[float], half: float) -> list[tuple[float, float]]:
    """Corners of the ellipse whose long axis runs from a to b."""
    (ax, ay, _), (bx, by, _) = a, b
    x, y = (ax + bx) / 2 * FINER, (ay + by) / 2 * FINER
    length, angle = math.hypot(bx - ax, by - ay) / 2 * FINER, math.atan2(by - ay, bx - ax)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = []
    for k in range(_CORNERS):
        along, beside = length * math.cos(math.tau * k / _CORNERS), half * math.sin(math.tau * k / _CORNERS)
        corners.append((x + cosine * along - sine * beside, y + sine * along + cosine * beside))
    return corners
