"""A folder of video files as clips of one frame rate; unusable ones are skipped by a stated rule and counted."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from torch import Tensor

from ...errors import ConfigError
from ...io.media.video import check_fps
from ..clips import MASK_MARK, SHOWN, Clip, ClipCollection, digest
from ..resampling import RULE_VERSION, slow_notes, some_of, too_short
from .captions import LIST_NAME, read_captions
from .video_container import UnusableVideo, pyav_version
from .video_file import VideoFile, go_on
from .video_index import index_video
from .video_names import LINK_OUT, find_videos


def open_clip_folder(
    folder: str | os.PathLike, *, fps: float = 24.0, default_caption: str | None = None, min_frames: int = 2,
    on_step: Callable[[int, int], None] | None = None, check: Callable[[], None] = go_on,
) -> ClipCollection:  # fmt: skip
    """The videos of a folder and its sub-folders, by name, each resampled by its own time stamps to `fps`; 0 leaves
    each at its own times, for whoever uses the clips to resample.

    bird.mask.mp4 beside bird.mp4 holds its masks, white on the subject, with as many frames, and is no clip itself.
    Captions: see `read_captions`; default_caption stands in for missing ones, None refuses them. Files that cannot be
    read, are cut off or have fewer than min_frames frames are skipped, with the reason in the summary.
    on_step(done, total) is called after every file, check() often while one is read, also later when frames are
    wanted; what they raise passes through.
    Raises ConfigError for a folder that is not there or has no usable clip, and for missing captions.
    """
    folder, fps = Path(folder), check_fps(fps) if fps else 0.0
    found, skipped = find_videos(folder)
    names, masks_of = _apart(found)
    videos, places, masks = {}, {}, {}
    for done, name in enumerate(names, 1):
        try:
            video, kept = _usable(folder / name, fps, min_frames, check)
            if name in masks_of:
                masks[name] = _masks(folder / masks_of[name], video, check)
            videos[name], places[name] = video, kept
        except UnusableVideo as error:
            skipped.append((name, str(error)))
        if on_step is not None:
            on_step(done, len(names))
    if not videos:
        ClipCollection((), tuple(skipped), fps)  # refuses with the reasons
    captions, unknown, passed = read_captions(folder, names)
    skipped += [(name, LINK_OUT) for name in passed]
    missing = [name for name in videos if name not in captions]
    if missing and default_caption is None:
        raise ConfigError(
            f"{folder}: {len(missing)} of {len(videos)} clips have no caption ({some_of(missing)}); write clip.txt "
            f"beside clip.mp4 or lines in {LIST_NAME}, or give a default caption"
        )
    clips = tuple(
        _clip(name, captions.get(name, default_caption), video, places[name], fps, masks.get(name))
        for name, video in videos.items()
    )
    notes = tuple(_notes(videos, fps, missing, default_caption, unknown))
    return ClipCollection(clips, tuple(skipped), fps, notes, decoder=pyav_version())


def open_clip(path: str | os.PathLike, *, check: Callable[[], None] = go_on) -> Clip:
    """One video file, or the first usable one of a folder, at its own times, with its caption; "" where it has none.

    check() is called often while files are read. Raises ConfigError.
    """
    path = Path(path)
    if path.is_dir():
        return open_clip_folder(path, fps=0.0, default_caption="", check=check).clips[0]
    try:
        video, _ = _usable(path, 0.0, 2, check)
    except UnusableVideo as error:
        raise ConfigError(f"{path}: {error}; give a video file, or a folder of them") from error
    captions, _, _ = read_captions(path.parent, [path.name])
    return _clip(path.name, captions.get(path.name, ""), video, [], 0.0)


def _usable(path: Path, fps: float, min_frames: int, check: Callable[[], None]) -> tuple[VideoFile, list[int]]:
    """A video with enough frames, and the frames that a clip at `fps` takes of it; none where fps is 0."""
    try:
        video = index_video(path, check)
    except OSError as error:
        raise UnusableVideo(f"cannot be opened ({error.strerror})") from error
    if len(video.times) < min_frames:
        raise UnusableVideo(f"only {len(video.times)} of the {min_frames} frames that are needed")
    if not fps:
        return video, []
    places = video.resampled(fps)
    if len(places) < min_frames:
        raise UnusableVideo(too_short(len(places), min_frames, fps))
    return video, places


def _apart(found: list[str]) -> tuple[list[str], dict[str, str]]:
    """Names of clips, and of the videos that hold their masks by them."""
    clips = {str(PurePosixPath(name).with_suffix("")): name for name in found}
    masks_of = {clips[stem.removesuffix(MASK_MARK)]: name for stem, name in clips.items()
                if stem.endswith(MASK_MARK) and stem.removesuffix(MASK_MARK) in clips}  # fmt: skip
    return [name for name in found if name not in masks_of.values()], masks_of


def _masks(path: Path, video: VideoFile, check: Callable[[], None]) -> VideoFile:
    """The video of a clip's masks. Raises UnusableVideo for one that does not fit the clip."""
    masks, _ = _usable(path, 0.0, 1, check)
    sizes = [(len(each.times), each.width, each.height) for each in (masks, video)]
    if sizes[0] != sizes[1]:
        told = [f"{count} frames of {width}x{height}" for count, width, height in sizes]
        raise UnusableVideo(f"its masks {path.name} have {told[0]}, the clip {told[1]}; they must be alike")
    return masks


def _clip(
    name: str, caption: str, video: VideoFile, places: list[int], fps: float, masks: VideoFile | None = None
) -> Clip:
    def grey(indices: Sequence[int]) -> Tensor:
        return masks.read(indices).mean(1)

    marks = [video.fingerprint] if masks is None else [video.fingerprint, "masks", masks.fingerprint]
    if not fps:
        mark = marks[0] if masks is None else digest("file", *marks)
        own = (len(video.times), video.fps, video.height, video.width, mark, video.read)
        return Clip(name, caption, *own, times=video.times, masks=masks and grey)
    mark = digest("file", str(RULE_VERSION), *marks, str(fps))
    return Clip(name, caption, len(places), fps, video.height, video.width, mark,
                lambda indices: video.read([places[index] for index in indices]),
                masks=masks and (lambda indices: grey([places[index] for index in indices])))  # fmt: skip


def _notes(videos: dict[str, VideoFile], fps: float, missing: list[str], default: str | None, unknown: list[str]):
    """Further lines of the summary."""
    if missing:
        yield f"{len(missing)} without a caption of their own ({some_of(missing)}): {default!r} is used"
    varying = [(name, video.rates) for name, video in videos.items() if len(video.times) > 2 and video.rates]
    for name, (low, high) in varying[:SHOWN]:
        yield f"{name}: variable rate, {low:.3g} to {high:.3g} fps; resampled by its time stamps"
    if len(varying) > SHOWN:
        yield f"and {len(varying) - SHOWN} more of variable rate"
    noted = [f"{name}: {note}" for name, video in videos.items() for note in video.notes]
    yield from noted[:SHOWN]
    if len(noted) > SHOWN:
        yield f"and {len(noted) - SHOWN} more such notes"
    if fps:
        yield from slow_notes({name: video.fps for name, video in videos.items()}, fps)
    if unknown:
        yield f"{LIST_NAME} names {len(unknown)} clips that are not there ({some_of(unknown)})"
