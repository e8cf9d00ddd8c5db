"""JSON that others wrote: how deep and how large it may be is settled before anybody walks through it."""

import json
import re

MAX_DEPTH = 64
MAX_PARTS = 1_200_000  # commas and opening brackets; the header of 100,000 tensors has 1.1 million
MAX_NAMES = 450_000  # colons, of which the same header has 400,000


_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # also one that nothing closes, so that time stays linear


def parse_json(text: bytes | str, *, allow_constants: bool = False, max_names: int = MAX_NAMES,
               max_parts: int = MAX_PARTS):  # fmt: skip
    """Plain values of a JSON text, UTF-8 when bytes, with or without a byte order mark.

    allow_constants: NaN and Infinity, which are not JSON, may occur. Raises ValueError, with the reason in a few words,
    for what is no JSON, names something twice, nests deeper than 64 levels, has too many parts or half characters.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if _has_too_many(text, max_names, max_parts) and _has_too_many(_STRING.sub("", text), max_names, max_parts):
        raise ValueError(f"more than {max_parts} parts or {max_names} names")
    try:
        values = (_LAX if allow_constants else _STRICT).decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _check_depth(values)
    if "\\ud" in text or "\\uD" in text:
        check_letters(values)
    return values


def check_letters(values) -> None:
    """Refuse texts that no file and no message can hold. Raises ValueError for half a character, as in "\\ud800"."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(f"half a character in {ascii(value[:80])}") from error
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value


def without_repeats(pairs: list[tuple]) -> dict:
    """Names and values as a dict; raises ValueError for a name that appears twice."""
    values = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the name {ascii(str(name)[:80])} appears twice")
        values[name] = value
    return values


def _has_too_many(text: str, max_names: int, max_parts: int) -> bool:
    return sum(text.count(mark) for mark in ",[{") > max_parts or text.count(":") > max_names


def _refuse_constant(text: str):
    raise ValueError(f"the number {text} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=without_repeats, parse_constant=_refuse_constant)
_LAX = json.JSONDecoder(object_pairs_hook=without_repeats)


def _check_depth(values) -> None:
    """Walk level by level, since code that goes through deep values, `str` included, runs out of stack."""
    level = [values]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for value in level if isinstance(value, (dict, list))
                 for inner in (value.values() if isinstance(value, dict) else value)]  # fmt: skip
        if not level:
            return
    raise ValueError("nested too deep")
