"""The one place that opens files for writing: a save is whole or absent, and what was there before survives.

Every output is written to a temporary neighbour of its target, synced, and renamed. A failure, a full disk or a kill
at any moment leaves the old file or the new one, never a piece. Leftovers of killed writers are swept by name and age.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from .safetensors import safetensors_chunks

STALE_SECONDS = 6 * 3600.0
MAX_COUNTER = 100_000
_TEMP_NAME = re.compile(r"\.motionblocks-\d+-[0-9a-f]{8}\.tmp")
_NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


@dataclass
class NewOutput:
    """An output under way: write to `temp`; after the block `path` is the name it got."""

    temp: Path
    path: Path


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `target`; when the block ends well it takes the target's place in one step.

    An existing file keeps its mode, a new one gets the process's umask; a symlink is followed and kept. When the block
    or the save fails the old file is byte for byte what it was. Raises CheckpointError with path and reason.
    """
    final = Path(os.path.realpath(target) if os.path.islink(target) else os.path.abspath(target))
    if os.path.isdir(final):
        raise CheckpointError(f"cannot write {final}: it is a folder; give the name of a file")
    with _reasons(final), _staged(final) as temp:
        mode = _mode_of(final)
        yield temp
        _settle(temp, mode)
        os.replace(temp, final)
        _sync_folder(final.parent)


@contextmanager
def new_output(target: str | os.PathLike, *, folder: bool = False) -> Iterator[NewOutput]:
    """Like `atomic_path`, but never takes an existing name: `clip.mp4`, then `clip_2.mp4`, `clip_3.mp4`, ….

    folder: the temporary path is an empty folder to fill. Raises CheckpointError with path and reason.
    """
    final = Path(os.path.abspath(target))
    with _reasons(final), _staged(final, folder=folder) as temp:
        output = NewOutput(temp, final)
        yield output
        for file in sorted(temp.iterdir()) if folder else [temp]:
            _settle(file, None)
        output.path = _publish_new(temp, final, _claim_folder if folder else _claim_file)
        _sync_folder(final.parent)


