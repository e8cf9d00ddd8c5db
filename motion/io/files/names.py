"""Rules for the names of outputs, the same on every system, so that a folder can move between machines."""

import os
from pathlib import Path

from ...errors import ConfigError
from .kind import shown

MAX_NAME_BYTES = 240  # file systems take 255; the rest is room for a counter
FORBIDDEN = '<>:"|?*\\'  # in names on Windows; there a colon would write into a stream of another file
_DIGITS = "0123456789¹²³"  # Windows takes superscripts for digits here
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$",
             *(f"{port}{digit}" for port in ("com", "lpt") for digit in _DIGITS)}  # fmt: skip


def check_output_name(target: str | os.PathLike) -> Path:
    """Return `target` as a path when its last part can be a file name everywhere.

    Folders in front of the name are the caller's own business (`../clips/a.mp4` is fine); the name itself may hold
    any letters, emoji and inner spaces. Raises ConfigError for an empty name, `.`, `..`, control characters, half
    characters, what Windows forbids or reserves, a dot or space at either end that some systems drop, and a name over
    240 bytes.
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
    _check_letters(name)
    if name.split(".")[0].rstrip(" ").lower() in _RESERVED:
        raise ConfigError(f"output name {shown(name)} is reserved on Windows; choose another")
    return path


def _check_letters(name: str) -> None:
    """Refuse letters that some system cannot store, and more of them than fit."""
    forbidden = next((letter for letter in name if letter in FORBIDDEN), "")
    if forbidden:
        raise ConfigError(f"output name {shown(name)} holds {forbidden}, which Windows forbids; use - or _ instead")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ConfigError(f"output name {shown(name)} holds half a character; type it again") from error
    if size > MAX_NAME_BYTES:
        raise ConfigError(f"output name {shown(name, 40)} is {size} bytes long; up to {MAX_NAME_BYTES} go; shorten it")
