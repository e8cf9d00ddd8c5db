"""Clips as the trainers see them: a name, a caption, and frames that are read when they are wanted.

Where the frames come from (a video file, the procedural generator) is the business of whoever builds the `Clip`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.foreign_text import safe_text
from ..errors import ConfigError, ShapeError
from .resampling import RULE_VERSION, nearest_frames, slow_notes, too_short

PREVIEW_SIDE = 256  # px, long side of preview pictures
SHOWN = 8  # names listed in a summary before "and … more"
MASK_MARK = ".mask"  # ends the name of a video of masks, before the dot of its kind


@dataclass(frozen=True)
class Clip:
    """One clip. Frames are numbered 0 to num_frames - 1; they lie 1/fps apart, or where `times` says."""

    name: str
    caption: str
    num_frames: int
    fps: float
    height: int  # px
    width: int  # px
    fingerprint: str  # changes whenever the frames would
    read: Callable[[Sequence[int]], Tensor] = field(repr=False)  # indices -> (t, 3, height, width) in [0, 1]
    # True backward flow of those frames against the first of them, (t, 2, g, g) px of the clip, where it is known.
    flow: Callable[[Sequence[int]], Tensor] | None = field(default=None, repr=False)
    times: tuple[float, ...] | None = field(default=None, repr=False)  # of a file, in seconds from its first frame
    # Where the subject is in those frames, where it is known: indices -> (t, height, width) in [0, 1], 1 = subject.
    masks: Callable[[Sequence[int]], Tensor] | None = field(default=None, repr=False)

    def at_rate(self, fps: float) -> "Clip":
        """The clip of a file resampled by its own times; a clip without times is what it is.

        Raises ConfigError for more than 2^20 frames.
        """
        if self.times is None:
            return self
        places, read, masks = nearest_frames(self.times, fps), self.read, self.masks
        return replace(
            self, num_frames=len(places), fps=fps, fingerprint=digest("file", str(RULE_VERSION), self.fingerprint,
            str(fps)), read=lambda indices: read([places[index] for index in indices]), times=None,
            masks=masks and (lambda indices: masks([places[index] for index in indices])),
        )  # fmt: skip

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Read frames, checked: (t, 3, height, width) float32 in [0, 1]. Raises ShapeError."""
        if not indices or min(indices) < 0 or max(indices) >= self.num_frames:
            raise ShapeError(f"{self.name}: frames {list(indices)[:8]} asked for; it has 0 to {self.num_frames - 1}")
        frames = self.read(indices)
        need = (len(indices), 3, self.height, self.width)
        if tuple(frames.shape) != need:
            raise ShapeError(
                f"{self.name}: its frames came as {tuple(frames.shape)}, {need} are needed; was the file changed?"
            )
        return frames

    def mask_frames(self, indices: Sequence[int]) -> Tensor:
        """The masks of frames of a clip that has them, checked: (t, height, width) float32 in [0, 1].

        Raises ShapeError.
        """
        masks, need = self.masks(indices), (len(indices), self.height, self.width)
        if tuple(masks.shape) != need:
            raise ShapeError(f"{self.name}: its masks came as {tuple(masks.shape)}, {need} are needed: a mask a frame, "
                             "of the clip's size")  # fmt: skip
        return masks


