"""Which frames of one clip a motion is learned from: nearest in time, never blended, never invented.

A window of 4k + 1 frames at about 16 a second, as Wan knows them, and of these a few, evenly far apart: 81 give 17.
Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3.3; its "16 frames" are no length that Wan's VAE holds.
"""

from dataclasses import dataclass

from ..errors import ConfigError, ShapeError
from .clips import Clip
from .resampling import SLOWER, nearest_frames

GROUP = 4  # frames of a latent frame, after the first, which stands alone
LEAST = 9  # frames of a window: three latent frames, fewer do not tell space from time
FPS = 16.0
MOST = 1 + GROUP * 250


@dataclass(frozen=True)
class FramePlan:
    """Frames of a clip, by their numbers in it. window: all of the stretch; sparse: those trained on, of the window."""

    window: tuple[int, ...]
    sparse: tuple[int, ...]
    fps: float  # of the window
    notes: tuple[str, ...] = ()

    @property
    def num_latents(self) -> int:
        """Latent frames of those trained on."""
        return latent_frames(len(self.sparse))

    @property
    def whole_latents(self) -> int:
        """Latent frames of the window."""
        return latent_frames(len(self.window))

    def text(self) -> str:
        """Every index, and what became of the clip, in lines."""
        seconds = (len(self.window) - 1) / self.fps
        return "\n".join((
            f"{len(self.window)} frames at {self.fps:g} fps, {seconds:.2f} s, {self.whole_latents} latent frames: "
            f"{_listed(self.window)}",
            f"{len(self.sparse)} of them are trained, {self.num_latents} latent frames: {_listed(self.sparse)}",
            *self.notes,
        ))


def latent_frames(num_frames: int) -> int:
    """How many latent frames 4k + 1 frames are."""
    return (num_frames - 1) // GROUP + 1


def plan_frames(
    clip: Clip, *, num_frames: int = 81, sparse_frames: int = 17, start: float = 0.0, fps: float = FPS
) -> FramePlan:
    """The frames of a clip that its motion is learned from.

    num_frames: of the window, 4k + 1; a shorter clip gives the most it has. sparse_frames: of those, 4k + 1; 0 = all.
    start: seconds into the clip. fps: of the window; a slower clip keeps its own.
    Raises ConfigError for settings, ShapeError for a clip that is too short.
    """
    _check(num_frames, "num_frames", LEAST)
    _check(sparse_frames or num_frames, "sparse_frames", 1 + GROUP)
    times = clip.times or tuple(n / clip.fps for n in range(clip.num_frames))
    own, notes = clip.fps, []
    if not 0 <= start <= times[-1]:
        raise ConfigError(f"start is {start:g} s; {clip.name} is {times[-1]:.2f} s long: begin inside it")
    if own < SLOWER * fps:
        at, fps = list(range(len(times))), own
        notes.append(f"the clip has {own:g} frames a second, fewer than {FPS:g}: its own rate is kept, none is made up")
    else:
        at = nearest_frames([time - times[0] for time in times], fps)
    at = at[round(start * fps) :]
    held = len(at) - (len(at) - 1) % GROUP
    if held < LEAST:
        raise ShapeError(f"{clip.name} has {len(at)} frames at {fps:g} fps from {start:g} s on; at least {LEAST} are "
                         "needed: take a longer clip, or begin earlier")  # fmt: skip
    if held < num_frames:
        notes.append(f"the clip holds {held} of {num_frames} frames (4k + 1) from there on")
    window = at[: min(held, num_frames)]
    count = min(sparse_frames or len(window), len(window))
    if count < sparse_frames:
        notes.append(f"sparse_frames {sparse_frames} is more than the window has; all {count} are trained")
    step = (len(window) - 1) / (count - 1)
    sparse = [window[round(n * step)] for n in range(count)]
    if step != int(step):
        notes.append(f"every {step:.2f}th frame: not evenly apart, by half a frame at most")
    return FramePlan(tuple(window), tuple(sparse), fps, tuple(notes))


def _check(count: int, what: str, least: int) -> None:
    if least <= count <= MOST and (count - 1) % GROUP == 0:
        return
    near = min(max(count - 1 + (GROUP // 2), 0) // GROUP * GROUP + 1, MOST)
    raise ConfigError(f"{what} is {count}; Wan holds 4k + 1 frames, here {least} to {MOST}: use {max(near, least)}")


def _listed(indices: tuple[int, ...]) -> str:
    return " ".join(map(str, indices))
