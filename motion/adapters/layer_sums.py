"""One hook a layer for all adapters of a stack: output + Σ weight · scale · difference."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..models.token_layers import TokenValues, carries_tokens
from .protocol import LayerDifference


def layer_hook(
    name: str, parts: list[tuple[float | Tensor, LayerDifference]], grid: tuple[int, int]
) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    """The forward hook of the layer of this name for one call of its network.

    parts: weights, each a number or (b or 1, t, n), with what they weigh. A layer that does not answer token by token
    takes the mean of each weight over the video. The sum is made in the type of the differences.
    """
    weighed = [(_for_layer(name, weight, grid), difference) for weight, difference in parts]

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        total = None
        for weight, difference in weighed:
            if isinstance(weight, float):
                part = (weight * difference.scale) * difference(args[0])
            else:
                part = difference.scale * difference(args[0])
                part = part * weight(output, module)
            total = part if total is None else total + part
        return output + total.to(output.dtype)

    return hook


def _for_layer(name: str, weight: float | Tensor, grid: tuple[int, int]):
    """A number, or a function (output, layer) -> values to multiply with."""
    if isinstance(weight, float):
        return weight
    if carries_tokens(name):
        return TokenValues(weight, grid).like
    means = weight.double().mean((1, 2))
    if len(means) == 1:
        return float(means)

    def rows(output: Tensor, layer: nn.Module) -> Tensor:
        if len(output) != len(means):
            raise ShapeError(f"layer {name} answered {tuple(output.shape)}, not one row for each of {len(means)} "
                             "videos; sample them at one noise level")  # fmt: skip
        return means.to(output.device, torch.float32).reshape(-1, *(1 for _ in output.shape[1:]))

    return rows
