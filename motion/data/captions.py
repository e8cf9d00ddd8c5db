"""Captions of a folder of clips: a text file beside a clip, or one list for all of them."""

import json
import os
from pathlib import Path

from ..errors import ConfigError

LIST_NAME = "captions.jsonl"
MAX_BYTES = 1 << 16  # of one caption file; a longer one is not a caption


def read_captions(folder: Path, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Captions by clip name (path inside the folder, "/" between), and the names that captions.jsonl has too many.

    `clip.txt` beside `clip.mp4` wins over the line {"file": "clip.mp4", "caption": "…"} of captions.jsonl. Line breaks
    become spaces; an empty file means an empty caption, which is a caption too. Clips without one are left out.
    Raises ConfigError for a list or text that cannot be read.
    """
    listed = _read_list(folder / LIST_NAME) if (folder / LIST_NAME).is_file() else {}
    unknown = sorted(set(listed) - set(names))
    found = {}
    for name in names:
        beside = (folder / name).with_suffix(".txt")
        if beside.is_file():
            found[name] = _tidy(_text(beside))
        elif name in listed:
            found[name] = listed[name]
    return found, unknown


def _read_list(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(_text(path, limit=None).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: not JSON ({error}); each line is one object") from error
        name, caption = (values.get(key) if isinstance(values, dict) else None for key in ("file", "caption"))
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ConfigError(f'{path}, line {number}: {{"file": "clip.mp4", "caption": "…"}} is needed, both as text')
        name = os.path.normpath(name).replace(os.sep, "/")
        if name in found:
            raise ConfigError(f"{path}, line {number}: {name!r} has a caption already; keep one of the two")
        found[name] = _tidy(caption)
    return found


def _text(path: Path, limit: int | None = MAX_BYTES) -> str:
    try:
        with open(path, "rb") as handle:
            data = handle.read() if limit is None else handle.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise ConfigError(f"{path}: longer than {limit} bytes; a caption is a line of text")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _tidy(text: str) -> str:
    return " ".join(text.split())
