"""Clips with the poses of the people in them, and the samples of a sequence that are drawn from them.

A sample is a reference picture, skeletons and the frames that they belong to, all of one size, at 16 frames a second.
Frames are the nearest in time: none is blended, none made up. Source: FramePrompt, arXiv 2506.17301, Sec. 3.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import JOINT
from ..errors import CheckpointError, ConfigError, ShapeError
from ..io.pose_files import read_pose_file
from ..limits import MAX_DATA_SEED, MAX_SIDE
from ..pose.keypoints import BODY, Poses
from ..pose.renderer import RENDERER_ID, draw_people
from ..records import PlainRecord
from ..sequence.layout import SPACE, SequenceLayout
from .clips import SHOWN, Clip, digest
from .resampling import SLOWER, nearest_frames, too_short
from .sources.folder import open_clip_folder
from .sources.images import image_clips

FPS = 16.0
LEAST_SEEN = 0.5  # share of a sample's frames that show somebody
SCALES, SHIFT = (0.75, 1.33), 0.1  # of changed skeletons: times their size, and in shares of the picture
SHEET_ROWS, SHEET_FRAMES, SHEET_SIDE, SHEET_GAP = 8, 3, 192, 4
MAX_SAMPLES = 1000  # of one clip
MOST_KNOWN = 2  # latent frames of a known start


@dataclass(frozen=True)
class PoseSettings(PlainRecord):
    """How samples are drawn from clips. Raises ConfigError and ShapeError.

    num_frames: skeletons, and frames to make; they fill latent frames. mode: see `SequenceLayout`. reference_anywhere:
    the reference is any frame that shows somebody; without, the first of the target, as in the paper. change_bodies:
    half of the samples have skeletons of another size and place than the target's body, so that these are learned from
    the reference. known_start: for targets whose first frames are known, see `known_start`.
    """

    num_frames: int = 40
    width: int = 832
    height: int = 480
    mode: str = JOINT
    samples_per_clip: int = 1
    reference_anywhere: bool = True
    change_bodies: bool = False
    known_start: bool = False
    seed: int = 0

    def __post_init__(self):
        layout = self.layout
        if layout.padded_frames != self.num_frames:
            less = replace(self, num_frames=layout.padded_frames).num_frames - SPACE.temporal_ratio
            near = f"{less} or {layout.padded_frames}" if less > 0 else f"{layout.padded_frames}"
            raise ConfigError(f"num_frames is {self.num_frames}; latent frames of mode {self.mode} are filled by "
                              f"{near}: what is padded would be learned")  # fmt: skip
        SPACE.check_size(self.width, self.height, "width x height")
        ranges = (("width", 16, MAX_SIDE), ("height", 16, MAX_SIDE), ("samples_per_clip", 1, MAX_SAMPLES),
                  ("seed", 0, MAX_DATA_SEED))  # fmt: skip
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in ranges if not low <= getattr(self, name) <= high]  # fmt: skip
        if self.known_start and layout.target_latents <= MOST_KNOWN:
            problems.append(f"known_start is on, and the target has {layout.target_latents} latent frames; more than "
                            f"{MOST_KNOWN} are needed: raise num_frames, or switch it off")  # fmt: skip
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def layout(self) -> SequenceLayout:
        """The sequence of one sample."""
        return SequenceLayout(self.num_frames, self.mode)


@dataclass(frozen=True, eq=False)
class PosedClip:
    """A clip and its poses, a frame for each of its own, in px of a canvas of the clip's shape.

    Raises ShapeError for poses of another length or shape, and where nobody is in any frame.
    """

    clip: Clip
    poses: Poses

    def __post_init__(self):
        clip, poses = self.clip, self.poses
        if len(poses.points) != clip.num_frames:
            raise ShapeError(f"its poses have {len(poses.points)} frames, the clip {clip.num_frames}; detect them in "
                             "this clip, frame by frame")  # fmt: skip
        if abs(poses.width * clip.height - poses.height * clip.width) > 0.02 * poses.width * clip.height:
            raise ShapeError(f"its poses are of a canvas of {poses.width}x{poses.height} px, the clip is "
                             f"{clip.width}x{clip.height}; detect them in this clip, uncropped")  # fmt: skip
        if not poses.present.any():
            raise ShapeError("nobody is in any of its frames")

    @property
    def fingerprint(self) -> str:
        """Changes with the frames and with the poses."""
        points = np.ascontiguousarray(self.poses.points).tobytes()
        return digest(self.clip.fingerprint, f"{self.poses.width} {self.poses.height}", points)


@dataclass(frozen=True, eq=False)
class PosedClips:
    """Clips with poses, and what was left out and why. Raises ConfigError where none is left."""

    clips: tuple[PosedClip, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    decoder: str = ""  # version of PyAV, where frames come from video files

    def __post_init__(self):
        if not self.clips:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.skipped[:SHOWN])
            raise ConfigError(f"no usable clip{f' ({reasons})' if reasons else ''}; at least one with poses is needed")


@dataclass(frozen=True, eq=False)
class PoseSample:
    """What one sample shows of a clip: frames by their numbers in it, and how its skeletons are changed.

    scale: of the skeletons about the middle of their bodies; shift: of them to the right and down, in shares of the
    picture's width and height.
    """

    source: PosedClip
    frames: tuple[int, ...]
    reference: int
    fps: float
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """Clip, first frame and reference, for people."""
        return f"{self.source.clip.name} from {self.frames[0]}, reference {self.reference}"

    @property
    def fingerprint(self) -> str:
        """Changes with all that is shown."""
        how = f"{self.frames} {self.reference} {self.scale} {self.shift} renderer {RENDERER_ID}"
        return digest(self.source.fingerprint, how)

    def parts(self, settings: PoseSettings, places: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels in [0, 1] of reference (1, 3, 1, h, w), skeletons and target (1, 3, num_frames, h, w).

        places: only these of the frames; None is all.
        """
        width, height, clip = settings.width, settings.height, self.source.clip
        places = list(range(len(self.frames))) if places is None else places
        frames = clip.frames([self.reference, *(self.frames[place] for place in places)])
        seen, people = _covering(frames, width, height).movedim(0, 1).unsqueeze(0), self._people(width, height)
        skeletons = [draw_people([torch.from_numpy(person) for person in people[place]], height, width)
                     for place in places]  # fmt: skip
        return seen[:, :, :1], torch.stack(skeletons, 1).unsqueeze(0), seen[:, :, 1:]

    def _people(self, width: int, height: int) -> list[np.ndarray]:
        """For each frame the people in it, (n, 136, 3), in px of a picture of this size."""
        clip, poses = self.source.clip, self.source.poses
        (across, down), (left, top) = _cover(clip.width, clip.height, width, height)
        points = poses.points[list(self.frames)].copy()
        points[..., 0] = points[..., 0] * (across / poses.width) - left
        points[..., 1] = points[..., 1] * (down / poses.height) - top
        there = points[..., 2] > 0
        if (self.scale, self.shift) != (1.0, (0.0, 0.0)):
            body = points[:, :, BODY][there[:, :, BODY]]
            body = body if len(body) else points[there]
            middle = (body[:, :2].min(0) + body[:, :2].max(0)) / 2
            moved = middle + np.multiply(self.shift, (width, height))
            points[..., :2] = moved + self.scale * (points[..., :2] - middle)
        points[~there] = 0
        return [frame[present] for frame, present in zip(points, there.any(-1))]


