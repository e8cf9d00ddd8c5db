"""How clips are cut into windows: frames of a clip, a random stride apart.

Windows are drawn from a hash of the seed and the clip, so they depend neither on the order nor on the number of clips.
"""

from dataclasses import dataclass, replace

import torch

from ..errors import ConfigError
from ..limits import MAX_CLIP_FRAMES, MAX_DATA_SEED, MAX_SIDE
from ..models.architecture import TrainingDefaults
from ..models.latent_spaces import LatentSpace
from ..records import PlainRecord
from .clips import Clip, digest


@dataclass(frozen=True)
class WindowConfig(PlainRecord):
    """How clips are cut into samples."""

    num_frames: int = 16  # frames of a window; a shorter clip gives a shorter one; 0 = the architecture's own
    stride_min: int = 3  # frames of the clip per frame of the window; 0 = the architecture's own
    stride_max: int = 10  # the same
    windows_per_clip: int = 4  # a clip too short for as many different ones gives fewer
    resolution: int = 512  # px of the short side; the built-in latent space has its own size
    seed: int = 0

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _RANGES if not low <= getattr(self, name) <= high]  # fmt: skip
        if self.stride_min > self.stride_max > 0:
            problems.append(f"stride_min {self.stride_min} is above stride_max {self.stride_max}; swap them")
        if problems:
            raise ConfigError("windows: " + "; ".join(problems))

    def resolved(self, own: TrainingDefaults, space: LatentSpace) -> tuple["WindowConfig", tuple[str, ...]]:
        """The same with numbers of the architecture where it has to choose, and a line on each that it chose.

        It chooses what is 0, and a number of frames that its latent space cannot hold. A line also tells of strides
        that are all above its own. Raises ConfigError for strides in the wrong order.
        """
        names = ("num_frames", "stride_min", "stride_max")
        chosen = {name: getattr(own, name) for name in names if not getattr(self, name)}
        notes = [f"{name} {value}: the model's own" for name, value in chosen.items()]
        if not space.holds(chosen.get("num_frames", self.num_frames)):
            fitting = own.num_frames + -(own.num_frames - 1) % space.temporal_ratio
            asked = f"; {self.num_frames} is not {space.temporal_ratio}k + 1" if self.num_frames else ""
            notes = [note for note in notes if not note.startswith("num_frames")]
            notes.append(f"num_frames {fitting}: the model's own, as {space.title} holds it{asked}")
            chosen["num_frames"] = fitting
        if self.stride_min > own.stride_max:
            notes.append(
                f"stride_min {self.stride_min} is above the model's own {own.stride_max}: motion is learned up to "
                f"{self.stride_max} times as fast as in the clips; 0 and 0 let the model choose"
            )
        return replace(self, **chosen), tuple(notes)


_RANGES = (
    ("num_frames", 0, MAX_CLIP_FRAMES), ("stride_min", 0, 1000), ("stride_max", 0, 1000),
    ("windows_per_clip", 1, 10000), ("resolution", 16, MAX_SIDE), ("seed", 0, MAX_DATA_SEED),
)  # fmt: skip


@dataclass(frozen=True)
class Window:
    """Some frames of a clip, evenly spaced."""

    clip: Clip
    start: int
    stride: int
    num_frames: int

    @property
    def indices(self) -> list[int]:
        return [self.start + self.stride * n for n in range(self.num_frames)]

    @property
    def name(self) -> str:
        return f"{self.clip.name} from {self.start} by {self.stride}"


def cut_windows(clip: Clip, windows: WindowConfig, *, at_least: int = 1, temporal_ratio: int = 1) -> list[Window]:
    """Different random windows of a clip, in the order of their first frames.

    A stride that the clip is too short for is lowered, to 1 at least; a clip shorter than a window gives shorter ones.
    temporal_ratio: every window has a multiple of it, and one, frames.
    Raises ConfigError when fewer than at_least frames would be left.
    """
    num_frames = min(windows.num_frames, clip.num_frames)
    num_frames -= (num_frames - 1) % temporal_ratio
    if num_frames < at_least:
        raise ConfigError(f"{clip.name}: windows of {num_frames} frame; this model needs at least {at_least}")
    longest = (clip.num_frames - 1) // max(1, num_frames - 1)
    high = max(1, min(windows.stride_max, longest))
    low = min(windows.stride_min, high)
    seed = int(digest("window", str(windows.seed), clip.fingerprint, clip.name, length=15), 16)
    generator = torch.Generator().manual_seed(seed)
    found = set()
    for _ in range(windows.windows_per_clip):
        stride = int(torch.randint(low, high + 1, (), generator=generator))
        room = clip.num_frames - 1 - stride * (num_frames - 1)
        found.add((int(torch.randint(room + 1, (), generator=generator)), stride))
    return [Window(clip, start, stride, num_frames) for start, stride in sorted(found)]
