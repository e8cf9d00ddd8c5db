"""Frames at another rate: which frame of a file a clip takes, and what is said of clips that do not suit a rate."""

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError

RULE_VERSION = 2  # of how frames of a file are chosen and turned; part of the fingerprint of its clips
MAX_FRAMES = 1 << 20  # of one file, and of one clip once it is resampled
STAMP_ERROR = 1e-3  # s; several containers count in milliseconds
SLOWER = 0.98  # a file with less than this share of the wanted rate has frames repeated


def nearest_frames(times: Sequence[float], fps: float) -> list[int]:
    """For each frame of a clip at `fps`, the frame that is nearest in time, the earlier one of two.

    times: seconds, rising from 0. Raises ConfigError for more than 2^20 frames.
    """
    count = int((times[-1] + STAMP_ERROR) * fps) + 1
    if count > MAX_FRAMES:
        raise ConfigError(f"{count} frames at {fps:g} fps; up to {MAX_FRAMES} go; cut it into clips")
    known, wanted = np.asarray(times), np.arange(count) / fps
    after = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    before = (after - 1).clip(min=0)
    return np.where(known[after] - wanted < wanted - known[before] - 1e-6, after, before).tolist()


def too_short(num_frames: int, min_frames: int, fps: float) -> str:
    """Why a clip is skipped that has too few frames at a rate."""
    return f"only {num_frames} of the {min_frames} frames that are needed, at {fps:g} fps"


def slow_notes(rates: dict[str, float], fps: float) -> tuple[str, ...]:
    """A line on the clips, by name, whose own rate is below the wanted one; none where there are none."""
    slow = [name for name, rate in rates.items() if rate < SLOWER * fps]
    return (f"{len(slow)} slower than {fps:g} fps ({some_of(slow)}): their frames are repeated",) if slow else ()


def some_of(names: Sequence[str]) -> str:
    """The first three names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
