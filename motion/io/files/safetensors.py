"""Read and lay out safetensors files without trusting a byte of them. Loading never runs code.

Everything is judged by bytes, before memory is taken: header length, header text, names, types, shapes, offsets.
Data is read with plain reads, not a memory map, so a file that shrinks under us is an error and not a dead process.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...foreign_json import parse_json
from .kind import describe_bytes, shown

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 100_000
MAX_SIDE = 2**31 - 1
MAX_RANK = 16
MAX_NAME = 1024
AGAIN = "download or copy it again"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: dtype, shape, and first and last-plus-one byte counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A header that has passed every check against the size of its file."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return {name: entry.shape for name, entry in self.tensors.items()}


def read_header(path: str | os.PathLike, *, max_header: int = MAX_HEADER) -> SafetensorsHeader:
    """Read and check the header alone. Raises CheckpointError with file, value, need and way out."""
    path = Path(path)
    with _opened(path) as handle, _named(path):
        return _checked_header(handle, path, max_header)


def read_safetensors(
    path: str | os.PathLike, *, max_header: int = MAX_HEADER, check_finite: bool = True,
    on_bytes: Callable[[int], None] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:  # fmt: skip
    """Read every tensor into memory of its own, and the metadata as text.

    check_finite: scan float tensors for NaN and Inf. on_bytes: told the size of each tensor once it is read.
    Raises CheckpointError with file, value, need and way out.
    """
    path = Path(path)
    with _opened(path) as handle, _named(path):
        header = _checked_header(handle, path, max_header)
        tensors = {}
        for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].begin):
            tensors[name] = _read_tensor(handle, header.data_start, name, entry, path)
            if check_finite:
                check_values(name, tensors[name], path)
            if on_bytes is not None:
                on_bytes(entry.end - entry.begin)
    return {name: tensors[name] for name in header.tensors}, header.metadata


@contextmanager
def opened_tensors(path: str | os.PathLike) -> Iterator[tuple[SafetensorsHeader, Callable[[str], Tensor]]]:
    """The header of a file, and what reads one tensor by its name while the block lasts, in any order.

    Raises CheckpointError as `read_safetensors` does, then when a tensor is read.
    """
    path = Path(path)
    with _opened(path) as handle:
        with _named(path):
            header = _checked_header(handle, path, MAX_HEADER)

        def read(name: str) -> Tensor:
            with _named(path):
                tensor = _read_tensor(handle, header.data_start, name, header.tensors[name], path)
            check_values(name, tensor, path)
            return tensor

        yield header, read


def check_values(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse NaN and Inf. Raises CheckpointError naming the tensor."""
    if not tensor.is_floating_point():
        return
    for part in tensor.reshape(-1).split(2**24):
        finite = torch.isfinite(part.float() if part.element_size() == 1 else part)
        if not finite.all():
            raise CheckpointError(
                f"{path}: tensor {shown(name)} holds NaN or Inf (first at element {int((~finite).nonzero()[0])} of "
                f"{tensor.numel()}); the file is damaged or its training diverged; {AGAIN} or use an earlier one"
            )


def safetensors_chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The bytes of a safetensors file, a chunk a tensor; equal input gives equal bytes.

    Raises ConfigError for what the format cannot hold.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise ConfigError(f"tensor {shown(name)} ({tensor.dtype}, {tensor.layout}) cannot be saved")
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    yield from streamed_chunks(kinds, tensors.__getitem__, metadata)


def streamed_chunks(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> Iterator[bytes]:  # fmt: skip
    """As `safetensors_chunks`, of tensors that are asked for one by one as they are written.

    kinds: number type and shape of each by name, which `read` then keeps to. Raises ConfigError.
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"metadata entry {shown(str(key))} is not text; metadata holds text only")
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    header, position = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}, 0
    for name in order:
        dtype, shape = kinds[name]
        if dtype not in _CODES or name == "__metadata__":
            raise ConfigError(f"tensor {shown(name)} ({dtype}) cannot be saved")
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        tensor = read(name)
        assert (tensor.dtype, tuple(tensor.shape)) == kinds[name], name
        yield tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _opened(path: Path):
    """Open for reading. Raises CheckpointError for a missing, dangling, forbidden path or a folder."""
    if os.path.islink(path) and not os.path.exists(path):
        raise CheckpointError(f"{path}: a link to {os.readlink(path)}, which does not exist; restore it or {AGAIN}")
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: a folder; a .safetensors file is needed; choose the file inside it")
    try:
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{path}: cannot be opened ({reason}); check the name and the permissions") from error


class _named:
    """Turn read errors inside the block (a network drive that drops) into CheckpointError with the file's name."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError):
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror or error}); {AGAIN}") from error


