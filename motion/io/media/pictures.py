"""Decoded video frames as RGB by their own colour tags, the same with every PyAV.

PyAV below 17 turns every frame to RGB as BT.601, whatever its tags say. So FFmpeg only brings a frame to one sample a
pixel, and the matrix (ITU-T H.273, table 4) is applied here.
"""

from dataclasses import dataclass

import numpy as np

# matrix_coefficients -> weights of red and blue in luma; what is not listed is taken by the frame's size
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
         9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip
_SD, _HD = 6, 1
_HD_WIDTH, _HD_HEIGHT = 1280, 577  # px from which on an untagged frame counts as HD, as players take it
_FULL_RANGE = 2
_BAND = 256  # rows that are held as floats at a time
_UNSET = {"colorspace": 2, "color_range": 0, "color_primaries": 2, "color_trc": 2}


def rgb_picture(frame, height: int, width: int) -> np.ndarray:
    """A PyAV frame as uint8 (height, width, 3); transparency lies over white.

    YCbCr is decoded by the frame's matrix and range; without a matrix, frames of 1280 px width or more than 576 lines
    are BT.709 and smaller ones BT.601. A frame of another size is resized. The frame loses its tags.
    """
    tags = _take_tags(frame)
    if has_alpha(frame.format):
        return _resized(_over_white(frame, tags), height, width)
    if _is_matrixed(frame.format):
        sampled = "yuvj444p" if frame.format.name.startswith("yuvj") else "yuv444p"  # a range by name must stay
        return _decoded(frame.reformat(width, height, sampled), tags)
    return _rows(frame.reformat(width, height, "rgb24"), 0, 3)


@dataclass(frozen=True)
class _Tags:
    """How YCbCr becomes RGB: weights of red and blue in luma, and whether samples use all of 0 to 255."""

    red: float
    blue: float
    is_full: bool


def _take_tags(frame) -> _Tags:
    """Read a frame's tags and unset them: newer FFmpeg acts on them by itself, and refuses pairs it cannot convert."""
    matrix, is_full = int(frame.colorspace), int(frame.color_range) == _FULL_RANGE
    for name, unset in _UNSET.items():
        if hasattr(frame, name):
            setattr(frame, name, unset)
    if matrix not in _LUMA:
        matrix = _HD if frame.width >= _HD_WIDTH or frame.height >= _HD_HEIGHT else _SD
    return _Tags(*_LUMA[matrix], is_full or frame.format.name.startswith("yuvj"))


def has_alpha(kind) -> bool:
    """Whether pixels of a PyAV format may be transparent; palettes may be."""
    return kind.has_palette or any(component.is_alpha for component in kind.components)


def _is_matrixed(kind) -> bool:
    """Whether a format holds luma and two differences of colour."""
    colours = [component for component in kind.components if not component.is_alpha]
    return len(colours) == 3 and not kind.is_rgb and not kind.has_palette


def _decoded(samples, tags: _Tags) -> np.ndarray:
    """RGB of 8-bit planes Y, Cb, Cr in full resolution, a band of rows at a time."""
    planes = [_rows(samples, plane) for plane in range(3)]
    picture = np.empty((*planes[0].shape, 3), np.uint8)
    for top in range(0, len(picture), _BAND):
        picture[top : top + _BAND] = _matrixed(*(plane[top : top + _BAND].astype(np.float32) for plane in planes), tags)
    return picture


def _matrixed(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, tags: _Tags) -> np.ndarray:
    """RGB, 0 to 255, of float samples Y, Cb, Cr (h, w)."""
    if not tags.is_full:
        luma = (luma - 16) * (255 / 219)
    chroma = 1 if tags.is_full else 255 / 224
    red = (red - 128) * (chroma * 2 * (1 - tags.red))
    blue = (blue - 128) * (chroma * 2 * (1 - tags.blue))
    green = (tags.red * red + tags.blue * blue) / (tags.red + tags.blue - 1)
    return np.stack((luma + red, luma + green, luma + blue), axis=-1).round().clip(0, 255)


def _over_white(frame, tags: _Tags) -> np.ndarray:
    """A frame with transparency, in its own size."""
    if _is_matrixed(frame.format):
        samples = frame.reformat(format="yuva444p")
        colours, opacity = _decoded(samples, tags), _rows(samples, 3)[..., None]
    else:
        values = _rows(frame.reformat(format="rgba"), 0, 4)
        colours, opacity = values[..., :3], values[..., 3:]
    share = opacity.astype(np.float32) / 255
    return (colours * share + 255 * (1 - share)).round().astype(np.uint8)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (h, w, 3) in another size."""
    import av

    if pixels.shape[:2] == (height, width):
        return pixels
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return _rows(frame.reformat(width, height), 0, 3)


def _rows(frame, plane: int, channels: int = 1) -> np.ndarray:
    """One plane as uint8 (h, w), or (h, w, channels) where pixels are packed."""
    part = frame.planes[plane]
    values = np.frombuffer(part, np.uint8).reshape(part.height, part.line_size)[:, : part.width * channels]
    return values.reshape(part.height, part.width, channels) if channels > 1 else values
