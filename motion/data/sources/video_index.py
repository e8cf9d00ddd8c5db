"""Finding the frames of a video file: from its packets, and by decoding its ends only wherever they can be trusted.

A container may promise frames that it does not show (edit lists), leave frames out (AVI), or number them in the order
they are stored. So a promise counts only where time runs out too, and doubtful stamps are held against the decoder.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from ....kernels.foreign_text import safe_text
from ...errors import ShapeError
from ..resampling import MAX_FRAMES
from .video_container import UnusableVideo, check_sides, decoded, films, opened, stream_of
from .video_file import SEEK_FROM, VideoFile, file_fingerprint, go_on
from .video_orientation import Orientation, orientation_of, shown_size

MAX_SECONDS = 24 * 3600.0
_HEAD = 8  # frames at the start whose stamps must rise; more than any encoder keeps in disorder
_LATE = 2.5  # frames that a stream may end before its stated end
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics
_RATE = 25.0  # fps of a file that states none


@dataclass(frozen=True)
class _Packets:
    """What the container says of one film."""

    stream: int
    stamps: list[int | None]  # of the packets that are shown, in the order stored
    base: Fraction | None  # seconds of a stamp's unit
    rate: float  # fps

    @property
    def is_stamped(self) -> bool:
        return bool(self.stamps) and None not in self.stamps and self.base is not None


@dataclass(frozen=True)
class _Pictures:
    """What the decoder says: the size shown, and stamps in the order shown, all of them or first and last."""

    height: int
    width: int
    orientation: Orientation
    stamps: list[int | None]
    is_complete: bool
    notes: tuple[str, ...]


def index_video(path: Path, check: Callable[[], None] = go_on) -> VideoFile:
    """Find the frames of a file, decoding as few of them as its stamps allow.

    check is called while it works, and while frames are read later; what it raises passes through.
    Raises UnusableVideo with the reason for what is no video, holds no picture, was cut off, has impossible sides or
    stamps that lead nowhere.
    """
    if not os.path.getsize(path):
        raise UnusableVideo("an empty file (0 bytes)")
    try:
        packets = _packets(path, check)
        pictures = _pictures(path, packets, check)
    except ShapeError as error:
        raise UnusableVideo(str(error).removeprefix(safe_text(f"{path}: "))) from error
    stamps, times, is_stamped, notes = _timed(packets, pictures)
    _check_times(times)
    return VideoFile(
        path, packets.stream, times, stamps, is_stamped, pictures.height, pictures.width, pictures.orientation,
        file_fingerprint(path), (*notes, *pictures.notes), check,
    )  # fmt: skip


def _packets(path: Path, check: Callable[[], None]) -> _Packets:
    """Packets of the film: of several streams the first that holds more than one picture."""
    with opened(path) as container:
        streams = films(container)
        if not streams:
            raise UnusableVideo("no film in it, only a cover picture")
        found = {stream.index: [] for stream in streams}
        for count, packet in enumerate(container.demux(*streams)):
            check()
            if count >= MAX_FRAMES:
                raise UnusableVideo(f"more than {MAX_FRAMES} frames; cut it into clips")
            if packet.size:
                found[packet.stream.index].append((packet.pts, packet.is_discard))
        stream = next((stream for stream in streams if len(found[stream.index]) > 1), streams[0])
        stamps = [stamp for stamp, is_discarded in found[stream.index] if not is_discarded]
        _check_whole(container, stream, len(found[stream.index]), stamps)
        return _Packets(stream.index, stamps, stream.time_base, float(stream.average_rate or 0) or _RATE)


def _check_whole(container, stream, count: int, stamps: list[int | None]) -> None:
    """Refuse a stream with fewer packets than promised that also ends before its stated end."""
    if count >= stream.frames:
        return
    if len(stamps) > 1 and None not in stamps:
        # AVI counts frames; its duration is FFmpeg's guess from the bytes that are there.
        is_avi = container.format.name == "avi"
        end = stream.frames if is_avi else (stream.start_time or 0) + (stream.duration or 0)
        gap = (max(stamps) - min(stamps)) / (len(stamps) - 1)
        if end - max(stamps) <= _LATE * gap:
            return
    raise UnusableVideo(f"cut off: {count} of {stream.frames} frames are there")


def _pictures(path: Path, packets: _Packets, check: Callable[[], None]) -> _Pictures:
    """Decode the ends of the film, or all of it where its stamps cannot be trusted."""
    with opened(path) as container:
        stream = stream_of(container, packets.stream, path)
        if stream.codec_context.width:
            check_sides(stream.codec_context.height, stream.codec_context.width)  # before memory is taken for a frame
        frames = decoded(container, stream)
        first = next(frames, None)
        if first is None:
            raise UnusableVideo("no picture in it can be decoded")
        height, width = shown_size(first, stream)
        turn = orientation_of(first)
        check_sides(height, width)
        shape = (width, height, turn) if turn.is_swapped else (height, width, turn)
        transfer = _HDR.get(stream.codec_context.color_trc)
        notes = (f"{transfer} video (HDR), read without tone mapping and so too flat",) if transfer else ()
        stamps = [first.pts] + [frame.pts for frame in islice(frames, _HEAD - 1)]
        is_doubtful = stream.codec_context.has_b_frames and _rises(packets.stamps)  # the two orders should differ
        if packets.is_stamped and _rises(stamps) and not is_doubtful and len(packets.stamps) > SEEK_FROM:
            container.seek(max(packets.stamps), stream=stream)
            tail = _stamps(decoded(container, stream), check)
            if _rises(tail):
                return _Pictures(*shape, [first.pts, max(stamps + tail)], False, notes)
        else:
            return _Pictures(*shape, stamps + _stamps(frames, check), True, notes)
    return _Pictures(*shape, _all_stamps(path, packets, check), True, notes)


def _all_stamps(path: Path, packets: _Packets, check: Callable[[], None]) -> list[int | None]:
    with opened(path) as container:
        return _stamps(decoded(container, stream_of(container, packets.stream, path)), check)


def _stamps(frames, check: Callable[[], None]) -> list[int | None]:
    """Stamps of all frames that follow."""
    found = []
    for frame in frames:
        check()
        found.append(frame.pts)
        if len(found) > MAX_FRAMES:
            raise UnusableVideo(f"more than {MAX_FRAMES} frames; cut it into clips")
    return found


def _rises(stamps: list[int | None]) -> bool:
    return None not in stamps and all(before < after for before, after in zip(stamps, stamps[1:]))


def _timed(packets: _Packets, pictures: _Pictures) -> tuple[tuple[int, ...], tuple[float, ...], bool, tuple[str, ...]]:
    """Stamps to find frames by, their times in seconds, whether the stamps are the file's own, and notes."""
    shown = pictures.stamps
    if not pictures.is_complete:
        shown = sorted(stamp for stamp in set(packets.stamps) if shown[0] <= stamp <= shown[-1])
    is_stamped = packets.is_stamped and _rises(shown)
    notes = ()
    if packets.is_stamped and not is_stamped:
        notes = ("its time stamps do not rise from frame to frame; frames are taken in the order they are shown",)
    if packets.is_stamped and None not in shown and len(set(shown)) == len(shown):
        ordered, unit = sorted(shown), float(packets.base)
    else:
        ordered, unit = range(len(shown)), 1 / packets.rate
    times = tuple((stamp - ordered[0]) * unit for stamp in ordered)
    return tuple(shown) if is_stamped else tuple(range(len(shown))), times, is_stamped, notes


def _check_times(times: tuple[float, ...]) -> None:
    """Refuse a film whose stamps lead far away."""
    if times[-1] <= MAX_SECONDS:
        return
    gap, place = max((after - before, place) for place, (before, after) in enumerate(zip(times, times[1:]), 1))
    if gap > times[-1] / 2:
        raise UnusableVideo(f"its time stamps jump by {gap:.3g} s at frame {place}; encode it again")
    raise UnusableVideo(f"it lasts {times[-1] / 3600:.3g} hours; up to {MAX_SECONDS / 3600:g} go; cut it into clips")
