"""Frames on their way into a file: checked, counted and turned into bytes one by one."""

from collections.abc import Callable, Iterable, Iterator, Sized

import numpy as np
import torch
from torch import Tensor

from ...errors import ShapeError
from ...models.heads.flow_codec import check_photo_size, row_bands

MAX_HELD_BYTES = 4 * 2**30


class ByteFrames:
    """Iterate once over frames in [0, 1], as arrays (h, w, 3) of uint8; one frame is held at a time.

    frames: a tensor (t, h, w, 3), or anything that gives tensors (h, w, 3) of one size; bytes (uint8) pass as they
    are. The first is fetched at once, so that its size is known and a frame that cannot be is refused before a file is
    made. held: bytes a pixel that the
    encoder keeps of every frame until its file is whole, up to MAX_HELD_BYTES. on_frame(count) is called after every
    frame. Raises ShapeError; what the iterator or on_frame raises passes through.
    """

    def __init__(
        self, frames: Tensor | Iterable[Tensor], *, held: int = 0, on_frame: Callable[[int], None] | None = None
    ):
        if isinstance(frames, Tensor) and frames.ndim != 4:
            raise ShapeError(f"frames are {_described(frames)}; floats (t, h, w, 3) in [0, 1] are needed")
        self._frames, self._held, self._on_frame = iter(frames), held, on_frame
        self.count = 0
        self._first = next(self._frames, None)
        if self._first is None:
            raise ShapeError("there are no frames; a video has at least one")
        _check(self._first, 0)
        self.height, self.width = self._first.shape[:2]
        self._check_held(len(frames) if isinstance(frames, Sized) else 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        frame, self._first = self._first, None
        while frame is not None:
            self._check_next(frame)
            pixels, frame = _to_bytes(frame, self.count), None  # here and below: gone before the next one is made
            self.count += 1
            yield pixels
            pixels = None
            if self._on_frame is not None:
                self._on_frame(self.count)
            frame = next(self._frames, None)

    def _check_next(self, frame: Tensor) -> None:
        _check(frame, self.count)
        if tuple(frame.shape[:2]) != (self.height, self.width):
            raise ShapeError(
                f"frame {self.count} is {frame.shape[1]}x{frame.shape[0]} px and the first one "
                f"{self.width}x{self.height}; all must be of one size; nothing was written"
            )
        self._check_held(self.count + 1)

    def _check_held(self, num_frames: int) -> None:
        """Refuse more frames than an encoder that keeps them may hold."""
        frame_bytes = self.height * self.width * self._held
        if num_frames * frame_bytes > MAX_HELD_BYTES:
            raise ShapeError(
                f"{num_frames} frames of {self.width}x{self.height} px need {num_frames * frame_bytes / 2**30:.1f} GiB "
                f"in this format, which holds them all until it is whole; up to {MAX_HELD_BYTES / 2**30:.0f} GiB go; "
                f"write .mp4 or a folder of PNG, or {MAX_HELD_BYTES // frame_bytes} frames"
            )


def _check(frame: Tensor, index: int) -> None:
    is_frame = isinstance(frame, Tensor) and frame.ndim == 3 and frame.shape[-1] == 3
    is_frame = is_frame and (frame.is_floating_point() or frame.dtype == torch.uint8)
    if not is_frame or min(frame.shape) < 1:
        raise ShapeError(f"frame {index} is {_described(frame)}; floats (h, w, 3) in [0, 1], or bytes, are needed")
    check_photo_size(*frame.shape[:2])


def _described(frame) -> str:
    return f"{tuple(frame.shape)} {frame.dtype}" if isinstance(frame, Tensor) else f"a {type(frame).__name__}"


def _to_bytes(frame: Tensor, index: int) -> np.ndarray:
    """A frame as (h, w, 3) uint8, band of rows by band, so that little lies between. Raises ShapeError for NaN."""
    if frame.dtype == torch.uint8:
        return np.ascontiguousarray(frame.detach().cpu().numpy())
    pixels = np.empty(tuple(frame.shape), np.uint8)
    for band in row_bands(frame.shape[0]):
        values = frame[band].detach().float()
        if not torch.isfinite(torch.stack(torch.aminmax(values))).all():
            raise ShapeError(f"frame {index} holds NaN or Inf; nothing was written; try float32 for the model")
        pixels[band] = values.clamp(0, 1).mul_(255).round_().to("cpu", torch.uint8).numpy()
    return pixels
