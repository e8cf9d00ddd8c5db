"""Opening video files with PyAV, imported late: which containers, which stream, what is refused before it is read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ShapeError, ToldError
from ...limits import MAX_SIDE
from ...metrics.dynamics import MAX_ASPECT

MIN_SIDE = 16  # px
# Containers only: a play list under a video's name could make FFmpeg open other files.
_CONTAINERS = "mov,matroska,webm,avi,gif,mpegts"
_PROGRAM_STREAM, _SINCE = b"\x00\x00\x01\xba", 17  # below PyAV 17 one that is opened with options ends the process
_ATTACHED_PICTURE, _DEFAULT = 0x400, 0x1


class UnusableVideo(ToldError):
    """Why a file is unusable as a clip, in words for a list."""


@contextmanager
def opened(path: Path) -> Iterator:
    """The container of a video file; what goes wrong inside is a ShapeError with the file's name."""
    import av

    is_new = int(av.__version__.partition(".")[0]) >= _SINCE
    options = {"format_whitelist": f"{_CONTAINERS},mpeg" if is_new else _CONTAINERS, "protocol_whitelist": "file"}
    try:
        if not is_new and _head(path).startswith(_PROGRAM_STREAM):
            raise ShapeError(
                f"{path}: an MPEG program stream, which PyAV {av.__version__} cannot open safely; save the clip as "
                f"mp4, or update PyAV to {_SINCE}"
            )
        with av.open(os.path.abspath(path), options=options, metadata_errors="replace") as file:
            if not file.streams.video:
                raise ShapeError(f"{path}: no video stream in it")
            yield file
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ShapeError(f"{path}: cannot be read as a video ({reason})") from error


def pyav_version() -> str:
    """Version of the PyAV that is installed."""
    import av

    return av.__version__


def films(container) -> list:
    """Video streams that may be the film, the one that players show first: cover pictures are none.

    Raises UnusableVideo where PyAV knows the codec of none.
    """
    pictures = [stream for stream in container.streams.video if not _flags(stream) & _ATTACHED_PICTURE]
    streams = [stream for stream in pictures if stream.codec_context is not None]
    if pictures and not streams:
        raise UnusableVideo("its codec is not known here; save the clip as H.264 in mp4")
    return sorted(streams, key=lambda stream: not _flags(stream) & _DEFAULT)


def stream_of(container, index: int, path: Path):
    """The stream that was found before. Raises ShapeError when the file has become another one."""
    stream = container.streams[index] if index < len(container.streams) else None
    if stream is None or stream.type != "video" or stream.codec_context is None:
        raise ShapeError(f"{path}: its streams have changed since it was opened; load the clips again")
    return stream


def decoded(container, stream) -> Iterator:
    """Frames in the order shown. Refuses pictures that are too large before they are decoded."""
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}
    return container.decode(stream)


def check_sides(height: int, width: int) -> None:
    """Refuse sizes that cannot be. Raises UnusableVideo."""
    short, long = sorted((height, width))
    if short < MIN_SIDE or long > MAX_SIDE or long > MAX_ASPECT * short:
        raise UnusableVideo(
            f"{width}x{height} px; sides of {MIN_SIDE} to {MAX_SIDE} px, at most {MAX_ASPECT}:1, are possible"
        )


def _flags(stream) -> int:
    """A stream's disposition as bits; older PyAV has a Flag."""
    return int(getattr(stream.disposition, "value", stream.disposition))


def _head(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(len(_PROGRAM_STREAM))
