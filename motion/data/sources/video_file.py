"""One video file on disk: where its frames lie in time, and reading some of them.

Times come from the file's own time stamps, so a file whose rate varies is read as a player shows it.
"""

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, ShapeError
from ...io.media.pictures import rgb_picture
from ..resampling import nearest_frames
from .video_container import UnusableVideo, decoded, opened, stream_of
from .video_orientation import Orientation

UNEVEN = 1.5  # a gap this much longer or shorter than the median makes a rate variable
SEEK_FROM = 32  # frames to skip from which on seeking pays
_HASH_BLOCK, _HASH_BLOCKS = 1 << 20, 64


def go_on() -> None:
    """A check that never cancels."""


@dataclass(frozen=True)
class VideoFile:
    """A readable video. Build with `index_video`."""

    path: Path
    stream: int  # the film, by its place among the file's streams
    times: tuple[float, ...]  # seconds from the first frame
    stamps: tuple[int, ...]  # the file's own time stamps; plain counts where frames are counted
    is_stamped: bool
    height: int  # px, as shown
    width: int  # px, as shown
    orientation: Orientation
    fingerprint: str  # of its bytes
    notes: tuple[str, ...] = ()  # what was assumed, in words for a list
    check: Callable[[], None] = field(default=go_on, repr=False, compare=False)  # called while it is read; may raise

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
        """See `nearest_frames`. Raises UnusableVideo for too many frames."""
        try:
            return nearest_frames(self.times, fps)
        except ConfigError as error:
            raise UnusableVideo(str(error)) from error

    def read(self, indices: Sequence[int]) -> Tensor:
        """Frames of the file by their index, in the order asked for: (t, 3, height, width) in [0, 1].

        Raises ShapeError when the file was damaged since it was indexed; what `check` raises passes through.
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
        with opened(self.path) as container:
            stream = stream_of(container, self.stream, self.path)
            if seek:
                container.seek(wanted[0], stream=stream)
            for count, frame in enumerate(decoded(container, stream)):
                self.check()
                stamp = frame.pts if self.is_stamped else count
                if stamp is None:
                    continue
                if seek and count == 0 and stamp > wanted[0]:
                    break  # the seek went too far
                while place < len(wanted) and stamp >= wanted[place]:
                    pictures[wanted[place]] = self._shown(frame)
                    place += 1
                if place == len(wanted):
                    break
        return pictures

    def _shown(self, frame) -> np.ndarray:
        """One frame as uint8 (3, height, width), as players show it."""
        size = (self.width, self.height) if self.orientation.is_swapped else (self.height, self.width)
        return np.ascontiguousarray(self.orientation.applied(rgb_picture(frame, *size)).transpose(2, 0, 1))


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
