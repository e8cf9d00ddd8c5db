"""Dense optical flow and what it says about a clip: shift, zoom, turn, and whether they fit a camera label.

cv2 is optional (requirements-optional.txt) and imported late, in one place. Flow is forward here: the point x of the
first picture is found at x + flow(x) in the second; (dx, dy) in pixels, x to the right, y down.

Camera labels in film usage, as in motion/text/vocabulary.py: "pan left" means that the camera turns left, so the
picture slides to the right; "pan up", that it slides down. "zoom in" means that the picture grows about its middle.
"rotate left" and "rotate right" name the turn of the picture: counter-clockwise and clockwise on the screen.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError

MIN_SIDE = 16  # DIS works on 8 px patches over a pyramid; smaller pictures give it nothing to hold
FINE_SIDE = 160  # up to this side flow is found at full, not half resolution: turns would come out 5 % short
MEASURE_SIDE = 256  # clips are measured at no more than this short side: faster, and large steps stay in reach
DIRECT_BELOW = 2.0  # px over a clip: less than this is measured from first to last frame, where rounding adds up less
FIT_ROUNDS = 30
FIT_POINTS = 8000  # more pixels than this are thinned out evenly
LABELS = {  # which quantity of CameraMotion, and its sign
    "pan left": ("dx", 1), "pan right": ("dx", -1), "pan up": ("dy", 1), "pan down": ("dy", -1),
    "zoom in": ("zoom", 1), "zoom out": ("zoom", -1), "rotate left": ("degrees", -1), "rotate right": ("degrees", 1),
}  # fmt: skip


@dataclass(frozen=True)
class CameraMotion:
    """How a picture moved as a whole, about its middle; y points down."""

    dx: float  # px to the right
    dy: float  # px down
    zoom: float  # 1.1 = grown by a tenth
    degrees: float  # clockwise on the screen


def has_cv2() -> bool:
    """True when cv2 is there and works."""
    try:
        need_cv2()
    except ConfigError:
        return False
    return True


def need_cv2() -> None:
    """Refuse to go on without cv2. Raises ConfigError with the reason and the way to get it."""
    _cv2()


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
    Steps of a fraction of a pixel come out within about 0.1 px. Source: Kroeger et al. 2016, arXiv 1603.03590, as
    cv2.DISOpticalFlow, preset medium.
    """
    if a.shape != b.shape:
        raise ShapeError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; equal shapes are needed; resize one")
    cv2 = _cv2()
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if max(a.shape[:2]) <= FINE_SIDE:
        method.setFinestScale(0)
    return torch.from_numpy(method.calc(_grey_bytes(a), _grey_bytes(b), None))


