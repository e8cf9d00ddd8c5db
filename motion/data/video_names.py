"""Which files count as clips; light, since the host asks before any clip is wanted."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
MAX_DEPTH = 3  # of folders that are offered for choice
MAX_OFFERED = 500


def video_names(folder: Path) -> list[str]:
    """Names of the video files in a folder and below, "/" between, sorted; hidden ones do not count.

    Raises ConfigError when the folder is not there or holds none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one that holds video files")
    names = [(Path(place).relative_to(folder) / file).as_posix() for place, files in _walk(folder) for file in files]
    if not names:
        raise ConfigError(f"{folder}: no video files in it ({', '.join(VIDEO_SUFFIXES)}); put clips there")
    return sorted(names)


def folders_with_videos(root: Path) -> list[str]:
    """Sub-folders of root that hold video files themselves, "/" between, sorted; up to three levels down."""
    found = []
    for place, files in _walk(root, MAX_DEPTH):
        if files and place != str(root):
            found.append(Path(place).relative_to(root).as_posix())
        if len(found) >= MAX_OFFERED:
            break
    return sorted(found)


def _walk(root: Path, depth: int = 64) -> Iterator[tuple[str, list[str]]]:
    """(folder, video files in it) of a tree without hidden parts, links to folders not followed."""
    for place, folders, files in os.walk(root):
        level = len(Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if level < depth else []
        yield place, [name for name in files if not name.startswith(".") and name.lower().endswith(VIDEO_SUFFIXES)]
