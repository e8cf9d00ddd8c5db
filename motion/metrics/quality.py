"""How good a generated clip is: true to its photo, steady in colour and brightness, moving, evenly, the right way.

`measure_quality` gives all of it at once; each figure is also a function of its own. Frames are (t, h, w, 3) sRGB in
[0, 1]. Figures that need optical flow are None where cv2 is missing; the report says why.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .colour import delta_e_2000, luma, mean_colour_difference, mean_lab
from .dynamics import OVERSHOOT
from .motion_track import MOVING_PX, MotionTrack, interpolation_errors, shrink, track_motion
from .optical_flow import LABELS, MIN_SIDE, CameraMotion, camera_motion, has_cv2, motion_agrees

PAD_PX = 1  # videos of odd sizes are padded to even ones: a photo may be this much smaller than the frames
ASPECT_SLACK = 0.02
NO_FLOW = "not measured: cv2 is missing (pip install opencv-python-headless)"
TOO_SHORT = "not measured: 3 frames or more are needed"


@dataclass(frozen=True)
class QualityReport:
    """What `measure_quality` found. Curves are float64 on the CPU; px are pixels of the frames."""

    num_frames: int
    height: int
    width: int
    psnr_db: float | None  # frame 1 against the photo, dB, infinite when equal; None without a photo
    delta_e: float | None  # the same as mean CIEDE2000 difference, pixel by pixel; None without a photo
    colour_drift: Tensor  # (t,) CIEDE2000 difference of the mean Lab colour against frame 1
    brightness: Tensor  # (t,) mean luma, 0 to 1
    sharpness: Tensor  # (t,) root mean square brightness step between neighbouring pixels, 0 to 1
    flicker: Tensor  # (t - 2,) inner frames against the mean of their neighbours, whole picture, 0 to 1 of white
    local_flicker: Tensor | None  # (t - 2,) the same in parts, motion taken out; None without cv2
    step_px: Tensor | None  # (t - 1,) median flow length from frame to frame; None without cv2
    distance_px: Tensor | None  # (t,) median flow length from frame 1; None without cv2
    moving_share: float | None  # share of the steps that move, 0 to 1; None without cv2
    smoothness_db: float | None  # PSNR of inner frames foretold by their neighbours; None without cv2, under 3 frames
    camera: CameraMotion | None  # from first to last frame; None without motion text or cv2
    directions: tuple[tuple[str, bool], ...]  # each camera label of the motion text, and whether the clip agrees
    missing: str | None  # why flow figures are None

    @property
    def flow_px(self) -> float | None:
        """Dynamic degree: mean over the steps of the median flow length, px per frame; None without cv2."""
        return None if self.step_px is None else float(self.step_px.mean())

    @property
    def max_drift(self) -> float:
        """Largest colour difference against frame 1, Delta E."""
        return float(self.colour_drift.max())

    @property
    def flicker_percent(self) -> float | None:
        """Root mean square of `flicker` over the inner frames, % of white; None under 3 frames."""
        return _root_mean_square_percent(self.flicker)

    @property
    def local_flicker_percent(self) -> float | None:
        """Root mean square of `local_flicker` over the inner frames, % of white; None as `local_flicker`."""
        return None if self.local_flicker is None else _root_mean_square_percent(self.local_flicker)

    @property
    def sharpness_percent(self) -> Tensor:
        """(t,) sharpness in % of frame 1's; NaN where frame 1 is flat."""
        return 100 * self.sharpness / self.sharpness[0] if self.sharpness[0] > 0 else self.sharpness * math.nan

    @property
    def direction_agrees(self) -> bool | None:
        """Whether every direction asked for is there; None when none was asked for, or without cv2."""
        return all(agrees for _, agrees in self.directions) if self.directions else None