def textured_mask(picture: Tensor, *, fraction: float = 0.4) -> Tensor:
    """Where flow can be trusted: the `fraction` of pixels with the strongest smoothed gradient, flat ones excluded.

    picture: as in `dense_flow`. Returns (h, w) bool; everywhere True for a picture without any texture.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}; it must be in (0, 1]; 0.4 is usual")
    grey = torch.from_numpy(_grey_bytes(picture)).float() / 255
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    slope = (padded[1:-1, 2:] - padded[1:-1, :-2]) ** 2 + (padded[2:, 1:-1] - padded[:-2, 1:-1]) ** 2
    strength = F.avg_pool2d(slope[None, None], 7, 1, 3, count_include_pad=False)[0, 0]
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


def fit_camera_motion(flow: Tensor, mask: Tensor | None = None) -> CameraMotion:
    """Shift, zoom and turn about the middle that most of a flow field agrees on.

    flow: (h, w, 2) px. mask: (h, w) bool, the pixels that count. Like a median, the fit does not follow a minority of
    pixels that move otherwise (a foreground object, a reflected border): least absolute errors first, then errors
    beyond twice their median fade out. Raises ShapeError for shapes that do not fit.
    """
    if flow.ndim != 3 or flow.shape[-1] != 2 or (mask is not None and mask.shape != flow.shape[:2]):
        given = None if mask is None else tuple(mask.shape)
        raise ShapeError(f"flow is {tuple(flow.shape)}, mask {given}; (h, w, 2) and (h, w) are needed; use dense_flow")
    h, w, _ = flow.shape
    y, x = torch.meshgrid(*(torch.arange(n).double() - (n - 1) / 2 for n in (h, w)), indexing="ij")
    chosen = torch.ones(h, w, dtype=torch.bool) if mask is None else mask
    x, y, u = (values[chosen][:: max(1, int(chosen.sum()) // FIT_POINTS)] for values in (x, y, flow.double()))
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.cat((torch.stack((one, zero, x, -y), -1), torch.stack((zero, one, y, x), -1)))  # all x, then all y
    wanted = torch.cat((u[:, 0], u[:, 1]))
    weight = one
    for round_index in range(FIT_ROUNDS):  # reweighted least squares
        weighted = (rows * weight.repeat(2).unsqueeze(1)).T
        normal = weighted @ rows + 1e-9 * torch.eye(4, dtype=torch.float64)
        found = torch.linalg.solve(normal, weighted @ wanted)
        error = torch.hypot(*(rows @ found - wanted).chunk(2))
        if round_index < FIT_ROUNDS // 2:
            weight = 1 / error.clamp_min(1e-3)  # turns squares into absolute values
        else:
            weight = (1 + (error / (2 * error.median()).clamp_min(0.01)) ** 2) ** -2
    dx, dy, grow, turn = found.tolist()
    return CameraMotion(dx, dy, math.hypot(1 + grow, turn), math.degrees(math.atan2(turn, 1 + grow)))


def pair_motion(a: Tensor, b: Tensor) -> CameraMotion:
    """How picture b moved against picture a, over textured pixels; arguments and errors as `dense_flow`."""
    return fit_camera_motion(dense_flow(a, b), textured_mask(a))


def camera_motion(frames: Tensor) -> CameraMotion:
    """How the picture moved from the first frame of a clip to the last, in px of the frames.

    frames: (t, h, w, c), t >= 2, c 1 or 3, in [0, 1]. Motions of successive frames are composed, since flow finds small
    steps more surely; a clip that moves less than 2 px at the measured size is measured from first to last at once.
    Raises ShapeError and ConfigError as `dense_flow`.
    """
    if frames.ndim != 4 or frames.shape[0] < 2:
        raise ShapeError(f"frames are {tuple(frames.shape)}; (t, h, w, c) with t >= 2 is needed; give a longer clip")
    small, scale = _shrink(frames)
    linear, shift = complex(1, 0), complex(0, 0)
    for this, following in zip(small[:-1], small[1:]):
        step = pair_motion(this, following)
        factor = step.zoom * complex(math.cos(math.radians(step.degrees)), math.sin(math.radians(step.degrees)))
        linear, shift = factor * linear, factor * shift + complex(step.dx, step.dy)
    total = CameraMotion(shift.real, shift.imag, abs(linear), math.degrees(math.atan2(linear.imag, linear.real)))
    if max(_lengths(total, small.shape[1], small.shape[2]).values()) < DIRECT_BELOW:
        total = pair_motion(small[0], small[-1])
    return CameraMotion(total.dx / scale, total.dy / scale, total.zoom, total.degrees)


def direction_agrees(label: str, frames: Tensor, *, threshold_px: float = 0.5) -> bool:
    """Whether a clip moves the way a camera label says, from its first frame to its last.

    label: one of the eight of LABELS (see the top of this file). frames: as in `camera_motion`. True when the motion
    has the right sign, is longer than threshold_px on a picture whose long side is 64 px, and for a pan is longer along
    its own axis than across. Zoom and turn count by the way of a point half way between middle and border.
    Raises ConfigError for an unknown label, otherwise as `camera_motion`.
    """
    _check_label(label)
    return motion_agrees(label, camera_motion(frames), *frames.shape[1:3], threshold_px=threshold_px)


def motion_agrees(
    label: str, motion: CameraMotion, height: int, width: int, *, threshold_px: float = 0.5
) -> bool:
    """As `direction_agrees`, for a motion that was measured on pictures of (height, width)."""
    _check_label(label)
    lengths = _lengths(motion, height, width)
    quantity, sign = LABELS[label]
    value = {"zoom": motion.zoom - 1}.get(quantity, getattr(motion, quantity))
    other = {"dx": "dy", "dy": "dx"}.get(quantity)
    is_along = other is None or lengths[quantity] > lengths[other]
    return value * sign > 0 and is_along and lengths[quantity] > threshold_px * max(height, width) / 64


def _check_label(label: str) -> None:
    if label not in LABELS:
        raise ConfigError(f"camera label is {label!r}; known labels are {', '.join(LABELS)}")


def _lengths(motion: CameraMotion, h: int, w: int) -> dict[str, float]:
    """Each part of a motion as the way in px of a point half way between middle and border."""
    radius = math.sqrt(h * w) / 4
    turn = math.radians(abs(motion.degrees)) * radius
    return {"dx": abs(motion.dx), "dy": abs(motion.dy), "zoom": abs(motion.zoom - 1) * radius, "degrees": turn}


def _shrink(frames: Tensor) -> tuple[Tensor, float]:
    """Frames at the measured size, and measured px per px."""
    h, w = frames.shape[1:3]
    scale = min(1.0, MEASURE_SIDE / min(h, w)) if min(h, w) else 1.0
    if scale == 1.0:
        return frames, 1.0
    size = (round(h * scale), round(w * scale))
    small = F.interpolate(frames.movedim(-1, 1).float(), size=size, mode="bilinear", antialias=True)
    return small.movedim(1, -1), scale


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
