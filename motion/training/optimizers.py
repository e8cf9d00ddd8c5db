"""Optimizers of a run, and their state as named tensors."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .config import OptimizerConfig
from .muon import Muon

SEPARATOR = "|"  # between a parameter's name and the name of its state


def block_matrices(parameters: Mapping[str, nn.Parameter], blocks: str = "transformer_blocks") -> set[str]:
    """Names of the matrices inside the list `blocks`: what Muon is made for. Tables and depthwise filters are not."""
    return {name for name, value in parameters.items() if value.ndim in (2, 4) and blocks in name.split(".")
            and "conv_depth" not in name and "table" not in name}  # fmt: skip


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, matrices: Collection[str] | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW for everything; with "muon", Muon for `matrices` (default: those of the blocks) and AdamW for the rest.

    "muon_bf16": the same, with Muon's products in bfloat16.
    """
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    chosen: Collection[str] = ()
    if config.optimizer != "adamw":
        chosen = block_matrices(parameters) if matrices is None else matrices
    by_muon = [value for name, value in parameters.items() if name in chosen]
    others = [value for name, value in parameters.items() if name not in chosen]
    dtype = torch.bfloat16 if config.optimizer == "muon_bf16" else torch.float32
    made: list[torch.optim.Optimizer] = [Muon(by_muon, **settings, dtype=dtype)] if by_muon else []
    if others:
        made.append(torch.optim.AdamW(others, betas=(config.beta1, config.beta2), **settings))
    return made


def optimizer_tensors(
    optimizers: list[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Every tensor the optimizers remember, as "<parameter>|<what>"."""
    names = {value: name for name, value in parameters.items()}
    return {f"{names[value]}{SEPARATOR}{what}": tensor
            for optimizer in optimizers for value, state in optimizer.state.items()
            for what, tensor in state.items()}  # fmt: skip


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give fresh optimizers what `optimizer_tensors` returned. Raises CheckpointError for what does not fit."""
    states: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name, _, what = full.rpartition(SEPARATOR)
        value = parameters.get(name)
        if value is None or not what or (tensor.ndim and tensor.shape != value.shape):
            raise CheckpointError(
                f"the saved optimizer holds {full!r} {tuple(tensor.shape)}, which belongs to no parameter of this "
                "training; resume with the model and settings it was saved with"
            )
        counter = not tensor.ndim and value.ndim  # AdamW counts its steps on the CPU
        states.setdefault(name, {})[what] = tensor.clone() if counter else tensor.to(value.device, copy=True)
    for optimizer in optimizers:
        held = {value for group in optimizer.param_groups for value in group["params"]}
        for name, value in parameters.items():
            if name in states and value in held:
                optimizer.state[value] = states[name]