@dataclass(frozen=True)
class ClipCollection:
    """Clips, and what was left out and why."""

    clips: tuple[Clip, ...]
    skipped: tuple[tuple[str, str], ...] = ()  # (name, why)
    fps: float = 8.0  # of all of them; 0 = each has the times of its file
    notes: tuple[str, ...] = ()  # further lines for the summary: variable rates, captions that were missing
    decoder: str = ""  # version of PyAV, where frames come from video files

    def __post_init__(self):
        if not self.clips:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.skipped[:SHOWN])
            raise ConfigError(f"no usable clip{' (' + reasons + ')' if reasons else ''}; at least one is needed")

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def fingerprint(self) -> str:
        """Changes with the frames, the captions and the order of the clips."""
        lines = [f"{clip.fingerprint} {clip.num_frames} {clip.fps} {clip.caption}" for clip in self.clips]
        return digest(*lines)

    def check_masks(self) -> None:
        """Refuse a clip without masks. Raises ConfigError naming it."""
        without = [clip.name for clip in self.clips if not _has_masks(clip)]
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            raise ConfigError(
                f"{without[0]}{more} of {_count(len(self.clips), 'clip')} has no masks, which a masked adapter is "
                "trained on; give masks to Clips from Images, put a video of them beside the clip, such as "
                f"bird{MASK_MARK}.mp4 beside bird.mp4, or train without masks"
            )

    def without_captions(self) -> "ClipCollection":
        """The same with the empty prompt for all, as for adapters that stand in its place."""
        return replace(self, clips=tuple(replace(clip, caption="") for clip in self.clips))

    def at_rate(self, fps: float, *, min_frames: int = 2) -> "ClipCollection":
        """The same, clips with times of their own resampled by them, once; those too short for it are skipped."""
        if self.fps:
            return self
        clips, skipped, fps = [], list(self.skipped), float(fps)
        for clip in self.clips:
            made = clip.at_rate(fps)
            if made.num_frames < min_frames:
                skipped.append((clip.name, too_short(made.num_frames, min_frames, fps)))
            else:
                clips.append(made)
        notes = (*self.notes, *slow_notes({clip.name: clip.fps for clip in self.clips if clip.times}, fps))
        return replace(self, clips=tuple(clips), skipped=tuple(skipped), fps=fps, notes=notes)

    def summary(self) -> str:
        """Lines of text: how many clips, frames, rate, sizes, captions, and what was skipped and why."""
        lengths, rates = [clip.num_frames for clip in self.clips], [f"{clip.fps:.3g}" for clip in self.clips]
        own = _span(min(rates, key=float), max(rates, key=float))
        rate = f"{self.fps:g} fps" if self.fps else f"the times of their files, {own} fps"
        captions, masked = Counter(clip.caption for clip in self.clips), sum(map(_has_masks, self.clips))
        lines = [
            f"{_count(len(self.clips), 'clip')}, {_count(sum(lengths), 'frame')} at {rate} "
            f"({_span(min(lengths), max(lengths))} a clip)",
            "sizes: " + _tally(Counter(f"{clip.width}x{clip.height}" for clip in self.clips)),
            "captions: " + _tally(Counter({text or "(none)": count for text, count in captions.items()})),
            *([f"masks: {masked} of {_count(len(self.clips), 'clip')}"] if masked else []),
            *map(safe_text, self.notes),
        ]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)}:")
            lines += [safe_text(f"  {name}: {why}") for name, why in self.skipped[:SHOWN]]
            lines += [f"  and {len(self.skipped) - SHOWN} more"] if len(self.skipped) > SHOWN else []
        return "\n".join(lines)

    def preview(self, num: int = 8) -> Tensor:
        """First and middle frame of up to num / 2 clips spread over the collection: (n, h, w, 3) in [0, 1].

        All have the size of the first clip, its long side at most 256 px; others are fitted in on black.
        """
        first = self.clips[0]
        shrink = min(1.0, PREVIEW_SIDE / max(first.height, first.width))
        size = (max(1, round(first.height * shrink)), max(1, round(first.width * shrink)))
        count = min(max(1, num // 2), len(self.clips))
        chosen = [self.clips[index * len(self.clips) // count] for index in range(count)]
        pictures = []
        for clip in chosen:
            wanted = [0, clip.num_frames // 2][: max(1, min(num, clip.num_frames))]
            pictures += [_fitted(frame, *size) for frame in clip.frames(wanted)]
        return torch.stack(pictures).movedim(1, -1).contiguous()


def digest(*parts: str | bytes, length: int = 32) -> str:
    """A fingerprint of texts; equal texts in equal order give equal fingerprints."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:length]


def _fitted(frame: Tensor, height: int, width: int) -> Tensor:
    """One frame (3, h, w) inside (3, height, width), aspect kept, the rest black."""
    scale = min(height / frame.shape[1], width / frame.shape[2])
    h, w = (max(1, min(limit, round(side * scale))) for side, limit in zip(frame.shape[1:], (height, width)))
    small = F.interpolate(frame.unsqueeze(0), size=(h, w), mode="bilinear", align_corners=False, antialias=True)[0]
    picture = frame.new_zeros(3, height, width)
    top, left = (height - h) // 2, (width - w) // 2
    picture[:, top : top + h, left : left + w] = small.clamp(0, 1)
    return picture


def _has_masks(clip: Clip) -> bool:
    return clip.masks is not None


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _span(low: int | str, high: int | str) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _tally(counts: Counter) -> str:
    """Names with their counts, the most frequent first, cut to a few: a (3), b (1)."""
    found = counts.most_common()
    text = ", ".join(f"{safe_text(str(name), limit=60)} ({count})" for name, count in found[:SHOWN])
    return text + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