def open_posed_folder(
    folder: Path, *, default_caption: str | None = "", on_step: Callable[[int, int], None] | None = None,
    check: Callable[[], None],
) -> PosedClips:  # fmt: skip
    """The videos of a folder with the poses beside each: clip.json, or a folder clip with a file for every frame.

    Videos, captions and callbacks: see `open_clip_folder`. Videos without usable poses are skipped, with the reason.
    Raises ConfigError for a folder that is not there or has no usable clip.
    """
    found = open_clip_folder(folder, fps=0.0, default_caption=default_caption, on_step=on_step, check=check)
    clips, skipped = [], list(found.skipped)
    for clip in found.clips:
        check()
        try:
            clips.append(PosedClip(clip, _poses_beside(Path(folder), clip)))
        except (ConfigError, ShapeError, CheckpointError) as error:
            skipped.append((clip.name, str(error)))
    return PosedClips(tuple(clips), tuple(skipped), found.notes, found.decoder)


def posed_images(frames: Tensor, poses: Poses, *, fps: float, caption: str = "", number: int = 1) -> PosedClip:
    """Frames (t, 3, h, w) in [0, 1] with their poses. number: in its name. Raises ConfigError and ShapeError."""
    return PosedClip(image_clips(frames, fps=fps, caption=caption, first=number).clips[0], poses)


def draw_samples(clips: PosedClips, settings: PoseSettings) -> tuple[list[PoseSample], tuple[tuple[str, str], ...]]:
    """The samples of all clips, and those clips that give none, with the reason. Raises ConfigError where all do."""
    samples, skipped = [], list(clips.skipped)
    for posed in clips.clips:
        try:
            samples += samples_of(posed, settings)
        except ShapeError as error:
            skipped.append((posed.clip.name, str(error)))
    if not samples:
        PosedClips((), tuple(skipped))  # refuses with the reasons
    return samples, tuple(skipped)


