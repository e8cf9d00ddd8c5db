"""Rules for the names of outputs, the same on every system, so that a folder can move between machines."""

import os
from pathlib import Path

from ..errors import ConfigError
from .file_signature import shown

MAX_NAME_BYTES = 240  # file systems take 255; the rest is room for a counter
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}


def check_output_name(target: str | os.PathLike) -> Path:
    """Return `target` as a path when its last part can be a file name everywhere.

    Folders in front of the name are the caller's own business (`../clips/a.mp4` is fine); the name itself may hold
    any letters, emoji and inner spaces. Raises ConfigError for an empty name, `.`, `..`, control characters, a dot or
    space at either end that some systems drop, a name over 240 bytes, or one that Windows reserves.
    """
    text = os.fspath(target)
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ConfigError(f"output {shown(text)} holds a control character; use letters, digits and - or _")
    path = Path(text)
    name = path.name
    if name in ("", ".", ".."):
        raise ConfigError(f"output {shown(text)} names no file; add one, such as out.mp4")
    if name != name.strip(" ") or name.endswith("."):
        raise ConfigError(f"output name {shown(name)} begins or ends with a space or ends with a dot; drop it")
    size = len(os.fsencode(name))
    if size > MAX_NAME_BYTES:
        raise ConfigError(f"output name {shown(name, 40)} is {size} bytes long; up to {MAX_NAME_BYTES} go; shorten it")
    if name.split(".")[0].lower() in _RESERVED:
        raise ConfigError(f"output name {shown(name)} is reserved on Windows; choose another")
    return path
