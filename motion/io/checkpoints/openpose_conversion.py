"""OpenPose's three .pth files, as controlnet-aux reads them, in one safetensors file. For the shell alone."""

import os
from pathlib import Path

from ...errors import CheckpointError
from ..files.atomic import write_safetensors
from ..files.safetensors import check_values
from ..networks.openpose import FAMILY, FILES, LICENCE, ROW, check_part
from .torch_checkpoint import open_checkpoint


def is_openpose_folder(path: str | os.PathLike) -> bool:
    """Whether a folder holds one of the three files at least."""
    return any((Path(path) / name).is_file() for name in FILES.values())


def convert_openpose(folder: str | os.PathLike, output: str | os.PathLike) -> tuple[Path, int]:
    """Write the three networks of a folder as one file; its path, and the number of weights.

    Number types are kept. Raises CheckpointError for a file that is missing, damaged, or another network; then nothing
    is written.
    """
    tensors = {}
    for part, name in FILES.items():
        path = Path(folder) / name
        if not path.is_file():
            others = ", ".join(other for other in FILES.values() if other != name)
            raise CheckpointError(f"{folder}: {name} is missing; it is needed beside {others}; {ROW}")
        found = open_checkpoint(path).tensors
        check_part(path, part, {name: tuple(tensor.shape) for name, tensor in found.items()})
        for weight, tensor in found.items():
            check_values(weight, tensor, path)
            tensors[f"{part}.{weight}"] = tensor.contiguous()
    about = {"family": FAMILY, "license": LICENCE, "source": ", ".join(FILES.values()), "converted": "by motionblocks"}
    write_safetensors(output, tensors, about)
    return Path(output), sum(tensor.numel() for tensor in tensors.values())
