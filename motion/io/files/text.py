"""Text that people typed: UTF-8 or UTF-16, as editors save it, with or without a byte order mark."""

import codecs

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode_text(data: bytes) -> str:
    """The text of a whole file, without a byte order mark.

    UTF-16 without a mark is told by zero bytes on one side of its pairs, as most letters of the western world have.
    Raises ValueError for what is neither UTF-8 nor UTF-16, and for text with a zero character in it.
    """
    for mark, coding in _MARKS:
        if data.startswith(mark):
            return _checked(data[len(mark) :].decode(coding))
    first, second = data[::2].count(0), data[1::2].count(0)
    if not first and second > len(data) // 4:
        return data.decode("utf-16-le")
    if not second and first > len(data) // 4:
        return data.decode("utf-16-be")
    return _checked(data.decode("utf-8"))


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("a zero character, which no text has")
    return text
