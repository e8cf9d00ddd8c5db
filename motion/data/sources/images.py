"""Clips of frames that are in memory already, as any node of the host hands them on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from ...errors import ConfigError, ShapeError
from ..clips import Clip, ClipCollection, digest

LEAST = 2  # frames of a clip


def image_clips(
    frames: Tensor, *, fps: float, frames_per_clip: int = 0, caption: str = "", first: int = 1,
    masks: Tensor | None = None,
) -> ClipCollection:  # fmt: skip
    """Frames (t, 3, h, w) in [0, 1] as one clip, or as clips of frames_per_clip each; the frames are not copied.

    What remains at the end is left out, and the summary says so. first: number in the name of the first clip.
    masks: (t, h, w) in [0, 1], where the subject is. Raises ConfigError and ShapeError.
    """
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ShapeError(f"frames are {tuple(frames.shape)}; (t, 3, h, w) is needed")
    if masks is not None and masks.shape != (len(frames), *frames.shape[-2:]):
        raise ShapeError(
            f"masks are {tuple(masks.shape)}; {(len(frames), *frames.shape[-2:])} is needed: a mask for each frame, of "
            "its size"
        )
    length = frames_per_clip or len(frames)
    if not LEAST <= length <= len(frames):
        raise ConfigError(
            f"clips of {length} frames are asked for and {len(frames)} frames are there; {LEAST} to {len(frames)} a "
            "clip are needed"
        )
    count, rest = divmod(len(frames), length)
    spans = [slice(n * length, (n + 1) * length) for n in range(count)]
    clips = tuple(
        _clip(f"images {first + n}", frames[span], fps, caption, None if masks is None else masks[span])
        for n, span in enumerate(spans)
    )
    notes = (f"{rest} frames at the end are left out: no whole clip of {length}",) if rest else ()
    return ClipCollection(clips, fps=fps, notes=notes)


def joined(before: ClipCollection, after: ClipCollection) -> ClipCollection:
    """Both as one. Raises ConfigError where their rates differ."""
    if before.fps != after.fps:
        own = "have the times of their files" if not before.fps else f"are at {before.fps:g} fps"
        raise ConfigError(f"the clips before {own}, these at {after.fps:g}; one rate is needed: give both the same fps")
    return replace(before, clips=before.clips + after.clips, skipped=before.skipped + after.skipped,
                   notes=tuple(dict.fromkeys(before.notes + after.notes)))  # fmt: skip


def _clip(name: str, frames: Tensor, fps: float, caption: str, masks: Tensor | None) -> Clip:
    values = [part.detach().cpu().float().contiguous() for part in (frames, masks) if part is not None]
    mark = digest("images", str(tuple(frames.shape)), str(fps), *(part.numpy().tobytes() for part in values))

    def read_from(kept: Tensor) -> Callable[[Sequence[int]], Tensor]:
        return lambda indices: kept[list(indices)].float().clone()

    return Clip(name, caption, len(frames), fps, *frames.shape[-2:], mark, read_from(frames),
                masks=None if masks is None else read_from(masks))  # fmt: skip
