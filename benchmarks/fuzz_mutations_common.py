"""Ways to spoil a file, each decided by a seed: flips, cuts, splices, repeats, extreme numbers, marks of syntax."""

import copy
import json
import random
import struct
import zlib

EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7, b"\xff" * 7 + b"\x7f",
            b"\1" + b"\0" * 7)  # fmt: skip
MARKS = (
    b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b"\n", b"- ", b"(", b")", b"&a ", b"*a ", b"<<: ", b"!!int ",
    b"\0", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"9" * 30,
    b"9" * 5000, b"0.5", b"true", b"[[]]", b"..", b"/", b"\xe2\x80\xae", b"\r", b"%s",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, "", "x", "../x", "\ud800", "\0",
    "9" * 5000, [], {}, [[]], [1, "a"], {"a": {}}, [[[[[[]]]]]], "[" * 200,
)  # fmt: skip


def spoiled(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four changes. other: a file of the same kind to splice with."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(_CHANGES)(data, other, chance)[:2**21]
    return data


def _flip(data, other, chance):
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8)) if made else 0):
        made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def _cut(data, other, chance):
    return data[: chance.randint(0, len(data))]


def _gap(data, other, chance):
    start = chance.randint(0, len(data))
    return data[:start] + data[start + chance.choice((1, 2, 4, 8, 64, 1024)) :]


def _splice(data, other, chance):
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def _repeat(data, other, chance):
    start = chance.randint(0, len(data))
    piece = data[start : start + chance.choice((1, 1, 2, 8, 50))]
    return data[:start] + piece * chance.choice((2, 10, 1000, 20_000)) + data[start:]


def _extreme(data, other, chance):
    start, length = chance.randint(0, len(data)), chance.choice((1, 2, 4, 8))
    return data[:start] + chance.choice(EXTREMES)[:length] + data[start + length :]


def _noise(data, other, chance):
    start = chance.randint(0, len(data))
    return data[:start] + chance.randbytes(chance.choice((1, 4, 30))) + data[start + chance.choice((0, 4)) :]


def _mark(data, other, chance):
    start, mark = chance.randint(0, len(data)), chance.choice(MARKS) * chance.choice((1, 1, 1, 2, 3000))
    return data[:start] + mark + data[start + chance.choice((0, 0, 1, 5)) :]


_CHANGES = (_flip, _flip, _cut, _gap, _splice, _repeat, _extreme, _extreme, _noise, _mark, _mark)


def spoiled_json(text: bytes, chance: random.Random) -> bytes:
    """JSON with one to three of its values, or names, replaced by others."""
    values = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        place = values
        while isinstance(place, (dict, list)) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or chance.random() < 0.3:
                break
            place = place[key]
        else:
            continue
        if isinstance(place, dict) and chance.random() < 0.2:
            place[chance.choice(("", "x", "\0", "a" * 2000))] = place.pop(key)
        else:
            place[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(values, ensure_ascii=True).encode()


def spoiled_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file with a header of other values, whose length is right again."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    inner = [name for name, text in header.get("__metadata__", {}).items() if text.startswith(("{", "["))]
    if inner and chance.random() < 0.6:
        name = chance.choice(inner)
        header["__metadata__"][name] = spoiled_json(header["__metadata__"][name].encode(), chance).decode()
        text = json.dumps(header).encode()
    else:
        text = spoiled_json(data[8 : 8 + length], chance)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have right lengths and sums again, as far as they can be told."""
    made, at = data[:8], 8
    while at + 12 <= len(data):
        length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        made += struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        at += 12 + length
    return made
