"""The tensors of a torch checkpoint (.pth, .pt), for conversion: the one file that calls torch.load.

No node imports it. A checkpoint is a zip archive of a pickle and of raw numbers (before torch 1.6 it was not:
torch_legacy.py reads those without torch.load). Before torch sees it, the archive is
held to a form that every reader reads alike (torch_archive.py), and the pickle is walked through without being run: it
may name tensors, their storages, and plain containers and values (torch_pickle.py). torch then reads it with
weights_only, from a memory map.
"""

import os
import pickletools  # for the name of one exception; nothing in it unpickles
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..files.kind import describe_bytes, shown
from ..files.safetensors import AGAIN, DTYPES
from .torch_archive import NEED, Archive, read_archive
from .torch_legacy import MAGIC, read_legacy
from .torch_pickle import NotPlain, check_pickle

# What torch.load raises of a bad pickle. Only this class is taken: pickle itself is imported nowhere in the pack.
PickleError = pickletools.pickle.PickleError
HALVES = ("ema", "state_dict", "state_dict_ema", "model")  # MiraMo is read as its ema, SANA as its authors read it


@dataclass(frozen=True)
class TorchCheckpoint:
    """Weights of a checkpoint, mapped from the file. half: the entry they lie in, "" for the whole file.

    left_out: names in the file that are not among the weights, such as an optimizer's state.
    """

    path: Path
    tensors: dict[str, Tensor]
    half: str
    left_out: tuple[str, ...]


def open_checkpoint(path: str | os.PathLike) -> TorchCheckpoint:
    """Read the weights of a torch checkpoint without running anything of it. Raises CheckpointError.

    The tensors lie in a memory map of the file: leave it alone until they are written elsewhere.
    """
    path = Path(path)
    size, is_archive = _check_file(path)
    if not is_archive:
        return _weights(path, read_legacy(path), size)
    _check_pickle(path, read_archive(path))
    try:
        # The ban on torch.load is lifted here alone: weights_only, and after the pickle has been checked.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # noqa: TID251
    except (
        RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, OSError,
        MemoryError, RecursionError, AssertionError, PickleError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path}: torch cannot read it ({shown(str(error), 160)}); {AGAIN}") from error
    return _weights(path, content, size)


def _check_file(path: Path) -> tuple[int, bool]:
    """Size of a file, and whether it begins as a zip archive does, or else as torch before 1.6 wrote."""
    if path.suffix.lower() == ".safetensors":
        raise CheckpointError(f"{path}: is a .safetensors file, which the loaders read as it is; {NEED}")
    try:
        with open(path, "rb") as handle:
            head, size = handle.read(512), os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {NEED}") from error
    if head.startswith((b"PK\x03\x04", MAGIC)):
        return size, not head.startswith(MAGIC)
    seems = describe_bytes(head, size) or "no zip archive, as torch writes"
    if seems.startswith("a pickle"):
        seems = "a bare pickle, which torch does not write; it is not opened here"
    raise CheckpointError(f"{path}: {seems}; {NEED}")


def _check_pickle(path: Path, archive: Archive) -> None:
    """Refuse a pickle that names anything but tensors. It is parsed, never run."""
    try:
        check_pickle(archive.pickle, archive.storages)
    except NotPlain as error:
        raise CheckpointError(
            f"{path}: it asks for {shown(str(error), 80)[1:-1]}, and a pickle that asks for more than tensors can run "
            "code; nothing of it was run. If you trust it, save its weights alone where it was trained, as "
            "{'state_dict': weights}"
        ) from error
    except (ValueError, LookupError, struct.error) as error:
        raise CheckpointError(f"{path}: its pickle is damaged ({shown(str(error), 120)}); {AGAIN}") from error


def _weights(path: Path, content, size: int) -> TorchCheckpoint:
    """The tensors of the half that holds the weights, checked one by one."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a dictionary of weights is needed; {NEED}")
    half = next((name for name in HALVES if _has_tensors(content.get(name))), "")
    weights = content[half] if half else content
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in (*content, *weights)):
        names = ", ".join(shown(str(name), 40) for name in list(content)[:5])
        raise CheckpointError(f"{path}: no weights by name in it (entries: {names or 'none'}); {NEED}")
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    unpacked = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if unpacked > size:
        raise CheckpointError(f"{path}: its tensors unpack to {unpacked} bytes, the file has {size}; {AGAIN}")
    others = [name for name in (*(content if half else ()), *weights) if name != half and name not in tensors]
    plain = {name: tensor.detach() for name, tensor in tensors.items()}
    return TorchCheckpoint(path, plain, half, tuple(dict.fromkeys(others)))


def _has_tensors(value) -> bool:
    return isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values())


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu" or tensor.dtype not in DTYPES.values():
        what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise CheckpointError(f"{path}: weight {shown(name)} is no plain tensor ({what}); {NEED}")
