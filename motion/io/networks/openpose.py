"""OpenPose's three networks (body, hand, face) in one safetensors file: the names and shapes of their weights.

The file is made by `motionblocks convert` of the three .pth files that controlnet-aux reads; names are those of the
.pth, with the part in front: body.conv1_1.weight. The weights are CMU's, for non-commercial use only.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ..files.kind import shown
from ..files.safetensors import read_safetensors

FAMILY = "openpose"
LICENCE = "CMU, OpenPose: academic or non-commercial research use only; their licence decides"
FILES = {"body": "body_pose_model.pth", "hand": "hand_pose_model.pth", "face": "facenet.pth"}
ROW = "docs/models.md says where they come from: OpenPose"


def shapes_of(part: str) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a part of FILES."""
    found = {}
    for name, (inside, outside, side) in _layers(part):
        found[f"{name}.weight"], found[f"{name}.bias"] = (outside, inside, side, side), (outside,)
    return found


def check_part(path: Path, part: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError naming the first weight of a part that is missing or of another shape."""
    for name, need in shapes_of(part).items():
        if name not in shapes:
            raise CheckpointError(f"{path}: weight {shown(name)} of OpenPose's {part} network is missing; {ROW}")
        if tuple(shapes[name]) != need:
            raise CheckpointError(
                f"{path}: weight {shown(name)} is {tuple(shapes[name])}; OpenPose's {part} network has {need}; {ROW}"
            )


def read_openpose(path: str | os.PathLike) -> dict[str, dict[str, Tensor]]:
    """Weights of each part, checked. Raises CheckpointError, with the way out for .pth files."""
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"{path}: no node opens pickles; put the three .pth files into one folder and run `./motionblocks convert "
            f"FOLDER -o openpose.safetensors`"
        )
    tensors = read_safetensors(path)[0]
    parts = {part: {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items()
                    if name.startswith(f"{part}.")} for part in FILES}  # fmt: skip
    for part, state in parts.items():
        check_part(path, part, {name: tuple(tensor.shape) for name, tensor in state.items()})
    return parts


def _layers(part: str):
    """(name, (channels in, channels out, side of the kernel)) of every convolution."""
    yield from (("conv1_1", (3, 64, 3)), ("conv1_2", (64, 64, 3)), ("conv2_1", (64, 128, 3)),
                ("conv2_2", (128, 128, 3)), ("conv3_1", (128, 256, 3)))  # fmt: skip
    yield from ((f"conv3_{k}", (256, 256, 3)) for k in (2, 3, 4))
    yield from (("conv4_1", (256, 512, 3)), ("conv4_2", (512, 512, 3)))
    if part == "body":
        yield from (("conv4_3_CPM", (512, 256, 3)), ("conv4_4_CPM", (256, 128, 3)))
        for branch, maps in (("L1", 38), ("L2", 19)):  # fields between joints, and joints
            yield from ((f"conv5_{k}_CPM_{branch}", (128, 128, 3)) for k in (1, 2, 3))
            yield from ((f"conv5_4_CPM_{branch}", (128, 512, 1)), (f"conv5_5_CPM_{branch}", (512, maps, 1)))
            for stage in range(2, 7):
                yield from _stage(f"_stage{stage}_{branch}", 185, maps)
        return
    yield from ((name, (512, 512, 3)) for name in ("conv4_3", "conv4_4", "conv5_1", "conv5_2"))
    maps = {"hand": 22, "face": 71}[part]
    yield from (("conv5_3_CPM", (512, 128, 3)), ("conv6_1_CPM", (128, 512, 1)), ("conv6_2_CPM", (512, maps, 1)))
    for stage in range(2, 7):
        yield from _stage(f"_stage{stage}", 128 + maps, maps)


def _stage(name: str, inside: int, maps: int):
    yield f"Mconv1{name}", (inside, 128, 7)
    yield from ((f"Mconv{k}{name}", (128, 128, 7)) for k in (2, 3, 4, 5))
    yield from ((f"Mconv6{name}", (128, 128, 1)), (f"Mconv7{name}", (128, maps, 1)))