@contextmanager
def replaced_folder(target: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; when the block ends well it becomes `target` in one rename.

    A folder that is there already gives way first. Raises CheckpointError with path and reason.
    """
    final = Path(os.path.abspath(target))
    with _reasons(final), _staged(final, folder=True) as temp:
        yield temp
        for file in sorted(temp.iterdir()):
            _settle(file, None)
        _sync_folder(temp)
        discard_folder(final)
        os.rename(temp, final)
        _sync_folder(final.parent)


def discard_folder(target: str | os.PathLike) -> None:
    """Remove a folder that we made. It loses its name first, so that a kill half-way leaves no half folder under it."""
    final = Path(os.path.abspath(target))
    with contextlib.suppress(FileNotFoundError):
        doomed = _temp_beside(final)
        os.rename(final, doomed)
        _discard(doomed)


@dataclass
class HeldFile:
    """A lock file. before: what its last holder left in it; free: nobody alive holds it; write() takes it over."""

    handle: int
    path: Path
    before: str
    free: bool
    taken: bool = False

    def write(self, text: str) -> None:
        """Take the file over and say in it who we are."""
        self.taken = True
        with _reasons(self.path):
            os.ftruncate(self.handle, 0)
            os.lseek(self.handle, 0, os.SEEK_SET)
            os.write(self.handle, text.encode("utf-8"))
            os.fsync(self.handle)


@contextmanager
def held_file(target: str | os.PathLike) -> Iterator[HeldFile]:
    """Open a lock file and ask the system for it; the system frees it when its holder dies, however it dies.

    After the block the file is gone again if `write` was called, else as it was. Raises CheckpointError.
    """
    path = Path(os.path.abspath(target))
    with _reasons(path):
        handle, free = _open_locked(path)
    held = None
    try:
        with _reasons(path):
            held = HeldFile(handle, path, os.read(handle, 4096).decode("utf-8", "replace"), free)
        yield held
    finally:
        with contextlib.suppress(OSError):
            if held and (held.taken or (held.free and not held.before)):
                os.unlink(path)
        os.close(handle)


def _open_locked(path: Path) -> tuple[int, bool]:
    """Open the file and lock it; once more when its last holder removed it between the two."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        free = _lock(handle)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, free
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether we got the system's exclusive lock on the file."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 2**30, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def write_chunks(target: str | os.PathLike, chunks: Iterable[bytes]) -> None:
    """Write bytes one after the other, whole or not at all. Raises CheckpointError."""
    with atomic_path(target) as temp, open(temp, "wb") as handle:
        for chunk in chunks:
            handle.write(chunk)


def write_json(target: str | os.PathLike, value) -> None:
    """Write plain JSON (no NaN) with a final newline. Raises CheckpointError; ValueError for what is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_chunks(target, [text.encode("utf-8")])


def write_safetensors(
    target: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *,
    on_bytes: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Write a safetensors file. Tensors are copied to the CPU one at a time. Raises CheckpointError, ConfigError.

    on_bytes: told the size of the header and of each tensor before it is written; what it raises ends the write.
    """
    chunks = safetensors_chunks(tensors, metadata or {})
    write_chunks(target, chunks if on_bytes is None else _counted(chunks, on_bytes))


def _counted(chunks: Iterable[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def make_folder(target: str | os.PathLike) -> Path:
    """Make a folder, and those above it that are missing; one that is there already stays. Raises CheckpointError."""
    folder = Path(os.path.abspath(target))
    missing = [folder, *folder.parents][: next(i for i, at in enumerate((folder, *folder.parents)) if at.is_dir())]
    with _reasons(folder):
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way", str(folder))
    return folder


def try_writing(folder: str | os.PathLike) -> None:
    """Write and remove a small file, so that a refusal comes now. Raises CheckpointError with folder and reason."""
    target = Path(os.path.abspath(folder)) / "trial"
    with _reasons(target.parent), _staged(target) as temp, open(temp, "wb") as handle:
        handle.write(bytes(4096))


def sweep_stale(folder: Path, *, older_than: float = STALE_SECONDS) -> int:
    """Remove what killed writers of ours left in `folder`; returns how many. Nothing else is ever touched."""
    removed, now = 0, time.time()
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if not _TEMP_NAME.fullmatch(entry.name):
                continue
            if now - entry.stat(follow_symlinks=False).st_mtime > older_than:
                _discard(Path(entry.path))
                removed += 1
    return removed


@contextmanager
def _staged(final: Path, *, folder: bool = False) -> Iterator[Path]:
    """Make an empty temporary file or folder beside `final`; remove it when the block fails."""
    try:
        os.stat(final.parent)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"cannot write {final}: the folder {final.parent} does not exist; create it first"
        raise CheckpointError(message) from error
    sweep_stale(final.parent)
    temp = _temp_beside(final)
    try:
        if folder:
            os.mkdir(temp)
        else:
            os.close(os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temp
    finally:
        _discard(temp)


def _temp_beside(final: Path) -> Path:
    return final.parent / f".motionblocks-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextmanager
def _reasons(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"cannot write {final}: {reason}; nothing that was there has changed; "
            "free some space, check the permissions or choose another folder"
        ) from error


def _mode_of(final: Path) -> int | None:
    """Permission bits of the file about to be replaced, None when there is none."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(os.stat(final).st_mode)
    return None


def _settle(file: Path, mode: int | None) -> None:
    """Set the mode and force the bytes to the disk."""
    if mode is not None:
        os.chmod(file, mode)
    handle = os.open(file, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. The file is in place already, so a refusal here is not a failed save."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish_new(temp: Path, final: Path, claim: Callable[[Path, Path], None]) -> Path:
    for count in range(1, MAX_COUNTER):
        path = final if count == 1 else final.with_name(f"{final.stem}_{count}{final.suffix}")
        with contextlib.suppress(FileExistsError):
            claim(temp, path)
            return path
    raise CheckpointError(f"{final} and {MAX_COUNTER - 1} numbered names after it exist; choose another name")


def _claim_file(temp: Path, path: Path) -> None:
    """Give the finished file its name in one step that fails when the name is taken."""
    try:
        os.link(temp, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # no hard links on this disk
        os.replace(temp, path)


def _claim_folder(temp: Path, path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "name is taken", str(path))
    os.rename(temp, path)


def _discard(temp: Path) -> None:
    """Remove a temporary file or folder of ours; one that is gone or cannot be removed is left to the sweep."""
    with contextlib.suppress(OSError):
        if temp.is_dir() and not temp.is_symlink():
            shutil.rmtree(temp, ignore_errors=True)
        else:
            os.unlink(temp)
