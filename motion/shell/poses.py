"""`motionblocks poses`: poses of a file or a video, cleaned, fitted to a reference, written as JSON or drawn."""

import os
import re
from pathlib import Path

from ..errors import ConfigError
from .console import say

DRAW = "draw"
LARGEST, EVERYBODY = "largest", "all"
SMOOTHINGS = ("polynomial", "one-euro", "none")
MODES = ("limb", "global", "none")
PARTS = ("body", "hands", "face")


def add_poses(commands) -> None:
    command = commands.add_parser(
        "poses", help="clean poses of people, fit them to a picture's body, draw them",
        usage="%(prog)s FILE [-o poses.json] [options]\n       %(prog)s draw FILE [-o skeletons.mp4] [options]\n"
        "       %(prog)s VIDEO --detector MODEL [-o poses.json] [options]",
        description="Read poses (OpenPose JSON, a folder of it, what SDPose and DWPose nodes save), or find them in a "
        "video, clean them, fit them to the body of a reference, and write them as JSON; with `draw` before FILE, draw "
        "them as a video.",
        epilog="docs/poses.md explains each step. An existing output is never overwritten unless you say --overwrite.",
    )  # fmt: skip
    add = command.add_argument
    add("what", nargs="+", metavar="[draw] FILE", help="JSON file, folder with a JSON file for each frame, or video")
    add("-o", "--output", help="file to write (default: FILE's name with _clean.json, or _skeleton.mp4 for draw)")
    add("--size", metavar="WxH", help="px of the video they were detected in, for files that do not say it")
    add("--person", default=EVERYBODY,
        help="all, largest, or a number counted from 0 in the order of appearance (default: %(default)s)")
    add("--min-confidence", type=float, default=0.3, help="points less sure are missing (default: %(default)s)")
    add("--detector", metavar="MODEL",
        help="what finds people in a video: folder of ViTPose, or OpenPose file of `convert` (docs/models.md)")
    add("--person-detector", metavar="FOLDER", help="RT-DETR, for ViTPose; without it a frame is one person")
    add("--fps", type=float, help="frames per second of FILE (default: 16, or the video's own)")
    add("--new-fps", type=float, help="resample to so many frames per second (default: keep)")
    add("--smooth", choices=SMOOTHINGS, default=SMOOTHINGS[0],
        help="polynomial: no lag; one-euro: looks back only, for live use (default: %(default)s)")
    add("--gap", type=int, default=4, help="fill points missing for up to so many frames (default: %(default)s)")
    add("--reference", metavar="REF", help="pose file of the picture to fit to; its first frame counts")
    add("--reference-size", metavar="WxH", help="px of that picture, where REF does not say it")
    add("--fit", choices=MODES, default=MODES[0],
        help="limb: every bone; global: the whole person; none: the canvas only (default: %(default)s)")
    add("--calibration", type=int, metavar="FRAME",
        help="frame of the result that shows the reference's pose (default: the most alike)")
    add("--keep-feet", action="store_true", help="put the feet on the reference's ground")
    add("--lock-x", action="store_true", help="keep the neck where the reference has it, left to right")
    add("--lock-y", action="store_true", help="the same, up and down")
    add("--parts", default=",".join(PARTS), help="what draw draws (default: %(default)s)")
    add("--binary", action="store_true", help="write confidences 0 and 1, for readers that drop what is below 1")
    add("--overwrite", action="store_true", help="replace an existing output file")
    add("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_poses)


def _poses(options) -> None:
    from ..pose.smoothing import jitter

    draws, path = _what(options.what)
    raw, fps = _read(path, options)
    before = jitter(raw)
    poses = _cleaned(raw, fps, options)
    fps = options.new_fps or fps
    seen = poses.present.sum(1)
    say(f"people: {poses.points.shape[1]}, in {int((seen > 0).sum())} of {len(seen)} frames")
    if poses.points.shape[1]:
        say(f"jitter: {before:.2f} px before, {jitter(poses):.2f} after")
    poses = _fitted(poses, options)
    if draws:
        written = _draw(path, poses, fps, options)
    else:
        written = _write(path, poses, options)
    say(f"{'video' if draws else 'poses'}: {os.path.abspath(written)} ({len(seen)} frames, {poses.width}x{poses.height}"
        f", {fps:g} fps)")  # fmt: skip


def _what(words: list[str]) -> tuple[bool, str]:
    """Whether to draw, and the file. A file that is itself called draw is ./draw."""
    if len(words) == 1 and words[0] != DRAW:
        return False, words[0]
    if len(words) == 2 and words[0] == DRAW:
        return True, words[1]
    raise ConfigError(f"poses takes one FILE, or draw and one FILE, not {' '.join(words)!r}; see `poses --help`")


def parse_size(text: str | None, name: str) -> tuple[int, int] | None:
    """"832x480" -> (832, 480). Raises ConfigError, with the option's name."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if not found or not all(map(int, found.groups())):
        raise ConfigError(f"{name} is {text!r}; width and height in px are needed, such as 832x480")
    return int(found[1]), int(found[2])


def _read(path: str, options):
    """Poses of a file or a video, of the people wanted, and their frame rate."""
    from ..io.pose_files import VIDEOS, read_pose_file
    from ..pose.keypoints import pick_person

    is_video = Path(path).suffix.lower() in VIDEOS
    if options.detector and not is_video:
        raise ConfigError(f"--detector finds people in a video, and {path} is none; leave it out for pose files")
    if is_video and options.detector:
        poses, fps = _detected(path, options)
    else:
        size = parse_size(options.size, "--size")
        poses, fps = read_pose_file(path, size=size, min_confidence=options.min_confidence), 16.0
    fps = fps if options.fps is None else options.fps
    if options.person == EVERYBODY:
        return poses, fps
    if options.person == LARGEST:
        return pick_person(poses), fps
    if not options.person.isdecimal():
        raise ConfigError(f"--person is {options.person!r}; all, largest or a number from 0 is needed")
    return pick_person(poses, int(options.person)), fps


def _detected(path: str, options):
    """Poses that a detector finds in the frames of a video, and the video's rate."""
    from tqdm import tqdm

    from ..data.pose_detectors import detect_poses, open_openpose, open_vitpose
    from ..data.sources.video_index import index_video

    device = "cuda" if _has_card() else "cpu"
    if os.path.isdir(options.detector):
        detector = open_vitpose(options.detector, persons=options.person_detector, device=device)
    elif options.person_detector:
        raise ConfigError("--person-detector is for ViTPose; OpenPose finds people itself: leave it out")
    else:
        detector = open_openpose(options.detector, device=device)
    say(f"by {detector.name}; licence of the weights: {detector.licence}")
    video = index_video(Path(path))
    with tqdm(desc="detecting", unit="frame", total=len(video.times), disable=options.quiet, delay=1) as bar:
        poses = detect_poses(
            _Frames(video), detector, min_confidence=options.min_confidence, on_step=lambda done, total: bar.update()
        )
    return poses, video.fps or 16.0


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


class _Frames:
    """Frames (h, w, 3) of a video, read a few at a time while they are walked through."""

    AT_ONCE = 16

    def __init__(self, video):
        self.video, self.shape, self.ndim = video, (len(video.times), video.height, video.width, 3), 4

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self):
        for first in range(0, len(self), self.AT_ONCE):
            yield from self.video.read(range(first, min(first + self.AT_ONCE, len(self)))).movedim(1, -1)


