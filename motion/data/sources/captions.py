"""Captions of a folder of clips: a text file beside a clip, or one list for all of them."""

import io
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import ConfigError
from ...foreign_json import parse_json
from ...io.files.text import decode_text
from .video_names import leads_out, shown_name

LIST_NAME = "captions.jsonl"
MAX_BYTES = 1 << 16  # of one caption; a longer one is not a caption
MAX_LIST = 16 * 2**20  # bytes of captions.jsonl
MAX_LINES = 100_000


def read_captions(folder: Path, names: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Captions by clip name (path inside the folder, "/" between), the names that captions.jsonl has too many, and
    texts that were passed over, since they are links that lead out of the folder.

    `clip.txt` beside `clip.mp4` wins over the line {"file": "clip.mp4", "caption": "…"} of captions.jsonl. A name that
    fits no clip exactly fits one that differs by its separators or by how its accents are composed; `.TXT` is read
    where there is no `.txt`. Line breaks become spaces; an empty file means an empty caption, which is a caption too.
    Clips without one are left out. Raises ConfigError for a list or text that cannot be read.
    """
    beside, passed = _texts_beside(folder, names), []
    for name in [name for name, path in beside.items() if leads_out(path, folder)]:
        passed.append(shown_name(beside.pop(name), folder))
    if leads_out(folder / LIST_NAME, folder):
        passed.append(LIST_NAME)
    is_listed = (folder / LIST_NAME).is_file() and LIST_NAME not in passed
    listed = _read_list(folder / LIST_NAME, _resolver(names)) if is_listed else {}
    unknown = sorted(set(listed) - set(names))
    found = {}
    for name in names:
        if name in beside:
            found[name] = _tidy(_text(beside[name], MAX_BYTES, "a caption is a line of text"))
        elif name in listed:
            found[name] = listed[name]
    return found, unknown, sorted(passed)


def _resolver(names: list[str]) -> Callable[[str], str]:
    """A function from a name in the list to the clip that is meant, or to the name itself where none is."""
    known, similar = set(names), {}
    for name in names:
        similar.setdefault(_plain(name), name)

    def resolve(name: str) -> str:
        exact = posixpath.normpath(name)
        return exact if exact in known else similar.get(_plain(exact), exact)

    return resolve


def _plain(name: str) -> str:
    """A name whose separators and accents are written in one way."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _texts_beside(folder: Path, names: list[str]) -> dict[str, Path]:
    """The caption file of each clip that has one."""
    texts = {place: _texts_in(folder / place) for place in {posixpath.dirname(name) for name in names}}
    found = {}
    for name in names:
        place, file = posixpath.split(name)
        stem = posixpath.splitext(file)[0]
        choice = texts[place].get(_plain(stem), ())
        if f"{stem}.txt" in choice or len(choice) == 1:
            found[name] = folder / place / (f"{stem}.txt" if f"{stem}.txt" in choice else choice[0])
        elif choice:
            raise ConfigError(f"{folder / name} has the captions {' and '.join(choice[:3])}; keep one of them")
    return found


def _texts_in(place: Path) -> dict[str, list[str]]:
    """Names of the text files in a folder, by what they are called without suffix."""
    found: dict[str, list[str]] = {}
    with os.scandir(place) as entries:
        for name in sorted(entry.name for entry in entries if entry.name.lower().endswith(".txt") and entry.is_file()):
            found.setdefault(_plain(posixpath.splitext(name)[0]), []).append(name)
    return found


def _read_list(path: Path, resolve: Callable[[str], str]) -> dict[str, str]:
    found = {}
    for number, line in _lines(path):
        try:
            values = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not JSON ({error}); each line is one object") from error
        name, caption = (values.get(key) if isinstance(values, dict) else None for key in ("file", "caption"))
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ConfigError(f'{path}, line {number}: {{"file": "clip.mp4", "caption": "…"}} is needed, both as text')
        if len(caption) > MAX_BYTES:
            raise ConfigError(f"{path}, line {number}: longer than {MAX_BYTES} letters; a caption is a line of text")
        name = resolve(name)
        if name in found:
            raise ConfigError(f"{path}, line {number}: {name!r} has a caption already; keep one of the two")
        found[name] = _tidy(caption)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers; only line feeds and returns end one, as in JSON."""
    text = _text(path, MAX_LIST, "split the folder of clips")
    if text.count("\n") + text.count("\r") > 2 * MAX_LINES:
        raise ConfigError(f"{path}: more than {MAX_LINES} lines; split the folder of clips")
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line


def _text(path: Path, limit: int, way_out: str) -> str:
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit + 1)
        if len(data) > limit:
            raise ConfigError(f"{path}: longer than {limit} bytes; {way_out}")
        return decode_text(data)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _tidy(text: str) -> str:
    return " ".join(text.split())
