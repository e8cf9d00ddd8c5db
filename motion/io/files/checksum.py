"""The sha256 of a file, block by block."""

import hashlib
import os

BLOCK = 2**20


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal sha256 of a file's bytes. OSError passes."""
    state = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            state.update(block)
    return state.hexdigest()
