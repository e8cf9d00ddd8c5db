"""Which frames of one clip a motion is learned from: nearest in time, never blended, never invented.

A window of 4k + 1 frames at about 16 a second, as Wan knows them, and of these a few, evenly far apart: 81 give 17.
Where every frame is a latent frame of its own, any number of frames at 8 a second, as the linear models know them.
Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3.3; its "16 frames" are no length that Wan's VAE holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import OFF, PAPER_PLACES, PLACES
from ..errors import ConfigError, ShapeError
from ..models.latent_spaces import LatentSpace
from ..models.wan.rotary import sparse_places
from .clips import Clip
from .resampling import SLOWER, nearest_frames

GROUP = 4  # frames of a latent frame, after the first, which stands alone
LEAST = 3  # latent frames of a window: fewer do not tell space from time
FPS, SINGLE_FPS = 16.0, 8.0  # of Wan; of models with a latent frame for every frame
MOST = 1001


@dataclass(frozen=True)
class FramePlan:
    """Frames of a clip, by their numbers in it. window: all of the stretch; sparse: those trained on, of the window."""

    window: tuple[int, ...]
    sparse: tuple[int, ...]
    fps: float  # of the window
    notes: tuple[str, ...] = ()
    group: int = GROUP  # frames of a latent frame

    @property
    def num_latents(self) -> int:
        """Latent frames of those trained on."""
        return latent_frames(len(self.sparse), self.group)

    @property
    def whole_latents(self) -> int:
        """Latent frames of the window."""
        return latent_frames(len(self.window), self.group)

    def places(self, mode: str) -> Tensor:
        """Where the latent frames of those trained on stand in time, (num_latents,) float32; mode: one of PLACES.

        A latent frame of one frame stands where that frame was: stride and center are one there. Raises ConfigError.
        """
        if self.group > 1 or mode not in PLACES or mode in (OFF, PAPER_PLACES):
            return sparse_places(mode, self.num_latents, self.whole_latents)
        return torch.tensor([self.window.index(index) for index in self.sparse], dtype=torch.float32)

    def text(self) -> str:
        """Every index, and what became of the clip, in lines."""
        seconds = (len(self.window) - 1) / self.fps
        return "\n".join((
            f"{len(self.window)} frames at {self.fps:g} fps, {seconds:.2f} s, {self.whole_latents} latent frames: "
            f"{_listed(self.window)}",
            f"{len(self.sparse)} of them are trained, {self.num_latents} latent frames: {_listed(self.sparse)}",
            *self.notes,
        ))


def latent_frames(num_frames: int, group: int = GROUP) -> int:
    """How many latent frames group·k + 1 frames are."""
    return (num_frames - 1) // group + 1


def rate_in(space: LatentSpace) -> float:
    """Frames a second of a window for models of a latent space."""
    return FPS if space.temporal_ratio > 1 else SINGLE_FPS


def plan_frames(
    clip: Clip, *, num_frames: int = 81, sparse_frames: int = 17, start: float = 0.0, fps: float = FPS,
    group: int = GROUP,
) -> FramePlan:  # fmt: skip
    """The frames of a clip that its motion is learned from.

    num_frames: of the window, group·k + 1; a shorter clip gives the most it has. sparse_frames: of those, group·k + 1;
    0 = all. start: seconds into the clip. fps: of the window; a slower clip keeps its own. group: frames of a latent
    frame. Raises ConfigError for settings, ShapeError for a clip that is too short.
    """
    least = 1 + (LEAST - 1) * group
    _check(num_frames, "num_frames", least, group)
    _check(sparse_frames or num_frames, "sparse_frames", 1 + group, group)
    times = clip.times or tuple(n / clip.fps for n in range(clip.num_frames))
    own, wanted, notes = clip.fps, fps, []
    if not 0 <= start <= times[-1]:
        raise ConfigError(f"start is {start:g} s; {clip.name} is {times[-1]:.2f} s long: begin inside it")
    if own < SLOWER * fps:
        at, fps = list(range(len(times))), own
        notes.append(f"the clip has {own:g} frames a second, fewer than {wanted:g}: its own rate is kept, none is made "
                     "up")  # fmt: skip
    else:
        at = nearest_frames([time - times[0] for time in times], fps)
    at = at[round(start * fps) :]
    held = len(at) - (len(at) - 1) % group
    if held < least:
        raise ShapeError(f"{clip.name} has {len(at)} frames at {fps:g} fps from {start:g} s on; at least {least} are "
                         "needed: take a longer clip, or begin earlier")  # fmt: skip
    if held < num_frames:
        kind = f" ({group}k + 1)" if group > 1 else ""
        notes.append(f"the clip holds {held} of {num_frames} frames{kind} from there on")
    window = at[: min(held, num_frames)]
    count = min(sparse_frames or len(window), len(window))
    if count < sparse_frames:
        notes.append(f"sparse_frames {sparse_frames} is more than the window has; all {count} are trained")
    step = (len(window) - 1) / (count - 1)
    sparse = [window[round(n * step)] for n in range(count)]
    if step != int(step):
        notes.append(f"every {step:.2f}th frame: not evenly apart, by half a frame at most")
    return FramePlan(tuple(window), tuple(sparse), fps, tuple(notes), group)


def _check(count: int, what: str, least: int, group: int) -> None:
    if least <= count <= MOST and (count - 1) % group == 0:
        return
    near = max(min(max(count - 1 + (group // 2), 0) // group * group + 1, MOST), least)
    if group == 1:
        raise ConfigError(f"{what} is {count}; {least} to {MOST} frames are needed: use {near}")
    raise ConfigError(f"{what} is {count}; Wan holds 4k + 1 frames, here {least} to {MOST}: use {near}")


def _listed(indices: tuple[int, ...]) -> str:
    return " ".join(map(str, indices))
