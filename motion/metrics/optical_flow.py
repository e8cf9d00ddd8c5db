"""Dense optical flow and what it says about a clip: shift, zoom, turn, and whether they fit a camera label.

cv2 is optional (requirements-optional.txt) and imported late, in one place. Flow is forward here: the point x of the
first frame is found at x + flow(x) in the second; (dx, dy) in pixels, x to the right, y down.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError

MIN_SIDE = 16  # DIS works on 8 px patches over a pyramid; smaller pictures give it nothing to hold


def has_cv2() -> bool:
    """True when cv2 can be imported; nothing is imported to find out."""
    return importlib.util.find_spec("cv2") is not None


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"optical flow needs cv2, which cannot be imported ({error}); run `pip install opencv-python-headless`, or "
            "use the measures without flow"
        ) from error
    return cv2


def dense_flow(a: Tensor, b: Tensor) -> Tensor:
    """Forward flow from picture a to picture b by dense inverse search.

    a, b: (h, w), (h, w, 1) or (h, w, 3), floating point in [0, 1], sides at least 16 px.
    Returns (h, w, 2) float32 on the CPU: (dx, dy) px, a(x) is found at x + flow(x) in b.
    Raises ShapeError for pictures that differ in shape, are too small or not finite; ConfigError without cv2.
    Source: Kroeger et al. 2016, arXiv 1603.03590, as cv2.DISOpticalFlow, preset medium.
    """
    if a.shape != b.shape:
        raise ShapeError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; equal shapes are needed; resize one")
    cv2 = _cv2()
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return torch.from_numpy(method.calc(_grey_bytes(a), _grey_bytes(b), None))


def textured_mask(picture: Tensor, *, fraction: float = 0.4) -> Tensor:
    """Where flow can be trusted: the `fraction` of pixels with the strongest smoothed gradient, flat ones excluded.

    picture: as in `dense_flow`. Returns (h, w) bool; everywhere True for a picture without any texture.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}; it must be in (0, 1]; 0.4 is usual")
    grey = torch.from_numpy(_grey_bytes(picture)).float() / 255
    padded = torch.nn.functional.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    slope = (padded[1:-1, 2:] - padded[1:-1, :-2]) ** 2 + (padded[2:, 1:-1] - padded[:-2, 1:-1]) ** 2
    strength = torch.nn.functional.avg_pool2d(slope[None, None], 7, 1, 3, count_include_pad=False)[0, 0]
    if not strength.max() > 0:
        return torch.ones_like(strength, dtype=torch.bool)
    threshold = strength.flatten().kthvalue(max(1, round(strength.numel() * (1 - fraction)))).values
    return strength >= threshold.clamp_min(strength.max() * 1e-4)


def median_flow(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Median (dx, dy) of the flow from a to b over textured pixels, px; arguments and errors as `dense_flow`."""
    dx, dy = dense_flow(a, b)[textured_mask(a)].median(dim=0).values.tolist()
    return dx, dy


def median_length(a: Tensor, b: Tensor) -> float:
    """Median length of the flow from a to b over textured pixels, px; arguments and errors as `dense_flow`."""
    return float(dense_flow(a, b)[textured_mask(a)].norm(dim=-1).median())


def _grey_bytes(picture: Tensor):
    """Luma of a picture as a contiguous uint8 array, the input DIS takes."""
    if picture.ndim == 3 and picture.shape[-1] in (1, 3):
        weights = picture.new_tensor([0.299, 0.587, 0.114] if picture.shape[-1] == 3 else [1.0], dtype=torch.float32)
        grey = (picture.float() * weights).sum(dim=-1)
    elif picture.ndim == 2:
        grey = picture.float()
    else:
        raise ShapeError(f"picture is {tuple(picture.shape)}; (h, w), (h, w, 1) or (h, w, 3) is needed; drop axes")
    if min(grey.shape) < MIN_SIDE:
        h, w = grey.shape
        raise ShapeError(f"picture is {h}x{w} px; optical flow needs {MIN_SIDE} px on each side; enlarge it")
    if not picture.is_floating_point() or not grey.isfinite().all():
        raise ShapeError(f"picture ({picture.dtype}) must hold finite floating-point values in [0, 1]; rescale it")
    return (grey.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
