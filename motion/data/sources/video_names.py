"""Which files count as clips; light, since the host asks before any clip is wanted."""

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".3gp", ".ts", ".mts", ".m2ts")
# Other names that videos go by: named in the summary, so that nobody waits for them.
OTHER_SUFFIXES = (
    ".3g2", ".apng", ".asf", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m2v", ".mjpeg", ".mpeg", ".mpg",
    ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".vob", ".webp", ".wmv", ".y4m",
)  # fmt: skip
LINK_OUT = "a link that leads out of the folder"
MAX_DEPTH = 3  # of folders that are offered for choice
MAX_OFFERED = 500


def find_videos(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the video files in a folder and below, "/" between, sorted; and of those left out, with the reason.

    Hidden files do not count. The folder may be a link; what is a link inside it must not lead out of it.
    Raises ConfigError when the folder is not there or holds no video.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one that holds video files")
    inside = folder.resolve()
    names, skipped = [], []
    for place, folders, files in _walk(folder):
        linked = [path for path in (Path(place, name) for name in folders) if path.is_symlink()]
        skipped += [(shown_name(path, folder), "a link to a folder; it is not followed") for path in linked]
        for path in (Path(place, file) for file in files):
            reason = _why_not(path, inside)
            if reason:
                skipped.append((shown_name(path, folder), reason))
            elif _is_video(path.name):
                names.append(shown_name(path, folder))
    if not names:
        reasons = "".join(f"; {name}: {why}" for name, why in skipped[:3])
        raise ConfigError(f"{folder}: no video files in it ({', '.join(VIDEO_SUFFIXES)}){reasons}; put clips there")
    return sorted(names), sorted(skipped)


def folders_with_videos(root: Path) -> list[str]:
    """Sub-folders of root that hold video files themselves, "/" between, sorted; up to three levels down.

    A link in root itself counts as the folder it leads to; links further down are not followed.
    """
    found = []
    for place, files in _offered(root):
        if any(_is_video(name) for name in files):
            found.append(Path(place).relative_to(root).as_posix())
        if len(found) >= MAX_OFFERED:
            break
    return sorted(name for name in found if name.isprintable())


def _offered(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, files in it) below root, also of the links to folders in root."""
    for place, folders, files in _walk(root, MAX_DEPTH):
        if place != str(root):
            yield place, files
            continue
        for link in [name for name in folders if os.path.islink(os.path.join(root, name))]:
            yield from ((inner, names) for inner, _, names in _walk(root / link, MAX_DEPTH - 1))


def _walk(root: Path, depth: int = 64) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, folders in it, files in it) of a tree without hidden folders; links to folders are named, not followed.

    depth: of folders below root.
    """
    for place, folders, files in os.walk(root):
        level = len(Path(place).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if level < depth else []
        yield place, folders, files


def _is_video(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(VIDEO_SUFFIXES)


def _why_not(path: Path, inside: Path) -> str:
    """Why a file that looks like a video is left out; "" for others and for those that serve."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix not in (*VIDEO_SUFFIXES, *OTHER_SUFFIXES):
        return ""
    if suffix in OTHER_SUFFIXES:
        return f"{suffix} files are not read; save it as mp4"
    if not _is_text(str(path)):
        return "its name is not UTF-8; rename it"
    return LINK_OUT if leads_out(path, inside) else ""


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a file is a link to somewhere outside the folder, or to nowhere."""
    return path.is_symlink() and folder.resolve() not in path.resolve().parents


def shown_name(path: Path, folder: Path) -> str:
    """Path inside the folder, "/" between; bytes that are no text are escaped."""
    return path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def _is_text(name: str) -> bool:
    return name == name.encode("utf-8", "ignore").decode()