def samples_of(posed: PosedClip, settings: PoseSettings) -> list[PoseSample]:
    """Samples of one clip, drawn by a hash of the seed and of the clip. Raises ShapeError for one that gives none."""
    clip, count = posed.clip, settings.num_frames
    at, fps = _at_rate(clip)
    if len(at) < count:
        raise ShapeError(too_short(len(at), count, fps))
    seen = posed.poses.present.any(1)[at]
    starts = [start for start in range(len(at) - count + 1) if seen[start : start + count].mean() >= LEAST_SEEN]
    if not starts:
        raise ShapeError(f"nobody is in half of any {count} frames of it in a row")
    seed = int(digest("pose samples", str(settings.seed), posed.fingerprint, str(count), length=15), 16)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(starts), generator=generator).tolist()
    samples = []
    for number in range(settings.samples_per_clip):
        frames = tuple(at[starts[order[number % len(order)]] :][:count])
        chance = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        others = [index for index, there in zip(at, seen) if there and index != frames[0]]
        anywhere = settings.reference_anywhere and bool(others)
        reference = others[int(chance[0] * len(others))] if anywhere else frames[0]
        sample = PoseSample(posed, frames, reference, fps)
        if settings.change_bodies and chance[1] < 0.5:
            low, high = map(math.log, SCALES)
            shift = tuple(SHIFT * (2 * part - 1) for part in chance[3:])
            sample = replace(sample, scale=math.exp(low + chance[2] * (high - low)), shift=shift)
        samples.append(sample)
    return samples


def pose_sheet_of(samples: list[PoseSample], settings: PoseSettings) -> Tensor:
    """A picture (1, h, w, 3) in [0, 1] to check poses by, a row for each of up to 8 samples spread over all of them:
    the reference, three skeletons, and the three frames of the target that these belong to.
    """
    count = min(len(samples), SHEET_ROWS)
    scale = min(1.0, SHEET_SIDE / max(settings.width, settings.height))
    size = (max(1, round(settings.height * scale)), max(1, round(settings.width * scale)))
    last = settings.num_frames - 1
    places = sorted({round(last * n / (SHEET_FRAMES - 1)) for n in range(SHEET_FRAMES)})
    rows = []
    for sample in (samples[n * len(samples) // count] for n in range(count)):
        shown = torch.cat(sample.parts(settings, places), dim=2)[0].movedim(1, 0)
        cells = F.interpolate(shown, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        rows.append(torch.cat([F.pad(cell, [SHEET_GAP] * 4, value=1.0) for cell in cells], dim=2))
    return torch.cat(rows, dim=1).movedim(0, -1).unsqueeze(0).contiguous()


def _poses_beside(folder: Path, clip: Clip) -> Poses:
    """The poses of a clip in a folder. Raises ConfigError where there are none."""
    stem = (folder / clip.name).with_suffix("")
    file = stem.with_name(f"{stem.name}.json")
    if file.is_file() or stem.is_dir():
        place = file if file.is_file() else stem
        try:
            return read_pose_file(place)
        except ConfigError:  # OpenPose's own files do not say how large the video was: it is this one
            return read_pose_file(place, size=(clip.width, clip.height))
    raise ConfigError(f"no poses beside it; save them as {file.name} (Save Poses), a frame for each of the clip's")


def _at_rate(clip: Clip) -> tuple[list[int], float]:
    """Frames of a clip nearest to 16 a second, and the rate; of a slower clip all, at its own."""
    if clip.fps < SLOWER * FPS:
        return list(range(clip.num_frames)), clip.fps
    times = clip.times or tuple(n / clip.fps for n in range(clip.num_frames))
    return nearest_frames([time - times[0] for time in times], FPS), FPS


def _cover(width: int, height: int, to_width: int, to_height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size at which a picture covers another, in proportion, and what is cut at its left and top, px."""
    scale = max(to_width / width, to_height / height)
    across, down = max(to_width, round(width * scale)), max(to_height, round(height * scale))
    return (across, down), ((across - to_width) // 2, (down - to_height) // 2)


def _covering(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames (t, 3, h, w) that fill width x height px, what is beyond cut off."""
    (across, down), (left, top) = _cover(frames.shape[3], frames.shape[2], width, height)
    if frames.shape[2:] != (down, across):
        frames = F.interpolate(frames, size=(down, across), mode="bilinear", antialias=True).clamp(0, 1)
    return frames[:, :, top : top + height, left : left + width]


def slow_note(samples: list[PoseSample]) -> tuple[str, ...]:
    """A line on clips whose own rate is below 16 frames a second; none where there are none."""
    slow: Mapping[str, float] = {sample.source.clip.name: sample.fps for sample in samples if sample.fps != FPS}
    if not slow:
        return ()
    told = ", ".join(f"{name} ({fps:g})" for name, fps in list(slow.items())[:SHOWN])
    return (f"{len(slow)} clips have fewer than {FPS:g} frames a second, and keep their own rate: {told}",)
