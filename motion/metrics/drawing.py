"""Fonts, colours and an anti-aliased canvas for the pictures of this room. Pillow is imported late.

Colours are those of Okabe and Ito 2008, which stay apart for colour-blind eyes; curves also differ by their marks.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

PAPER, INK, SOFT, LINE, MAT = (255, 255, 255), (34, 34, 38), (104, 106, 114), (222, 224, 230), (236, 238, 242)
SERIES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))  # blue, vermilion, green, purple
MARKS = ("circle", "square", "triangle", "diamond")
OVERSAMPLE = 4
OTHER_FONTS = (  # for labels that the built-in font cannot write; looked for in the system's folders
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc",
    "msgothic.ttc", "Hiragino Sans GB.ttc",
)  # fmt: skip


class Canvas:
    """A picture being drawn. Shapes are drawn large and scaled down, text at its final size so that it stays crisp."""

    def __init__(self, width: int, height: int):
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self._image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, place, text: str, *, size: int = 14, colour=INK, anchor: str = "la", width: int | None = None):
        """Write one line; anchor as in Pillow; longer than width px it is cut with three dots."""
        font = font_for(text, size)
        text = fitted(text, font, width) if width is not None else text
        if hasattr(font, "getmask2"):  # a scalable font
            self._draw.text(place, text, fill=colour, font=font, anchor=anchor)
        else:  # the bitmap font of an old Pillow knows no anchors
            self._draw.text(_without_anchor(place, font.getbbox(text)[2:], anchor), text, fill=colour, font=font)

    def sideways(self, place, text: str, *, size: int = 14, colour=SOFT):
        """Write one line upwards, centred on place."""
        from PIL import Image, ImageDraw

        font = font_for(text, size)
        left, top, right, bottom = font.getbbox(text)
        strip = Image.new("L", (right - left + 4, bottom - top + 4), 0)
        ImageDraw.Draw(strip).text((2 - left, 2 - top), text, fill=255, font=font)
        strip = strip.rotate(90, expand=True)
        corner = (round(place[0] - strip.width / 2), round(place[1] - strip.height / 2))
        self._image.paste(Image.new("RGB", strip.size, colour), corner, strip)

    def box(self, left: float, top: float, width: float, height: float, colour):
        """Fill a rectangle."""
        self._draw.rectangle((round(left), round(top), round(left + width) - 1, round(top + height) - 1), fill=colour)

    def paste(self, picture, left: int, top: int):
        """Put a Pillow picture at a place."""
        self._image.paste(picture, (round(left), round(top)))

    def smooth(self, left: int, top: int, width: int, height: int) -> "Smooth":
        """A region on which lines and marks are drawn anti-aliased: with canvas.smooth(…) as region: …"""
        return Smooth(self._image, left, top, width, height)

    def as_frames(self) -> Tensor:
        """The picture as an image batch (1, height, width, 3) float32 in [0, 1]."""
        values = np.asarray(self._image, dtype=np.float32) / 255
        return torch.from_numpy(values).unsqueeze(0)


class Smooth:
    """A region of a canvas at OVERSAMPLE times its size; leaving it scales it down into the canvas."""

    def __init__(self, image, left: int, top: int, width: int, height: int):
        self._image, self._box = image, (left, top, left + width, top + height)

    def __enter__(self) -> "Smooth":
        from PIL import Image, ImageDraw

        region = self._image.crop(self._box)
        self._large = region.resize((region.width * OVERSAMPLE, region.height * OVERSAMPLE), Image.NEAREST)
        self._draw = ImageDraw.Draw(self._large)
        return self

    def __exit__(self, kind, value, trace) -> None:
        from PIL import Image

        left, top, right, bottom = self._box
        self._image.paste(self._large.resize((right - left, bottom - top), Image.BOX), (left, top))

    def curve(self, points: list[tuple[float, float]], colour, width: float = 2.0):
        """A line through points given in px of the canvas, with round joints."""
        large = [self._place(point) for point in points]
        if len(large) > 1:
            self._draw.line(large, fill=colour, width=round(width * OVERSAMPLE), joint="curve")
        for point in large:
            self._circle(point, width * OVERSAMPLE / 2, colour)

    def mark(self, point: tuple[float, float], kind: str, colour, size: float = 3.6):
        """A filled mark with a rim of paper, so that marks on top of each other can be told apart."""
        x, y = self._place(point)
        for radius, fill in (((size + 1.2) * OVERSAMPLE, PAPER), (size * OVERSAMPLE, colour)):
            if kind == "circle":
                self._circle((x, y), radius, fill)
            else:
                self._draw.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[kind]], fill=fill)

    def _circle(self, centre, radius: float, colour):
        x, y = centre
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def _place(self, point) -> tuple[float, float]:
        return (point[0] - self._box[0]) * OVERSAMPLE, (point[1] - self._box[1]) * OVERSAMPLE


_OUTLINES = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
}


def font_for(text: str, size: int) -> Any:
    """Pillow's own font, which writes ASCII; for other text the font of the system that writes most of it."""
    from PIL import ImageFont

    try:
        best = ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
    lacks = _unwritten(best, text)
    for name in OTHER_FONTS if lacks else ():
        try:
            other = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _unwritten(other, text) < lacks:
            best, lacks = other, _unwritten(other, text)
    return best


def fitted(text: str, font, width: int) -> str:
    """Text cut with three dots so that it is at most width px long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _unwritten(font, text: str) -> int:
    """How many characters of a text a font has no glyph for."""
    beyond = [character for character in text if not character.isascii()]
    missing = bytes(font.getmask("\uffff")) if beyond else b""
    return sum(bytes(font.getmask(character)) == missing for character in beyond)


def _without_anchor(place, size, anchor: str) -> tuple[float, float]:
    across = {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
    down = {"a": 0.0, "t": 0.0, "m": 0.5}.get(anchor[1], 1.0)
    return place[0] - across * size[0], place[1] - down * size[1]
