"""One video file on disk: where its frames lie in time, and reading some of them. PyAV, imported late.

Times come from the file's own time stamps, so a file whose rate varies is read as a player shows it.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError, ToldError
from ..models.flow_codec import MAX_SIDE

# Containers only: a play list under a video's name could make FFmpeg open other files.
_FORMATS = {"format_whitelist": "mov,matroska,webm,avi,gif,mpegts,mpeg", "protocol_whitelist": "file"}
MIN_SIDE = 16  # px
MAX_ASPECT = 16  # long side over short side, as the dynamics meter takes it
UNEVEN = 1.5  # a gap this much longer or shorter than the median makes a rate variable
SEEK_FROM = 32  # frames to skip from which on seeking pays
_HASH_BLOCK, _HASH_BLOCKS = 1 << 20, 64


class UnusableVideo(ToldError):
    """Why a file cannot serve as a clip, in words for a list."""


@dataclass(frozen=True)
class VideoFile:
    """A readable video. Build with `index_video`."""

    path: Path
    times: tuple[float, ...]  # seconds from the first frame
    stamps: tuple[int, ...]  # the file's own time stamps; plain counts where it has none
    is_stamped: bool
    height: int  # px, upright
    width: int  # px
    fingerprint: str  # of its bytes

    @property
    def fps(self) -> float:
        """Mean rate between first and last frame."""
        return (len(self.times) - 1) / self.times[-1] if self.times[-1] > 0 else 0.0

    @property
    def rates(self) -> tuple[float, float] | None:
        """Lowest and highest momentary rate, when the rate varies."""
        gaps = [after - before for before, after in zip(self.times, self.times[1:])]
        middle = median(gaps)
        if max(gaps) <= UNEVEN * middle and min(gaps) * UNEVEN >= middle:
            return None
        return 1 / max(gaps), 1 / max(min(gaps), 1e-3)

    def resampled(self, fps: float) -> list[int]:
        """For each frame of a clip at `fps`, the frame of the file that is nearest in time."""
        found = []
        for count in range(int(self.times[-1] * fps + 1e-3) + 1):
            time = count / fps
            after = min(bisect_left(self.times, time), len(self.times) - 1)
            before = max(after - 1, 0)
            found.append(after if self.times[after] - time < time - self.times[before] - 1e-6 else before)
        return found

    def read(self, indices: Sequence[int]) -> Tensor:
        """Frames of the file by their index, in the order asked for: (t, 3, height, width) in [0, 1].

        Raises ShapeError when the file was damaged since it was indexed.
        """
        wanted = sorted({self.stamps[index] for index in indices})
        is_far = self.is_stamped and bisect_left(self.stamps, wanted[0]) >= SEEK_FROM
        pictures = self._pick(wanted, seek=is_far)
        if is_far and len(pictures) < len(wanted):  # a file without a good index: from the start
            pictures = self._pick(wanted, seek=False)
        missing = [stamp for stamp in wanted if stamp not in pictures]
        if missing:
            place = self.stamps.index(missing[0])
            raise ShapeError(f"{self.path}: frame {place} cannot be decoded; encode the clip again or take it out")
        return torch.stack([torch.from_numpy(pictures[self.stamps[index]]) for index in indices]).float() / 255

    def _pick(self, wanted: list[int], *, seek: bool) -> dict[int, np.ndarray]:
        """Pictures by wanted stamp; a frame that the decoder left out is replaced by the next one."""
        pictures, place = {}, 0
        with _opened(self.path) as (container, stream):
            if seek:
                container.seek(wanted[0], stream=stream)
            for count, (stamp, frame) in enumerate(_decoded(container, stream, self.is_stamped)):
                if seek and count == 0 and stamp > wanted[0]:
                    break  # the seek went too far
                while place < len(wanted) and stamp >= wanted[place]:
                    pictures[wanted[place]] = _upright(frame, self.height, self.width)
                    place += 1
                if place == len(wanted):
                    break
        return pictures


def index_video(path: Path) -> VideoFile:
    """Find the frames of a file without decoding all of them: its first and its last ones only.

    Raises UnusableVideo with the reason for what is no video, holds no picture, was cut off or has impossible sides.
    """
    if not os.path.getsize(path):
        raise UnusableVideo("an empty file (0 bytes)")
    try:
        with _opened(path) as (container, stream):
            base, promised = stream.time_base, stream.frames
            found = [(packet.pts, packet.is_discard) for packet in container.demux(stream) if packet.size]
        if len(found) < promised:
            raise UnusableVideo(f"cut off: {len(found)} of {promised} frames are there")
        packets = [stamp for stamp, is_discarded in found if not is_discarded]
        is_stamped = bool(packets) and None not in packets and base is not None
        first, last, height, width, rate = _ends(path, packets, is_stamped)
    except ShapeError as error:
        raise UnusableVideo(str(error).removeprefix(f"{path}: ")) from error
    stamps = sorted(stamp for stamp in set(packets) if first <= stamp <= last) if is_stamped else range(last + 1)
    unit = float(base) if is_stamped else 1 / rate
    times = tuple((stamp - stamps[0]) * unit for stamp in stamps)
    _check_sides(height, width)
    return VideoFile(path, times, tuple(stamps), is_stamped, height, width, file_fingerprint(path))


def _ends(path: Path, packets: list, is_stamped: bool) -> tuple[int, int, int, int, float]:
    """Stamps of the first and last frame that can be decoded, upright size, mean rate the file states."""
    with _opened(path) as (container, stream):
        rate = float(stream.average_rate or 0) or 25.0
        frames = _decoded(container, stream, is_stamped)
        first = next(frames, None)
        if first is None:
            raise UnusableVideo("no picture in it can be decoded")
        turned = _turns(first[1]) % 2
        height, width = (first[1].width, first[1].height) if turned else (first[1].height, first[1].width)
        last = first[0]
        if is_stamped and len(packets) > SEEK_FROM:
            container.seek(max(packets), stream=stream)
            frames = _decoded(container, stream, is_stamped)
        for stamp, _ in frames:
            last = stamp
    return first[0], last, height, width, rate


def _check_sides(height: int, width: int) -> None:
    short, long = sorted((height, width))
    if short < MIN_SIDE or long > MAX_SIDE or long > MAX_ASPECT * short:
        raise UnusableVideo(
            f"{width}x{height} px; sides of {MIN_SIDE} to {MAX_SIDE} px, at most {MAX_ASPECT}:1, are possible"
        )


@contextmanager
def _opened(path: Path):
    """Container and its first video stream; what goes wrong inside is a ShapeError with the file's name."""
    import av

    try:
        with av.open(os.path.abspath(path), options=_FORMATS) as container:
            if not container.streams.video:
                raise ShapeError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ShapeError(f"{path}: cannot be read as a video ({reason})") from error


