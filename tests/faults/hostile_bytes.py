"""Makers of hostile and broken weight files, a few bytes each, built in the test and never stored."""

import json
import struct


def safetensors_bytes(header, data=b"", length=None):
    """A file with this header (dict or bytes), this data, and the header length it should have unless given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def record(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def good():
    """Two float32 tensors, a (2, 2) of 0..3 and b (1,) of 1."""
    header = {"a": record((2, 2), 0, 16), "b": record((1,), 16, 20)}
    return safetensors_bytes(header, struct.pack("<5f", 0, 1, 2, 3, 1))


def cut_in_data():
    return good()[:-6]


def cut_in_header():
    return good()[:40]


def trailing():
    return good() + b"xyz"


def git_lfs_pointer():
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 2980000000\n"


def html_page():
    return b"\n<!DOCTYPE html><html><head><title>403</title></head><body>log in</body></html>"


def pickle_bytes():
    """A protocol-2 pickle that would call os.system; only ever looked at."""
    return b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."


def zip_pickle():
    return b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + pickle_bytes()


def gguf():
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"\0" * 64


def header_bomb(names=150_000):
    """A small file whose header lists very many empty tensors."""
    rows = ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(names))
    return safetensors_bytes(("{" + rows + "}").encode())


def long_header_claim():
    """Claims a header of 90 MB that starts like one."""
    return safetensors_bytes(b'{"a":' + b" " * 64, length=90 * 2**20)


def deep_header(depth=100_000):
    return safetensors_bytes(b'{"__metadata__":' + b"[" * depth)


def one_record(entry, data=b""):
    return safetensors_bytes({"a": entry}, data)


def duplicate_keys():
    row = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return safetensors_bytes(b'{"a":' + row + b',"a":' + row + b"}", b"\0" * 4)


def hole():
    return safetensors_bytes({"a": record((1,), 0, 4), "b": record((1,), 8, 12)}, b"\0" * 12)


def overlap():
    return safetensors_bytes({"a": record((2,), 0, 8), "b": record((1,), 4, 8)}, b"\0" * 8)


def metadata_number():
    return safetensors_bytes({"__metadata__": {"step": 3}, "a": record((1,), 0, 4)}, b"\0" * 4)


def with_value(value):
    """One float32 tensor `blocks.0.weight` of three whose second value is `value`."""
    return safetensors_bytes({"blocks.0.weight": record((3,), 0, 12)}, struct.pack("<3f", 1, value, 2))
