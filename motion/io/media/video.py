"""Pictures in, videos out. Media libraries are imported late; every output goes through the one writer."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError, ShapeError
from ...limits import MAX_FPS
from ..files.atomic import atomic_path, new_output
from ..files.names import check_output_name
from .byte_frames import ByteFrames
from .photo import read_photo
from .pictures import rgb_picture

__all__ = ["WrittenVideo", "check_fps", "check_output", "read_photo", "read_video", "write_picture", "write_video"]
VIDEO_SUFFIXES = (".mp4", ".webp", ".gif")
_HELD = {".webp": 4, ".gif": 1}  # bytes a pixel that Pillow keeps of every frame until the file is whole
# Above Full HD, x264's preset medium would hold 1 GiB of a 6-megapixel video and take most of the time. Zero latency
# hands every frame on at once and cuts it into slices, one a thread: 0.2 GiB, whatever the length and the processor. At
# equal crf the picture is as good (PSNR within 0.2 dB) and the file 1.5 to 1.7 times as large; compare them with
# benchmarks/large_photo.py.
MEDIUM_PIXELS = 1920 * 1088
LARGE_THREADS = 4  # always, so that one video gives one file everywhere
_MEDIUM, _LARGE = {"preset": "medium"}, {"preset": "superfast", "tune": "zerolatency"}
_CRF = "16"


@dataclass(frozen=True)
class WrittenVideo:
    """Where a video lies and what is in it. is_padded: odd sides were made even by repeating the last row or column."""

    path: Path
    num_frames: int
    height: int
    width: int
    is_padded: bool


def write_video(
    path: str | os.PathLike, frames: Tensor | Iterable[Tensor], fps: float, *, overwrite: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> WrittenVideo:  # fmt: skip
    """Write frames (t, h, w, 3) in [0, 1] as .mp4 (H.264), .webp, .gif, or a folder of PNG files (no suffix).

    frames may also be anything that gives frames (h, w, 3) one by one, such as `pipeline.animate_frames`: one is held
    at a time, however many come. (Pillow keeps those of a .webp or .gif until the end, 4 or 1 bytes a pixel; above
    MAX_HELD_BYTES they are refused.) on_frame(count) is called after every frame. What the iterator or on_frame
    raises passes through, and nothing is left behind.
    An existing name is never taken: clip.mp4 becomes clip_2.mp4, and so on; overwrite replaces a file (never a
    folder). mp4 needs even sides: odd ones are padded by repeating the last row or column, which the result states.
    Raises ConfigError for a name or fps that cannot be, ShapeError for frames, CheckpointError when the disk refuses.
    """
    target, fps = check_output(path, overwrite=overwrite), check_fps(fps)
    suffix = target.suffix.lower()
    stream = ByteFrames(frames, held=_HELD.get(suffix, 0), on_frame=on_frame)
    encode = {".mp4": _encode_mp4, ".webp": _encode_webp, ".gif": _encode_gif, "": _write_pngs}[suffix]
    if overwrite and suffix:
        with atomic_path(target) as temp:
            encode(temp, stream, fps)
        final = target
    else:
        with new_output(target, folder=not suffix) as output:
            encode(output.temp, stream, fps)
        final = output.path
    h, w = stream.height, stream.width
    is_padded = suffix == ".mp4" and bool(h % 2 or w % 2)
    return WrittenVideo(final, stream.count, h + h % 2 * is_padded, w + w % 2 * is_padded, is_padded)


def write_picture(path: str | os.PathLike, frame: Tensor, *, overwrite: bool = False) -> Path:
    """Write one frame (h, w, 3) in [0, 1] as a PNG file; overwrite and errors as in `write_video`."""
    target = check_output_name(path)
    (pixels,) = ByteFrames(frame.unsqueeze(0))
    if overwrite:
        with atomic_path(target) as temp:
            _save_png(pixels, temp)
        return target
    with new_output(target) as output:
        _save_png(pixels, output.temp)
    return output.path


def read_video(path: str | os.PathLike) -> tuple[Tensor, float]:
    """Read back what `write_video` wrote: frames (t, h, w, 3) float32 in [0, 1] and fps (of PNG folders: 0).

    Raises ShapeError for what is not such a video.
    """
    path = Path(path)
    arrays, fps = (_decode_mp4 if path.suffix.lower() == ".mp4" else _read_pictures)(path)
    if not arrays:
        raise ShapeError(f"{path}: no frames in it; a video is needed")
    return torch.from_numpy(np.stack(arrays)).float() / 255, fps


def check_output(path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Refuse early what `write_video` could not write. Raises ConfigError for names, CheckpointError for folders."""
    target = check_output_name(path)
    suffix = target.suffix.lower()
    if suffix and suffix not in VIDEO_SUFFIXES:
        raise ConfigError(
            f"output {target} ends in {suffix!r}; use {', '.join(VIDEO_SUFFIXES)}, or no ending for a folder of PNGs"
        )
    if not suffix and overwrite and os.path.lexists(target):
        raise ConfigError(f"output {target} is a folder of frames, which is never overwritten; choose another name")
    if not os.path.isdir(target.absolute().parent):
        raise CheckpointError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    return target


