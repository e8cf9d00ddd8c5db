"""Training states on disk: whole or absent, verified by size and sha256, never pickled, never by two trainers at once.

A state is a folder `state-00000120`: safetensors files and `state.json`, written last, with step, settings, the size
and sha256 of every file, and a sha256 of all this. What lacks any of it is not a state; only states of 0.1, which have
no sha256 of the record itself, are read without.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ...foreign_json import parse_json
from ..files.atomic import (
    discard_folder,
    held_file,
    make_folder,
    replaced_folder,
    sweep_stale,
    write_chunks,
    write_json,
)
from ..files.checksum import file_sha256
from ..files.kind import shown
from ..files.safetensors import read_header, read_safetensors, safetensors_chunks

FORMAT_VERSION = 1
RECORD = "state.json"
CHECKSUM = "sha256"  # entry of the record: of all its other entries
LOCK = "training.lock"
MAX_RECORD = 32 * 2**20
_NAME = re.compile(r"state-(\d{8,12})")


@dataclass(frozen=True)
class TrainingState:
    """A state that has passed every check. tensors: by file ("weights", "optimizer", "ema", "log"), then by name."""

    path: Path
    record: dict
    tensors: dict[str, dict[str, Tensor]]

    @property
    def step(self) -> int:
        """Steps that were finished when it was saved."""
        return self.record["step"]


def state_path(folder: Path, step: int) -> Path:
    """Where the state of a step lies; the name comes from the step, never from the clock."""
    return Path(folder) / f"state-{step:08d}"


def save_state(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], record: Mapping) -> Path:
    """Save a state, whole or not at all, and look at it again. Raises CheckpointError; what was there stays.

    tensors: by file name without suffix. record: plain JSON values beside the step.
    """
    target = state_path(folder, step)
    with replaced_folder(target) as stage:
        files = {f"{name}.safetensors": _write_hashed(stage / f"{name}.safetensors", part)
                 for name, part in tensors.items()}  # fmt: skip
        own = {"format_version": FORMAT_VERSION, "step": step, **record, "files": files}
        write_json(stage / RECORD, {**own, CHECKSUM: _record_sha256(own)})
        check_state(stage)
    check_state(target)
    return target


def _write_hashed(path: Path, tensors: Mapping[str, Tensor]) -> dict:
    digest, size = hashlib.sha256(), 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for chunk in safetensors_chunks(tensors, {}):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    write_chunks(path, counted())
    return {"size": size, "sha256": digest.hexdigest()}


def list_states(folder: Path) -> list[Path]:
    """Folders named like states, newest step first; whether they are whole is not looked at."""
    try:
        found = [(int(match[1]), entry) for entry in Path(folder).iterdir() if (match := _NAME.fullmatch(entry.name))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [entry for _, entry in sorted(found, reverse=True)]


def check_state(path: Path) -> dict:
    """Record of a state whose files are all there in their sizes. Raises CheckpointError."""
    record = _read_record(path)
    for name, entry in record["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if file.stat().st_size != entry["size"]:
            raise CheckpointError(f"{path}: {name} has {file.stat().st_size} bytes, {entry['size']} are needed")
        read_header(file)
    return record


def read_state(path: str | os.PathLike) -> TrainingState:
    """Read a state, every byte compared with its sha256. Raises CheckpointError."""
    path = Path(path)
    record = check_state(path)
    tensors = {}
    for name, entry in record["files"].items():
        if file_sha256(path / name) != entry["sha256"]:
            raise CheckpointError(f"{path}: {name} is damaged: its sha256 is not the one that was saved")
        tensors[name.removesuffix(".safetensors")] = read_safetensors(path / name)[0]
    return TrainingState(path, record, tensors)


def newest_state(folder: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest whole state of a folder, and why newer ones were passed over."""
    passed = []
    for path in list_states(folder):
        try:
            return read_state(path), passed
        except CheckpointError as error:
            passed.append(str(error))
    return None, passed


def prune_states(folder: Path, keep: int) -> list[Path]:
    """Remove all whole states but the newest `keep`; returns those removed. Damaged ones do not count."""
    whole = [path for path in list_states(folder) if _is_whole(path)]
    for path in whole[keep:]:
        discard_folder(path)
    return whole[keep:]


@contextmanager
def training_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Make a folder ours alone for a training, swept of what killed trainings left in it.

    Raises CheckpointError when it cannot be written, or when another trainer works in it.
    """
    path = make_folder(folder)
    here = {"pid": os.getpid(), "host": platform.node()}
    with held_file(path / LOCK) as lock:
        holder = _holder(lock.before)
        if not lock.free:
            raise CheckpointError(
                f"{path} is in use by a training{_who(holder)}; wait until it ends, cancel it, or choose another folder"
            )
        if lock.before and holder.get("host") != here["host"]:
            raise CheckpointError(
                f"{path} was left locked by a training{_who(holder)}, which cannot be asked from here "
                f"({here['host']}); when you know that it is dead, delete {path / LOCK} and start again"
            )
        lock.write(json.dumps(here))
        sweep_stale(path, older_than=0)
        yield path


def _who(holder: dict) -> str:
    return f" (process {holder['pid']} on {holder['host']})" if {"pid", "host"} <= set(holder) else ""


def _holder(text: str) -> dict:
    try:
        values = parse_json(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _is_whole(path: Path) -> bool:
    try:
        check_state(path)
    except CheckpointError:
        return False
    return True


def _read_record(path: Path) -> dict:
    file = path / RECORD
    try:
        if file.stat().st_size > MAX_RECORD:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes; up to {MAX_RECORD} are read")
        values = parse_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: not a whole training state: no readable {RECORD}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({shown(str(error), 120)})") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int:
        raise CheckpointError(f"{file}: not the record of a training state")
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{file}: made by version {version}, this pack reads up to {FORMAT_VERSION}; update it")
    if not _has_shape(values):
        raise CheckpointError(f"{file}: step, files or settings are missing or malformed")
    if CHECKSUM in values and values[CHECKSUM] != _record_sha256(values):
        raise CheckpointError(f"{file}: edited or damaged since it was saved (another sha256); use an earlier state")
    return values


def _has_shape(record: dict) -> bool:
    files = record.get("files")
    if type(record.get("step")) is not int or record["step"] < 0 or not isinstance(files, dict):
        return False
    return all(
        re.fullmatch(r"[a-z_]{1,40}\.safetensors", name) and isinstance(entry, dict)
        and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
        for name, entry in files.items()
    )  # fmt: skip


def _record_sha256(record: Mapping) -> str:
    """Of the record's values, however they are laid out, without the checksum itself."""
    rest = {name: value for name, value in record.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode("ascii")).hexdigest()
