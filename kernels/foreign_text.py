"""Foreign text (captions, file names, metadata, widgets) made safe to show: in the page, on a console, in exceptions.

Only what is shown comes here. What goes into a file or names one stays as it is.
"""

import logging
import re
import unicodedata

LIMIT, LONG = 4000, 20_000  # characters of one text, and of a report of many lines
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls; bidi and zero width; halves of characters; line, paragraph ends
_LINE_BREAK = re.compile(r"\r\n?|\n")
_FOLD = re.compile(r"[\t ]*[\r\n\t]+[\t ]*")
_HALF = re.compile("[\ud800-\udfff]")
_LOOKALIKES = str.maketrans("<>", "‹›")
_ENTITY, _LINK = re.compile(r"&(?=#?\w+;)"), re.compile(r"\[(?=\[)")  # &lt; and [[label|address]]


def safe_text(text: str, *, limit: int = LIMIT, lines: bool = False, markup: bool = True) -> str:
    r"""Text that reads the same and does nothing else, whatever it held: up to `limit` characters, cut in the middle.

    Controls, bidi and zero-width characters, line separators and lone surrogates are written out (\u202e). Line breaks
    are kept with `lines`, else they become spaces, and tabs with them. Without `markup`, < > and what else a page may
    read as HTML or a link gives way to look-alikes. Safe text comes back unchanged, so passing twice does no harm.
    """
    text = _cut(text, limit)
    text = _LINE_BREAK.sub("\n", text) if lines else _FOLD.sub(" ", text)
    if not text.isprintable():
        text = "".join(letter if _is_plain(letter) else _written_out(letter) for letter in text)
    return _cut(text if markup else _without_markup(text), limit)


def has_half_character(text: str) -> bool:
    """Whether a text holds a surrogate without its other half: no file, message or encoder can take it."""
    return _HALF.search(text) is not None


def safe_logger(name: str) -> logging.Logger:
    """The logger of this name, which writes every record as safe text on one line."""
    logger = logging.getLogger(name)
    logger.addFilter(_make_safe)
    return logger


def _make_safe(record: logging.LogRecord) -> bool:
    record.msg, record.args = safe_text(record.getMessage()), None
    return True


def _without_markup(text: str) -> str:
    return _LINK.sub("[ ", _ENTITY.sub("＆", text.translate(_LOOKALIKES)))


def _is_plain(letter: str) -> bool:
    return letter == "\n" or unicodedata.category(letter) not in _HIDDEN


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    kept = limit - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
