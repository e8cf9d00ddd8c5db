"""Pose files: OpenPose JSON, one file for a clip or a folder with one for each frame."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError, ConfigError, ShapeError
from ..foreign_json import parse_json
from ..pose.keypoints import MAX_FRAMES, MIN_CONFIDENCE, Poses, read_poses
from .files.atomic import new_output, write_chunks
from .files.kind import shown
from .files.names import check_output_name

MAX_FILE_BYTES = 64 * 2**20
MAX_FOLDER_BYTES = 256 * 2**20
MAX_LISTED = 50  # files of one folder
MAX_PARTS = 4_000_000  # 3,000 frames of three people with hands and face
_NUMBER = re.compile(r"(\d+)")
VIDEOS = {".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp", ".png", ".jpg", ".jpeg"}


def read_pose_file(
    path: str | os.PathLike, *, size: tuple[int, int] | None = None, min_confidence: float = MIN_CONFIDENCE
) -> Poses:
    """Poses of a JSON file (a frame, or a list of frames) or of a folder with a JSON file for each frame.

    Files of a folder come in the order of their names, numbers by value. size: (width, height) in px for files that do
    not say it. Raises CheckpointError, with path and reason, for what cannot be read as poses; ConfigError as
    `read_poses` does.
    """
    place = Path(path)
    try:
        if place.is_dir():
            frames = list(_folder_frames(place))
        else:
            frames = _load(place)
        return read_poses(frames, size=size, min_confidence=min_confidence)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{place}: cannot be read as poses: {_reason(error)}") from error


def write_pose_file(path: str | os.PathLike, poses: Poses, *, binary: bool = False, overwrite: bool = True) -> Path:
    """Write a clip as one JSON file, a frame a line, and return its path; reading it gives the same poses, bit for bit.

    binary: confidences 0 and 1 only, for readers that drop what is below 1. overwrite=False takes a numbered name
    beside an existing file. Raises CheckpointError, or ConfigError for a name that no file can have.
    """
    target = check_output_name(path)
    if target.suffix.lower() != ".json":
        raise ConfigError(f"poses are written as .json, not {shown(target.name)}; name it {target.stem}.json")
    chunks = list(_chunks(poses, binary))
    if overwrite:
        write_chunks(target, chunks)
        return target
    with new_output(target) as output:
        write_chunks(output.temp, chunks)
    return output.path


def pose_file_names(root: str | os.PathLike) -> list[str]:
    """What lies in a folder that `read_pose_file` may read: .json files, folders of them, and the files in those.

    One level deep, sorted; folders end in "/". Of a folder with more than 50 files only the folder is listed. What
    cannot be listed holds nothing.
    """
    found = _json_names(Path(root))
    for entry in sorted(_entries(Path(root)), key=lambda entry: entry.name):
        inside = _json_names(Path(entry.path)) if entry.is_dir() else []
        if inside:
            found += [f"{entry.name}/"] + [f"{entry.name}/{name}" for name in inside if len(inside) <= MAX_LISTED]
    return found


def _json_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.name.lower().endswith(".json") and entry.is_file())


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return []


def _chunks(poses: Poses, binary: bool) -> Iterator[bytes]:
    before = "[\n"
    for frame in poses.to_frames(binary=binary):
        yield (before + json.dumps(frame, separators=(",", ":"), allow_nan=False)).encode("ascii")
        before = ",\n"
    yield b"\n]\n"


def _folder_frames(folder: Path) -> Iterator[dict]:
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() == ".json" and file.is_file()),
                   key=lambda file: [(int(part), "") if part.isdigit() else (-1, part)
                                     for part in _NUMBER.split(file.name)])  # fmt: skip
    if not files:
        raise ShapeError("the folder holds no .json file; give the folder that OpenPose wrote its frames to")
    if len(files) > MAX_FRAMES:
        raise ShapeError(f"the folder holds {len(files)} .json files; at most {MAX_FRAMES} are read; cut the clip")
    if sum(file.stat().st_size for file in files) > MAX_FOLDER_BYTES:
        raise ShapeError(f"its files are larger than {MAX_FOLDER_BYTES // 2**20} MiB together; cut the clip")
    for file in files:
        try:
            frame = _load(file)
        except ValueError as error:
            raise ShapeError(f"{shown(file.name)}: {_reason(error)}") from error
        if isinstance(frame, list) and len(frame) == 1:
            frame = frame[0]
        if isinstance(frame, list):
            raise ShapeError(
                f"{shown(file.name)} is a whole clip of {len(frame)} frames beside {len(files) - 1} other files; give "
                "that file itself"
            )
        yield frame


def _load(file: Path):
    if file.suffix.lower() in VIDEOS:
        raise ShapeError(
            "it is a video or a picture, not JSON; detect poses first: with SDPose or DWPose in ComfyUI, with OpenPose "
            "and --write_json, or by `motionblocks poses VIDEO --detector MODEL`"
        )
    with open(file, "rb") as handle:
        data = handle.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ShapeError(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB; pose files are smaller; cut the clip")
    return parse_json(data, allow_constants=True, max_parts=MAX_PARTS)


def _reason(error: Exception) -> str:
    """What went wrong; of an OSError without the path, which the message has already."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    kind = "" if isinstance(error, ShapeError) else "not a JSON file of poses: "
    return f"{kind}{error}"