def check_fps(fps: float) -> float:
    """Refuse frame rates that cannot be. Raises ConfigError."""
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise ConfigError(f"fps is {fps}; it must be above 0 and up to {MAX_FPS:g}; 8 is usual here")
    return float(fps)


def _encode_mp4(temp: Path, frames: ByteFrames, fps: float) -> None:
    import av

    h, w = (side + side % 2 for side in (frames.height, frames.width))
    is_large = h * w > MEDIUM_PIXELS
    options = {"crf": _CRF, **(_LARGE if is_large else _MEDIUM)}
    try:
        with av.open(str(temp), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
            _mark_colours(stream.codec_context)
            if is_large:
                stream.codec_context.thread_count = LARGE_THREADS
            for pixels in frames:
                container.mux(stream.encode(_picture(pixels, w, h)))
                del pixels  # gone before the next one is made
            container.mux(stream.encode())
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise CheckpointError(f"the mp4 encoder failed ({error}); write .webp or a folder of PNG instead") from error


def _picture(pixels: np.ndarray, width: int, height: int):
    """What the mp4 encoder takes: (h, w, 3) uint8, padded to the size of the video, in its colours."""
    import av

    h, w = pixels.shape[:2]
    if (h, w) != (height, width):
        pixels = np.pad(pixels, ((0, height - h), (0, width - w), (0, 0)), mode="edge")
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU709")


def _mark_colours(context) -> None:
    """State BT.709, limited range, so that players do not guess from the size."""
    context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1


def _encode_webp(temp: Path, frames: ByteFrames, fps: float) -> None:
    _encode_pillow(temp, frames, "WEBP", round(1000 / fps), quality=90, method=4, minimize_size=False)


def _encode_gif(temp: Path, frames: ByteFrames, fps: float) -> None:
    _encode_pillow(temp, frames, "GIF", max(20, round(100 / fps) * 10), disposal=1)  # GIF counts in 10 ms


def _encode_pillow(temp: Path, frames: ByteFrames, kind: str, duration: int, **options) -> None:
    from PIL import Image

    pictures = (Image.fromarray(pixels) for pixels in frames)
    first = next(pictures)
    first.save(temp, kind, save_all=True, append_images=pictures, duration=duration, loop=0, **options)


def _write_pngs(folder: Path, frames: ByteFrames, fps: float) -> None:
    for index, pixels in enumerate(frames):
        _save_png(pixels, folder / f"frame_{index:05d}.png")


def _save_png(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path, "PNG")


def _decode_mp4(path: Path) -> tuple[list[np.ndarray], float]:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            arrays = [rgb_picture(frame, frame.height, frame.width) for frame in container.decode(stream)]
            return arrays, float(stream.average_rate or 0)
    except (av.FFmpegError, IndexError) as error:
        raise ShapeError(f"{path}: not a video that can be read ({error})") from error


def _read_pictures(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames of an animated picture, or of a folder of PNG files."""
    from PIL import Image, ImageSequence

    try:
        if path.is_dir():
            files = sorted(path.glob("frame_*.png"))
            return [np.asarray(Image.open(file).convert("RGB")) for file in files], 0.0
        with Image.open(path, formats=("WEBP", "GIF")) as image:
            arrays, duration = [], 0
            for frame in ImageSequence.Iterator(image):
                arrays.append(np.asarray(frame.convert("RGB")))
                duration = duration or frame.info.get("duration", 0)
            return arrays, 1000 / duration if duration else 0.0
    except OSError as error:
        raise ShapeError(f"{path}: not a video that can be read ({error})") from error