def _decoded(container, stream, is_stamped: bool) -> Iterator[tuple[int, object]]:
    """(stamp, frame) in the order shown; frames without a stamp are counted."""
    for count, frame in enumerate(container.decode(stream)):
        if not is_stamped:
            yield count, frame
        elif frame.pts is not None:
            yield frame.pts, frame


def _turns(frame) -> int:
    """Quarter turns counter-clockwise that set the frame upright, as a phone's recording says."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _upright(frame, height: int, width: int) -> np.ndarray:
    """One frame as uint8 (3, height, width), turned upright."""
    turns = _turns(frame)
    size = (height, width) if turns % 2 else (width, height)
    pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(np.rot90(pixels, turns).transpose(2, 0, 1))


def file_fingerprint(path: Path) -> str:
    """sha256 of a file's size and bytes; of large files 64 blocks of 1 MiB spread over it."""
    size = os.path.getsize(path)
    state = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        if size <= _HASH_BLOCK * _HASH_BLOCKS:
            while block := handle.read(_HASH_BLOCK):
                state.update(block)
        else:
            for count in range(_HASH_BLOCKS):
                handle.seek((size - _HASH_BLOCK) * count // (_HASH_BLOCKS - 1))
                state.update(handle.read(_HASH_BLOCK))
    return state.hexdigest()[:32]