def _checked_header(handle, path: Path, max_header: int) -> SafetensorsHeader:
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(512)
    if size < 10:
        raise CheckpointError(f"{path}: {describe_bytes(head, size)}; a safetensors file is needed; {AGAIN}")
    length = int.from_bytes(head[:8], "little")
    known = describe_bytes(head, size)
    if length > max_header or head[8:9] != b"{":
        seems = known or f"not a safetensors file (it asks for a header of {length} bytes, up to {max_header} are read)"
        raise CheckpointError(f"{path}: {seems}; a safetensors file is needed{_way_out(seems)}")
    if 8 + length > size:
        raise CheckpointError(
            f"{path}: cut off inside its header: {size} bytes found, the header alone asks for {8 + length}; {AGAIN}"
        )
    handle.seek(8)
    entries, metadata = _parse_header(handle.read(length), path)
    _check_layout(entries, size - 8 - length, size, 8 + length, path)
    return SafetensorsHeader(entries, metadata, 8 + length)


def _way_out(seems: str) -> str:
    if "GGUF" in seems:
        return "; get the same model as .safetensors"
    if "pickle" in seems:
        return (
            "; pickled weights can run code and are never opened here: `motionblocks convert` makes .safetensors of "
            "SANA, SANA-Video and MiraMo checkpoints, the tools of other models' authors of theirs"
        )
    return f"; {AGAIN}"


def _parse_header(text: bytes, path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    if text.count(b'"data_offsets"') > MAX_TENSORS:
        raise CheckpointError(f"{path}: its header lists more than {MAX_TENSORS} tensors; no model here needs as many")
    try:
        values = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its header is not usable ({shown(str(error), 120)}); {AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its header is not a JSON object; {AGAIN}")
    metadata = values.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not texts:
        raise CheckpointError(f"{path}: its metadata is not text to text; save the file again with text only")
    return {name: _entry(name, value, path) for name, value in values.items()}, metadata


def _entry(name: str, value, path: Path) -> TensorEntry:
    """One tensor's record: type, shape and offsets that fit one another."""
    if len(name) > MAX_NAME or not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: the record of tensor {shown(name)} is malformed; {AGAIN}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has type {shown(str(dtype))}; readable are {', '.join(DTYPES)}"
        )
    if not _counts(shape) or len(shape) > MAX_RANK or max(shape, default=0) > MAX_SIDE:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has the shape {shown(str(shape))}; up to {MAX_RANK} sides of 0 to "
            f"{MAX_SIDE} are possible; {AGAIN}"
        )
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{path}: tensor {shown(name)} lies at {shown(str(offsets))}; {AGAIN}")
    need, found = math.prod(shape) * DTYPES[dtype].itemsize, offsets[1] - offsets[0]
    if need != found:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} of {shape} {dtype} needs {need} bytes, its record gives {found}; {AGAIN}"
        )
    return TensorEntry(DTYPES[dtype], tuple(shape), *offsets)


def _counts(values) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(entries: dict[str, TensorEntry], found: int, size: int, start: int, path: Path) -> None:
    """Tensors must fill the data part exactly: no hole, no overlap, nothing missing, nothing after."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = "a hole before" if entry.begin > position else "an overlap at"
            place = f"byte {entry.begin}, expected {position}"
            raise CheckpointError(f"{path}: {what} tensor {shown(name)} ({place}); {AGAIN}")
        position = entry.end
    if position > found:
        raise CheckpointError(
            f"{path}: cut off: {size} bytes found, its header asks for {start + position}; {AGAIN}"
        )
    if position < found:
        raise CheckpointError(f"{path}: {found - position} bytes follow after the last tensor; {AGAIN}")


def _read_tensor(handle, start: int, name: str, entry: TensorEntry, path: Path) -> Tensor:
    raw = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
    handle.seek(start + entry.begin)
    target, done = memoryview(raw.numpy()), 0
    while done < len(target):
        count = handle.readinto(target[done:])
        if not count:
            raise CheckpointError(f"{path}: became shorter while it was read, at tensor {shown(name)}; try again")
        done += count
    if entry.dtype is torch.bool and bool((raw > 1).any()):
        raise CheckpointError(f"{path}: tensor {shown(name)} is BOOL but holds other bytes than 0 and 1; {AGAIN}")
    return raw.view(entry.dtype).reshape(entry.shape)
