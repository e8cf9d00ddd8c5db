"""What the shell prints: safe text, on any console. The one file of the pack that prints."""

import sys
from io import TextIOWrapper
from typing import TextIO

from ...kernels.foreign_text import LONG, safe_text

PROGRAM = "motionblocks"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text, foreign parts and all, made safe; stream: stdout unless told."""
    print(for_console(text), file=stream)


def for_console(text: str) -> str:
    """A text as `say` prints it."""
    return safe_text(text, limit=LONG, lines=True)


def take_any_letter() -> None:
    r"""Let a console that is not UTF-8 show what it cannot write as \U0001f99d, in place of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
