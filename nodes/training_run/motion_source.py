"""The one clip that a motion is learned from, whichever way it was connected."""

from ...motion.data.clips import Clip
from ...motion.data.sources.images import image_clips
from ...motion.errors import ConfigError
from ...motion.limits import MAX_FPS
from ..host import checks, pixels
from .request import check_clips

SOURCES = "connect one of clips (Load Clips), video (Load Video) and images"


def source_clip(clips, video, images, source_fps: float) -> Clip:
    """The first clip of `clips`, the video at its own rate, or images at source_fps. Raises ConfigError, ShapeError."""
    given = [name for name, value in (("clips", clips), ("video", video), ("images", images)) if value is not None]
    if len(given) != 1:
        raise ConfigError(f"{' and '.join(given) or 'nothing'} is connected; {SOURCES}")
    if clips is not None:
        check_clips(clips)
        return clips.clips[0]
    if video is not None:
        parts = video.get_components()
        images, source_fps = parts.images, float(parts.frame_rate)
    elif not source_fps:
        raise ConfigError("source_fps is 0; images do not say how fast they were filmed: set their frames a second")
    checks.in_range("source_fps", source_fps, 0.1, MAX_FPS)
    frames = pixels.moving_frames(images, "the clip").movedim(-1, 1)
    return image_clips(frames, fps=float(source_fps)).clips[0]
