"""Checkpoints as torch before 1.6 wrote them: pickles one behind another, then the numbers of each storage.

torch.load is not asked: the pickles are walked through over stand-ins, and tensors are made of the numbers here. The
form: a magic number, 1001, a dictionary about the machine, the content, a list of the storages' keys (all pickled);
then for each key the number of values (int64) and the values, as they lay in memory.
"""

import math
import os
import struct
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..files.kind import shown
from ..files.safetensors import AGAIN
from .torch_pickle import Made, NotPlain, walk_pickle

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # two pickles: the number, and protocol 1001
MAX_PICKLES = 16 * 2**20
MAX_NUMBER = 2**60  # of values, and of what places and sides are given in; torch counts in 64 bits
MAX_DEPTH = 2  # {"state_dict": {name: tensor}}
_TYPES = {"torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16,
          "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
          "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8,
          "torch.BoolStorage": torch.bool}  # fmt: skip


def read_legacy(path: Path):
    """The content: a tensor, or a dictionary of tensors and of dictionaries of them; what is neither is None.

    Raises CheckpointError.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(MAX_PICKLES)
            content, keys, claimed, start = _pickles(head)
            handle.seek(start)
            storages = {key: _storage(handle, key, *claimed[key]) for key in keys}
            if handle.read(1):
                raise ValueError("bytes follow after its last storage")
        return _settled(content, storages, {})
    except NotPlain as error:
        raise CheckpointError(
            f"{path}: it asks for {shown(str(error), 80)[1:-1]}, and a pickle that asks for more than tensors can run "
            "code; nothing of it was run"
        ) from error
    except (ValueError, LookupError, struct.error, OSError) as error:
        raise CheckpointError(f"{path}: it is cut or damaged ({shown(str(error), 120)}); {AGAIN}") from error


def _pickles(head: bytes):
    """Content over stand-ins, keys of its storages in the order of the file, their types and sizes, and where it ends.

    Raises ValueError for what does not belong together.
    """
    if not head.startswith(MAGIC):
        raise ValueError("its magic number is missing")
    machine, at, _ = walk_pickle(head, len(MAGIC))
    if not isinstance(machine, Made) or machine.kind != "dict" or machine.entries.get("little_endian") is not True:
        raise ValueError("it was written on a machine that orders bytes the other way")
    content, at, claimed = walk_pickle(head, at)
    listed, at, _ = walk_pickle(head, at)
    keys = listed.entries if isinstance(listed, Made) and listed.kind == "list" else []
    if not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(claimed):
        raise ValueError("its storages are not those that its tensors lie in")
    return content, keys, claimed, at


def _storage(handle, key: str, kind: str, numel: int) -> Tensor:
    """The values of a storage, (numel,)."""
    dtype = _TYPES.get(kind)
    told = handle.read(8)
    if len(told) != 8:
        raise ValueError("it ends too early")
    (count,) = struct.unpack("<q", told)
    if dtype is None or count != numel:
        raise ValueError(f"storage {key[:20]!r} of {numel} values has {count}, or is of {kind}")
    if not numel:
        return torch.empty(0, dtype=dtype)
    size = numel * dtype.itemsize
    if size > os.fstat(handle.fileno()).st_size - handle.tell():
        raise ValueError("it ends too early")
    data = bytearray(size)
    if handle.readinto(data) != size:
        raise ValueError("it ends too early")
    return torch.frombuffer(data, dtype=dtype)


def _settled(value, storages: dict[str, Tensor], known: dict[int, object], depth: int = 0):
    """The content with true tensors, dictionaries up to MAX_DEPTH into one another. known: what is settled, by id."""
    if not isinstance(value, Made) or value.kind not in ("dict", "tensor") or depth > MAX_DEPTH:
        return None
    if id(value) not in known:
        if value.kind == "tensor":
            known[id(value)] = _tensor(storages, *value.place)
        else:
            known[id(value)] = None  # while it is being settled: a dictionary may hold itself
            known[id(value)] = {name: _settled(entry, storages, known, depth + 1)
                                for name, entry in value.entries.items()}  # fmt: skip
    return known[id(value)]


def _tensor(storages: dict[str, Tensor], key: str, offset: int, size: tuple, stride: tuple) -> Tensor:
    storage = storages[key]
    fits = len(size) == len(stride) and min((offset, *size, *stride)) >= 0
    if not fits or max(offset, *stride, math.prod(max(side, 1) for side in size)) > MAX_NUMBER:
        raise ValueError(f"a tensor of {size} in steps of {stride}")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride))
    if 0 not in size and last >= len(storage):
        raise ValueError(f"a tensor of {size} reaches beyond its {len(storage)} values")
    return torch.as_strided(storage, size, stride, offset)
