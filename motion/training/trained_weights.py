"""What a training leaves: the adapter, or in mode full the whole network, as tensors and as a file."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapters.miva import MIVA
from ..io.adapters.adapter_file import save_adapter
from ..io.networks.linear_video import save_linear_video
from .tasks.adapter_task import AdapterTask

LISTED = 3  # sizes
NUMBER_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def trained_tensors(task: AdapterTask) -> dict[str, Tensor]:
    """The trained weights under the names of their file, where they lie."""
    return task.trainee.module.state_dict() if task.adapter is None else task.adapter.tensors()


def trained_size(task: AdapterTask) -> str:
    """What a task trains at, for people: "64x64 px, 16 frames"; of several sizes, those with most samples first."""
    space, shapes = task.trainee.space, sorted(task.dataset.shapes.items(), key=lambda item: -len(item[1]))
    sizes = [f"{w * space.spatial_ratio}x{h * space.spatial_ratio} px, {space.frames(t)} frames"
             for (_, t, h, w), _ in shapes]  # fmt: skip
    return "; ".join(sizes[:LISTED]) + ("; …" if len(sizes) > LISTED else "")


def write_trained(
    path: str | os.PathLike, task: AdapterTask, metadata: Mapping[str, str], *, precision: str = "own",
    text_encoder=None, of_model: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write the adapter, or in mode full the model, whole or not at all.

    precision: file_precision of the settings. text_encoder, of_model: weights and metadata that a model file keeps
    beside the network. Raises CheckpointError.
    """
    of_motion = isinstance(task.adapter, MIVA)
    if of_motion:
        metadata = {"trained_size": trained_size(task), **metadata}
    if task.adapter is not None:
        own = "bf16" if of_motion else "fp32"
        save_adapter(path, task.adapter, metadata, NUMBER_TYPES[own if precision == "own" else precision])
    else:
        network, told = task.trainee.module, {**(of_model or {}), **metadata}
        save_linear_video(path, task.trainee.spec, network.state_dict(), text_encoder, told)