def measure_quality(
    frames: Tensor,
    *,
    photo: Tensor | None = None,
    motion: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> QualityReport:
    """Measure one clip.

    frames: (t, h, w, 3), t >= 2, sRGB in [0, 1], sides at least 16 px. photo: (h, w, 3) or (1, h, w, 3), what frame 1
    should show; of another size it is cut or resized to the frames (`photo_like`). motion: text that names one or more
    of the camera labels of optical_flow.LABELS, or "still". on_step(done, total) may raise to cancel.
    Colours and flow are measured at a short side of at most 256 px; sharpness and the photo at full size.
    Raises ShapeError for frames or photo that do not fit, ConfigError for a motion without any label.
    """
    check_frames(frames)
    labels = camera_labels(motion) if motion else ()
    t, h, w, _ = frames.shape
    tell = _Teller(on_step, 3 * t + 2)
    psnr_db, delta_e = first_frame_fidelity(frames[0], photo) if photo is not None else (None, None)
    tell.advance()
    sharp = sharpness(frames, on_step=tell.advance)
    small, scale = shrink(frames)
    brightness = mean_brightness(small)
    seen = _flow_figures(small, scale, tell) if has_cv2() else _no_flow()
    camera = camera_motion(small) if labels and has_cv2() else None
    agrees = _agreements(labels, camera, small) if camera else ()
    tell.finish()
    return QualityReport(
        t, h, w, psnr_db, delta_e, colour_drift(small), brightness, sharp, flicker(brightness), *seen,
        _in_pixels(camera, scale), agrees, None if has_cv2() else NO_FLOW,
    )  # fmt: skip


def describe(report: QualityReport) -> str:
    """A report as lines of text; figures that were not measured say why."""
    lines = [f"{report.num_frames} frames of {report.width}x{report.height} px"]
    if report.psnr_db is not None:
        lines.append(f"frame 1 against the photo: {report.psnr_db:.1f} dB, colour difference {report.delta_e:.2f}")
    lines.append(f"colour drift against frame 1: at most {report.max_drift:.2f} (CIEDE2000 of the mean colour)")
    if report.flicker_percent is None:
        lines.append(f"flicker, smoothness: {TOO_SHORT}")
    else:
        lines.append(f"flicker: {report.flicker_percent:.2f} % of white")
    if report.local_flicker_percent is not None:
        lines.append(f"flicker in parts, motion taken out: {report.local_flicker_percent:.2f} % of white")
    if report.missing:
        return "\n".join([*lines, f"motion, smoothness, direction: {report.missing}"])
    lines.append(
        f"motion: {report.flow_px:.2f} px a frame, {float(report.distance_px[-1]):.1f} px from first to last frame, "
        f"{100 * report.moving_share:.0f} % of the frames move"
    )
    if report.smoothness_db is not None:
        lines.append(f"smoothness: {report.smoothness_db:.1f} dB (frames foretold by their neighbours)")
    lines += [f"{label}: {'yes' if agrees else 'no'}" for label, agrees in report.directions]
    return "\n".join(lines)


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures of equal shape in [0, 1], dB; infinite when equal."""
    if a.shape != b.shape:
        raise ShapeError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; equal shapes are needed; resize one")
    return to_decibel(float(((a.detach().cpu().double() - b.detach().cpu().double()) ** 2).mean()))


def to_decibel(mean_square_error: float) -> float:
    """-10 log10 of a mean squared error of values in [0, 1]; infinite for 0."""
    return math.inf if mean_square_error == 0 else -10 * math.log10(mean_square_error)


def first_frame_fidelity(frame: Tensor, photo: Tensor) -> tuple[float, float]:
    """Whether frame 1 is the photo: PSNR in dB (infinite when equal) and mean CIEDE2000 difference (0 when equal).

    frame: (h, w, 3). photo: (h, w, 3) or (1, h, w, 3), brought to the frame's size by `photo_like`. Both in [0, 1].
    """
    frame, photo = photo_like(frame, photo)
    return psnr(frame, photo), mean_colour_difference(frame, photo)


def photo_like(frame: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
    """A frame and a photo at one size, both (h, w, 3).

    Up to 1 px of difference (videos pad odd sides to even ones): both are cut at the right and below. Otherwise the
    photo is resized, anti-aliased, when its shape is within 2 % of the frame's. Raises ShapeError for other shapes.
    """
    photo = photo[0] if photo.ndim == 4 and photo.shape[0] == 1 else photo
    if photo.ndim != 3 or photo.shape[-1] != 3 or not photo.is_floating_point() or not photo.numel():
        raise ShapeError(f"photo is {tuple(photo.shape)} {photo.dtype}; floats (h, w, 3) in [0, 1] are needed")
    if not photo.isfinite().all():
        raise ShapeError("photo holds NaN or infinite pixels; finite values in [0, 1] are needed; load it again")
    (h, w), (ph, pw) = frame.shape[:2], photo.shape[:2]
    if abs(h - ph) <= PAD_PX and abs(w - pw) <= PAD_PX:
        h, w = min(h, ph), min(w, pw)
        return frame[:h, :w], photo[:h, :w]
    if abs(math.log(w * ph / (h * pw))) > ASPECT_SLACK:
        raise ShapeError(
            f"photo is {pw}x{ph} px, frames are {w}x{h} px; the same shape is needed to compare them; crop the photo"
        )
    channels_first = photo.movedim(-1, 0).unsqueeze(0).float()
    resized = F.interpolate(channels_first, size=(h, w), mode="bilinear", antialias=True)[0]
    return frame, resized.movedim(0, -1).clamp(0, 1).to(frame)


def colour_drift(frames: Tensor) -> Tensor:
    """CIEDE2000 difference of each frame's mean Lab colour against frame 1's: (t, h, w, 3) -> (t,) float64, 0 first.

    What moves into the picture also changes its mean colour, so a pan drifts a little where a still clip does not.
    """
    means = torch.stack([mean_lab(frame) for frame in frames])
    return delta_e_2000(means, means[:1])


def mean_brightness(frames: Tensor) -> Tensor:
    """Mean BT.601 luma of each frame: (t, h, w, 3) -> (t,) float64 in [0, 1]."""
    return torch.stack([luma(frame.detach().cpu().double()).mean() for frame in frames])


def flicker(brightness: Tensor) -> Tensor:
    """How far each inner frame's mean brightness is from the mean of its two neighbours: (t,) -> (t - 2,), absolute.

    Half the second difference. A steady fade gives 0; motion changes the mean of the whole picture slowly and gives
    nearly 0; brightness that alternates between two values gives their distance.
    """
    return (brightness[1:-1] - (brightness[:-2] + brightness[2:]) / 2).abs()


def sharpness(frames: Tensor, *, on_step: Callable[[], None] | None = None) -> Tensor:
    """Root mean square luma step between neighbouring pixels, of each frame at its full size: (t,) float64 in [0, 1].

    Blur lowers it; compare only frames of one size. on_step() is called after every frame.
    """
    found = []
    for frame in frames:
        grey = luma(frame.detach().float())
        total = (grey.diff(dim=0) ** 2).sum() + (grey.diff(dim=1) ** 2).sum()
        found.append(math.sqrt(float(total) / grey.numel()))
        if on_step:
            on_step()
    return torch.tensor(found, dtype=torch.float64)


def camera_labels(motion: str) -> tuple[str, ...]:
    """Camera labels named in a text, in the order of LABELS, and "still"; other words are left aside.

    Raises ConfigError when it names none.
    """
    words = " ".join(motion.lower().replace(",", " , ").split())
    found = tuple(label for label in (*LABELS, "still") if f" {label} " in f" {words} ")
    if not found:
        raise ConfigError(
            f"motion is {motion[:60]!r}, which names no direction that can be measured; "
            f"use one or more of: {', '.join(LABELS)}, still"
        )
    return found


def check_frames(frames: Tensor, name: str = "frames") -> None:
    """Refuse what is not a clip of 2 or more RGB frames with sides from 16 px in [0, 1]. Raises ShapeError."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.is_floating_point() or not frames.numel():
        raise ShapeError(f"{name} are {tuple(frames.shape)} {frames.dtype}; floats (t, h, w, 3) in [0, 1] are needed")
    t, h, w, _ = frames.shape
    if t < 2:
        raise ShapeError(f"{name}: {t} frame; at least 2 are needed to see motion; give a video")
    if min(h, w) < MIN_SIDE:
        raise ShapeError(f"{name} are {w}x{h} px; {MIN_SIDE} px on each side are needed; enlarge them")
    low, high = (float(value) for value in frames.detach().aminmax())
    if not (-OVERSHOOT <= low and high <= 1 + OVERSHOOT):  # also true for NaN
        raise ShapeError(f"{name} hold values from {low} to {high}; finite values in [0, 1] are needed; rescale them")


class _Teller:
    """Counts steps over several loops for one on_step(done, total)."""

    def __init__(self, on_step: Callable[[int, int], None] | None, total: int):
        self.on_step, self.total, self.done = on_step, total, 0

    def advance(self, *_) -> None:
        self.done += 1
        if self.on_step:
            self.on_step(self.done, self.total)

    def finish(self) -> None:
        self.done = self.total - 1
        self.advance()


def _flow_figures(small: Tensor, scale: float, tell: _Teller):
    """local_flicker, step_px, distance_px, moving_share and smoothness_db."""
    track: MotionTrack = track_motion(small, on_step=tell.advance)
    smooth = None
    if small.shape[0] > 2:
        smooth = to_decibel(float(interpolation_errors(small, on_step=tell.advance).mean()))
    return track.flicker, track.step_px / scale, track.distance_px / scale, track.moving_share(MOVING_PX), smooth


def _no_flow():
    return None, None, None, None, None


def _agreements(labels: tuple[str, ...], camera: CameraMotion, small: Tensor) -> tuple[tuple[str, bool], ...]:
    size = small.shape[1:3]
    moves = [label for label in LABELS if motion_agrees(label, camera, *size)]
    return tuple((label, label in moves if label in LABELS else not moves) for label in labels)


def _in_pixels(camera: CameraMotion | None, scale: float) -> CameraMotion | None:
    return camera and CameraMotion(camera.dx / scale, camera.dy / scale, camera.zoom, camera.degrees)


def _root_mean_square_percent(curve: Tensor) -> float | None:
    return 100 * float((curve**2).mean().sqrt()) if curve.numel() else None
