"""Skeletons as pictures, in the colours that are common for bodies of 18 points.

RENDERER_ID stands for every pixel of a drawing: what was trained on one is shown the same one. Bodies come first, and
what is drawn later (hands, faces) changes no pixel of theirs in a picture without it.
"""

import colorsys
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .body18 import COLOURS, LIMB_LIGHT, LIMBS, POINTS
from .keypoints import BODY, FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND

RENDERER_ID = 1
FINER = 2  # drawn so many times as large, then averaged
HALF_WIDTH = 4.0  # px of limbs and points where the longer side is REFERENCE px
REFERENCE = 512
LEAST_WIDTH = 1.5  # px of a limb, however small the picture
_CORNERS = 24  # of the polygon that a limb is
PARTS = ("body", "hands", "face")
FINGER_HALF_WIDTH = 1.0  # px, as HALF_WIDTH
HAND_DOT, FACE_DOT = 2.5, 2.0  # px, so: as large as is common on pictures of 832 px, where fingers can be told apart
HAND_COLOUR, FACE_COLOUR = (0, 0, 255), (255, 255, 255)
FINGERS = tuple((0 if k % 4 == 1 else k - 1, k) for k in range(1, 21))  # five fingers of four points from the wrist
_RAINBOW = [tuple(int(255 * value) for value in colorsys.hsv_to_rgb(k / 20, 1, 1)) for k in range(20)]


def draw_bodies(people: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Skeletons on black: (3, height, width) in [0, 1].

    people: (18, 3) each, x and y in px and how sure the point is; points at 0 are left out with their limbs. Points may
    lie outside the picture. Raises ShapeError for other shapes, numbers that are not finite, and empty pictures.
    """
    rows = [_checked(points, len(POINTS)) for points in people]
    return _as_floats(_drawn(rows, [], [], height, width))


def draw_people(
    people: Sequence[Tensor], height: int, width: int, *, parts: Sequence[str] = PARTS, as_bytes: bool = False
) -> Tensor:
    """Skeletons with hands and faces on black: (3, height, width) in [0, 1].

    people: (136, 3) each, as in `keypoints.Poses`; feet are not drawn. All bodies come first, then all hands, then all
    faces. parts: which of PARTS. as_bytes: (height, width, 3) of uint8, for a video. Raises ShapeError as `draw_bodies`
    does, ConfigError for parts that are not known.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"no part {unknown[0]!r} to draw; known: {', '.join(PARTS)}")
    rows = [_checked(points, NUM_POINTS) for points in people]
    bodies = [row[BODY] for row in rows] if "body" in parts else []
    hands = [row[hand] for row in rows for hand in (LEFT_HAND, RIGHT_HAND)] if "hands" in parts else []
    drawn = _drawn(bodies, hands, [row[FACE] for row in rows] if "face" in parts else [], height, width)
    return drawn if as_bytes else _as_floats(drawn)


def _as_floats(pixels: Tensor) -> Tensor:
    return pixels.movedim(-1, 0).float() / 255


def _drawn(bodies: list, hands: list, faces: list, height: int, width: int) -> Tensor:
    """Lists of rows [x, y, sure] drawn one over the other: (height, width, 3), uint8."""
    if height < 1 or width < 1:
        raise ShapeError(f"a skeleton of {width}x{height} px: both sides need 1 px or more")
    half = line_width(height, width) / 2 * FINER
    canvas = Image.new("RGB", (width * FINER, height * FINER))
    pen = ImageDraw.Draw(canvas)
    for points in bodies:
        for limb, (a, b) in enumerate(LIMBS):
            if points[a][2] > 0 and points[b][2] > 0:
                colour = tuple(round(value * LIMB_LIGHT) for value in COLOURS[limb])
                pen.polygon(_limb(points[a], points[b], half), fill=colour)
        for (x, y, sure), colour in zip(points, COLOURS, strict=True):
            if sure > 0:
                x, y = x * FINER, y * FINER
                pen.ellipse((x - half, y - half, x + half, y + half), fill=colour)
    thin = line_width(height, width, FINGER_HALF_WIDTH) / 2 * FINER
    for points in hands:
        for (a, b), colour in zip(FINGERS, _RAINBOW, strict=True):
            if points[a][2] > 0 and points[b][2] > 0:
                pen.polygon(_stroke(points[a], points[b], thin), fill=colour)
        _dots(pen, points, line_width(height, width, HAND_DOT) / 2 * FINER, HAND_COLOUR)
    for points in faces:
        _dots(pen, points, line_width(height, width, FACE_DOT) / 2 * FINER, FACE_COLOUR)
    small = canvas.reduce(FINER)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(height, width, 3)


def line_width(height: int, width: int, half: float = HALF_WIDTH) -> float:
    """Width of a limb in px, and across a point."""
    return max(2 * half * max(height, width) / REFERENCE, LEAST_WIDTH)


def _checked(points: Tensor, count: int) -> list[list[float]]:
    if points.shape != (count, 3):
        raise ShapeError(f"a body is {tuple(points.shape)}; ({count}, 3) is needed: x, y and how sure")
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


def _stroke(a: list[float], b: list[float], half: float) -> list[tuple[float, float]]:
    """Corners of the line from a to b."""
    (ax, ay), (bx, by) = ((x * FINER, y * FINER) for x, y, _ in (a, b))
    length = math.hypot(bx - ax, by - ay) or 1.0
    x, y = (ay - by) / length * half, (bx - ax) / length * half
    return [(ax + x, ay + y), (bx + x, by + y), (bx - x, by - y), (ax - x, ay - y)]


def _dots(pen: ImageDraw.ImageDraw, points: list[list[float]], half: float, colour: tuple[int, int, int]) -> None:
    for x, y, sure in points:
        if sure > 0:
            x, y = x * FINER, y * FINER
            pen.ellipse((x - half, y - half, x + half, y + half), fill=colour)
