"""Encoded clips on disk, one file an entry, each verified by size and sha256 before it is used.

An entry's name is the fingerprint of everything that went into it, so an entry of another VAE, size or window is simply
another name. The list of finished entries (`manifest.json`) is written as the work goes on; what is not in the list,
or not whole, is made again. Nothing here deletes a file.
"""

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...foreign_json import parse_json
from ..files.atomic import make_folder, write_json, write_safetensors
from ..files.checksum import file_sha256
from ..files.safetensors import read_safetensors

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
MAX_LIST = 40 * 2**20  # bytes of the list: some 200,000 entries
MAX_NAMES = 700_000
WRITE_EVERY_SECONDS = 1.0  # a killed build loses at most this much finished work
_KEY = re.compile(r"[0-9a-f]{16,64}")


class LatentCache:
    """A folder of entries. Use as a context manager: the list of entries is written at the end, whatever happens."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = make_folder(folder)
        self.entries = _read_manifest(self.folder / MANIFEST)
        self.num_damaged = 0  # entries that were listed but are not whole
        self._new: dict[str, dict] = {}
        self._written = time.monotonic()

    def __enter__(self) -> "LatentCache":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.write_list()
        else:
            with contextlib.suppress(CheckpointError):  # the first error is the one to see
                self.write_list()

    def path(self, key: str) -> Path:
        """Where an entry lies. Raises ConfigError for what is not a fingerprint."""
        if not _KEY.fullmatch(key):
            raise ConfigError(f"cache key {key[:40]!r} is not a fingerprint of 16 to 64 hexadecimal digits")
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors and metadata of a finished entry; None when it is missing, cut, changed or not readable."""
        record, path = self.entries.get(key), self.path(key)
        if record is None:
            return None
        try:
            if os.path.getsize(path) == record["size"] and file_sha256(path) == record["sha256"]:
                return read_safetensors(path)
        except (OSError, CheckpointError):
            pass
        self.num_damaged += 1
        del self.entries[key]
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write an entry whole and list it. Raises CheckpointError when the disk refuses."""
        path = self.path(key)
        write_safetensors(path, tensors, metadata)
        self.entries[key] = self._new[key] = {"size": os.path.getsize(path), "sha256": file_sha256(path)}
        if time.monotonic() - self._written > WRITE_EVERY_SECONDS:
            self.write_list()

    def write_list(self) -> None:
        """Write the list, together with what another process listed meanwhile. Raises CheckpointError."""
        if self._new:
            found = {**_read_manifest(self.folder / MANIFEST), **self._new}
            write_json(self.folder / MANIFEST, {"format_version": FORMAT_VERSION, "entries": found})
            self._new = {}
        self._written = time.monotonic()



def _read_manifest(path: Path) -> dict[str, dict]:
    """Listed entries; empty when there is no list or it is damaged.

    Raises CheckpointError for a newer format and for a list too long to be read, which is not to be lost in silence.
    """
    try:
        with open(path, "rb") as handle:
            text = handle.read(MAX_LIST + 1)
        if len(text) > MAX_LIST:
            raise CheckpointError(f"{path}: longer than {MAX_LIST} bytes; choose another cache folder")
        values = parse_json(text, max_names=MAX_NAMES)
    except CheckpointError:
        raise
    except (OSError, ValueError):
        return {}
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: a cache of format {version}, this pack reads up to {FORMAT_VERSION}; update the pack or choose "
            "another cache folder"
        )
    entries = values.get("entries") if version == FORMAT_VERSION else None
    if not isinstance(entries, dict):
        return {}
    return {key: record for key, record in entries.items() if _KEY.fullmatch(key) and _is_record(record)}


def _is_record(record) -> bool:
    return isinstance(record, dict) and type(record.get("size")) is int and isinstance(record.get("sha256"), str)