def _cleaned(poses, fps: float, options):
    from ..pose import smoothing

    poses = smoothing.fill_gaps(poses, options.gap)
    if options.smooth == "polynomial":
        poses = smoothing.smooth(poses, fps)
    elif options.smooth == "one-euro":
        poses = smoothing.smooth_one_euro(poses, fps)
    return smoothing.resample(poses, fps, options.new_fps or fps)


def _fitted(poses, options):
    from ..io.pose_files import read_pose_file
    from ..pose.keypoints import Poses
    from ..pose.retarget import describe_fit, retarget

    if options.reference is None:
        asked = [name for name in ("calibration", "keep_feet", "lock_x", "lock_y", "reference_size")
                 if getattr(options, name) is not None and getattr(options, name) is not False]  # fmt: skip
        if asked:
            raise ConfigError(
                f"--{asked[0].replace('_', '-')} fits poses to a reference, and there is none; give --reference REF"
            )
        return poses
    size = parse_size(options.reference_size, "--reference-size")
    found = read_pose_file(options.reference, size=size, min_confidence=options.min_confidence)
    first = Poses(found.points[:1], found.width, found.height)
    done = retarget(poses, first, mode=options.fit, calibration=options.calibration, keep_feet=options.keep_feet,
                    lock_x=options.lock_x, lock_y=options.lock_y)  # fmt: skip
    say(describe_fit(done))
    return done.poses


def _write(path: str, poses, options) -> Path:
    from ..io.pose_files import write_pose_file

    output = options.output or f"{Path(path).stem}_clean.json"
    return write_pose_file(output, poses, binary=options.binary, overwrite=options.overwrite)


def _draw(path: str, poses, fps: float, options) -> Path:
    import torch
    from tqdm import tqdm

    from ..io.media.video import write_video
    from ..pose.renderer import draw_people

    parts = [part.strip() for part in options.parts.split(",") if part.strip()]

    def frames():
        for people, present in zip(poses.points, poses.present, strict=True):
            shown = [torch.from_numpy(points) for points in people[present]]
            yield draw_people(shown, poses.height, poses.width, parts=parts, as_bytes=True)

    output = options.output or f"{Path(path).stem}_skeleton.mp4"
    with tqdm(desc="drawing", unit="frame", total=len(poses.points), disable=options.quiet, delay=1) as bar:
        return write_video(output, frames(), fps, overwrite=options.overwrite, on_frame=lambda count: bar.update()).path
