"""Curves as texts: "0:0, 0.5:1, 1:0.2" is 0 at the start, 1 half way, 0.2 at the end."""

import math
import re
from dataclasses import dataclass

from ..errors import ConfigError

MAX_POINTS = 64
MAX_TEXT = 4096
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Curve:
    """Points (position in 0..1, value) joined by straight lines; before the first and after the last it is level."""

    points: tuple[tuple[float, float], ...]

    def at(self, position: float) -> float:
        """The value at a position."""
        start, low = self.points[0]
        for place, value in self.points:
            if position < place:
                return low if place == start else low + (value - low) * (position - start) / (place - start)
            start, low = place, value
        return low


def read_curve(text: str) -> Curve:
    """The curve of a text: points "position:value" with commas, or one number for a level one; empty is level at 1.

    Positions lie in 0..1 and rise; there may be 64 points. Raises ConfigError naming text, point and need.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ConfigError(f"curve {_shown(str(text))} is no text of up to {MAX_TEXT} characters; write points such as "
                          "0:0, 1:1")  # fmt: skip
    if not text.strip():
        return Curve(((0.0, 1.0),))
    if ":" not in text and "," not in text:
        return Curve(((0.0, _number(text, text, "value")),))
    parts = text.split(",")
    if len(parts) > MAX_POINTS:
        raise ConfigError(f"curve {_shown(text)} has {len(parts)} points; up to {MAX_POINTS} are allowed")
    points: list[tuple[float, float]] = []
    for part in parts:
        position, colon, value = part.partition(":")
        if not colon:
            raise ConfigError(f"curve {_shown(text)}: point {_shown(part.strip())} is no position:value; write points "
                              "such as 0:0, 1:1")  # fmt: skip
        point = _number(text, position, "position"), _number(text, value, "value")
        if not 0 <= point[0] <= 1 or (points and point[0] <= points[-1][0]):
            raise ConfigError(f"curve {_shown(text)}: point {_shown(part.strip())} stands at {point[0]:g}; positions "
                              "lie in 0..1, and each is above the one before")  # fmt: skip
        points.append(point)
    return Curve(tuple(points))


def _number(text: str, part: str, what: str) -> float:
    part = part.strip()
    value = float(part) if _NUMBER.fullmatch(part) else math.nan
    if not math.isfinite(value):
        raise ConfigError(f"curve {_shown(text)}: {what} {_shown(part)} is no number; write one such as 0.5")
    return value


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:79]}…")
