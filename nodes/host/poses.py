"""What nodes of poses share: their socket, widgets for what a file does not say, and what they show."""

from comfy_api.latest import io, ui

from ...motion.errors import ConfigError
from . import checks
from .compat import inp
from .text_under import text_under

POSE_KEYPOINT = io.Custom("POSE_KEYPOINT")  # core's own name, and comfyui_controlnet_aux's
MAX_SIDE = 4096  # px


def size_inputs(what: str) -> list:
    return [
        inp(
            io.Int.Input, side, default=0, min=0, max=MAX_SIDE, optional=True,
            tooltip=f"{side.capitalize()} in px of the video that {what} detected in. 0 = as they say themselves; only "
            "OpenPose's files do not.", advanced=True,
        )
        for side in ("width", "height")
    ]  # fmt: skip


def confidence_input():
    return inp(
        io.Float.Input, "min_confidence", default=0.3, min=0.0, max=1.0, step=0.05, optional=True,
        tooltip="Points less sure than this are missing.", advanced=True,
    )  # fmt: skip


def given_size(width: int, height: int) -> tuple[int, int] | None:
    """A size from two widgets, None where both are 0. Raises ConfigError for one alone."""
    for name, side in (("width", width), ("height", height)):
        checks.in_range(name, side, 0, MAX_SIDE)
    if not width and not height:
        return None
    if not (width and height):
        raise ConfigError(f"width is {width} and height {height}; give both in px, or 0 for both")
    return width, height


def canvas_of(poses, picture) -> tuple[int, int] | None:
    """The size of the picture (h, w, 3) that poses were detected in, for those that do not say it; None for others."""
    frames = [poses] if isinstance(poses, dict) else poses
    told = isinstance(frames, (list, tuple)) and any(
        isinstance(frame, dict) and frame.get("canvas_width") for frame in frames
    )
    return None if told else (picture.shape[1], picture.shape[0])


def read(poses, size=None, min_confidence: float = 0.3):
    """POSE_KEYPOINT of any tool as the library's Poses. Raises ConfigError, ShapeError."""
    from ...motion.pose.keypoints import read_poses

    return read_poses(poses, size=size, min_confidence=checks.in_range("min_confidence", min_confidence, 0.0, 1.0))


def shown_sheet(cls, text: str, *rows):
    """A contact sheet of (label, Poses) and lines of text under the node, as `ui=`."""
    from ...motion.pose.report import pose_sheet

    sheet = ui.PreviewImage(pose_sheet(rows), cls=cls).as_dict()
    return sheet | text_under(cls, text).as_dict()


def measured(poses, before=None) -> str:
    from ...motion.pose.report import describe, report_on

    return describe(report_on(poses), None if before is None else report_on(before))
