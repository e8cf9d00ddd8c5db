"""Pictures in: one photo of a stated range and size, whatever kind of file it is; Pillow is imported late."""

import os
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, ShapeError
from ...models.heads.flow_codec import check_photo_size
from ..files.kind import shown

WHITE = (1.0, 1.0, 1.0)
# Formats read by Pillow itself; others, such as EPS, would start programs.
PHOTO_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
ORIENTATION = 0x0112  # of EXIF; 1 is upright
BAND = 256  # rows that are converted at once, so that memory holds the picture and little more
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey of few bits by, but not the transparent one
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, AssertionError,
    NotImplementedError, struct.error, zlib.error,
)  # fmt: skip


def read_photo(path: str | os.PathLike, *, background: tuple[float, float, float] = WHITE) -> Tensor:
    """Read a picture file as (3, h, w) float32 RGB in [0, 1], turned upright by its EXIF entry.

    Grey becomes three equal channels; transparency is laid over `background`; 16-bit grey keeps its depth; colour
    profiles are ignored. Animations are refused, as the nodes refuse several images. Raises ConfigError for a path
    that cannot be opened, ShapeError for what is not one whole picture with sides of 1 to 4096 px.
    """
    from PIL import Image, ImageOps

    if "\0" in os.fspath(path):
        raise ConfigError(f"photo {shown(os.fspath(path))} holds a NUL character; check its name")
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            check_photo_size(image.height, image.width)
            _check_single(image, path)
            transparent = _transparent_colour(image)
            if image.format == "TIFF":
                image.getexif()  # kept; Pillow below 10 closes such a file once it is loaded
            image.load()
            turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
            upright = ImageOps.exif_transpose(image) if turned else image  # which would copy it, too
            values = _pixels(upright, transparent, np.asarray(background, dtype=np.float32))
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ConfigError(f"{path}: the photo cannot be opened ({error.strerror}); check its name") from error
    except Image.UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
        raise ShapeError(f"{path}: not a picture; {kinds} is needed; save it as PNG first") from error
    except Image.DecompressionBombError as error:
        raise ShapeError(f"{path}: the picture claims to be too large ({error}); sides go up to 4096 px") from error
    except _DAMAGED as error:
        raise ShapeError(f"{path}: the picture is damaged or cut off ({error}); get it again") from error
    return torch.from_numpy(values)


def read_mask(path: str | os.PathLike, height: int, width: int) -> Tensor:
    """Brightness of a picture file as a mask (height, width) float32 in [0, 1]: white counts, transparent too.

    A picture of another size but the same shape, to a pixel, is resized. Raises as `read_photo`, and ShapeError for one
    of another shape.
    """
    mask = read_photo(path).mean(0, keepdim=True)
    h, w = mask.shape[1:]
    if abs(h * width - w * height) > max(h, w, height, width):
        raise ShapeError(f"{path}: the mask is {w}x{h} px, the photo {width}x{height}; one of the same shape is needed")
    if (h, w) != (height, width):
        mask = torch.nn.functional.interpolate(mask[None], (height, width), mode="bilinear", antialias=True)[0]
    return mask[0].clamp(0, 1)


def _check_single(image, path) -> None:
    """Refuse animations and pages: an opened Pillow image must be one picture.

    The second picture that phones put behind a JPEG (MPO: depth, light) and pages of another size (TIFF: small
    versions) do not count, as in the host's Load Image.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if image.format == "TIFF":
        from PIL import Image

        with Image.open(path, formats=("TIFF",)) as pages:
            pages.seek(1)
            if pages.size != image.size:
                return
    raise ShapeError("holds several pictures, as animations do; one is needed: save the one you want as PNG")


def _transparent_colour(image):
    """The colour of an opened, unread image that counts as transparent, on the scale of its pixels; None without.

    Raises ShapeError for 16-bit RGB, of which Pillow keeps 8 bits: too few to tell which pixels have that colour.
    """
    colour, coding = image.info.get("transparency"), image.tile[0][3] if image.tile else ""
    if coding == "RGB;16B" and colour is not None:
        raise ShapeError("16 bits a channel with one transparent colour; save it with 8 bits or with an alpha channel")
    step = _GREY_STEPS.get(coding, 1) if isinstance(coding, str) else 1
    return colour * step if isinstance(colour, int) else colour


def _pixels(image, transparent, background: np.ndarray) -> np.ndarray:
    """A loaded Pillow image as (3, h, w) float32 in [0, 1]."""
    values = np.empty((3, image.height, image.width), dtype=np.float32)
    for top in range(0, image.height, BAND):
        band = image.crop((0, top, image.width, min(top + BAND, image.height)))
        if transparent is not None and band.mode == "1":  # which Pillow below 11 does not make transparent
            band, transparent_here = band.convert("L"), 255 if transparent else 0
        else:
            transparent_here = transparent
        if transparent is not None:
            band.info["transparency"] = transparent_here
        values[:, top : top + BAND] = _band(band, transparent_here, background).transpose(2, 0, 1)
    return values


def _band(image, transparent, background: np.ndarray) -> np.ndarray:
    """Some rows of a picture as (h, w, 3) float32 in [0, 1]."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = _deep_grey(np.asarray(image), image.mode)
        if isinstance(transparent, int):
            values[np.asarray(image) == transparent] = background
        return values
    if "a" in image.mode.lower() or transparent is not None:
        values = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
        alpha = values[..., 3:]
        return values[..., :3] * alpha + background * (1 - alpha)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def _deep_grey(values: np.ndarray, mode: str) -> np.ndarray:
    """16-bit grey over 65535, float grey as it is."""
    values = values.astype(np.float32) / (1 if mode == "F" else 65535)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ShapeError("grey values go beyond white or black; 16-bit grey or floats of 0 to 1 are needed")
    return np.repeat(values[..., None], 3, axis=-1)
