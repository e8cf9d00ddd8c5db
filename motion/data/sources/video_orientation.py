"""How a decoded frame is shown: turned, mirrored and stretched as the file says, as players do it."""

import struct
from dataclasses import dataclass

import numpy as np

from ...metrics.dynamics import MAX_ASPECT


@dataclass(frozen=True)
class Orientation:
    """Rows and columns swapped first, then either axis reversed."""

    is_swapped: bool = False
    is_flipped_x: bool = False
    is_flipped_y: bool = False

    def applied(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) as it is shown; a view."""
        shown = picture.swapaxes(0, 1) if self.is_swapped else picture
        return shown[:: -1 if self.is_flipped_y else 1, :: -1 if self.is_flipped_x else 1]


def orientation_of(frame) -> Orientation:
    """Read a frame's display matrix: x' = a x + c y, y' = b x + d y; it is rounded to quarter turns and mirrors."""
    data = next((bytes(entry) for entry in frame.side_data if entry.type.name == "DISPLAYMATRIX"), b"")
    if len(data) < 36:
        return Orientation()
    a, b, _, c, d = struct.unpack("<5i", data[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def shown_size(frame, stream) -> tuple[int, int]:
    """(height, width) of a frame with square pixels, before it is turned; no side gets shorter."""
    height, width = frame.height, frame.width
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
        return height, width
    return (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)
