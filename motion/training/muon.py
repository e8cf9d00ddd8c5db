"""Muon: momentum whose matrix updates are made orthogonal, beside AdamW for everything that is not a matrix.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); update size matched to AdamW's as in Liu et al. 2025,
arXiv 2502.16982 (factor 0.2·sqrt(max(rows, columns))). Differs: equal shapes are made orthogonal as one batch.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Push all singular values of (m, rows, columns) matrices near 1 by a quintic Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if wide else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide else x


class Muon(torch.optim.Optimizer):
    """Muon for parameters read as (first axis, rest) matrices; Nesterov momentum, decoupled weight decay.

    dtype: what directions are made orthogonal in; bfloat16, as in the source, takes half the time where it is fast.
    """

    def __init__(
        self, parameters, lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple, list[Tensor]] = {}
            for value in group["params"]:
                if value.grad is not None:
                    shapes.setdefault((value.shape[0], value[0].numel()), []).append(value)
            for (rows, columns), values in shapes.items():
                self._update(values, rows, columns, group)

    def _update(self, values: list[Tensor], rows: int, columns: int, group: dict) -> None:
        directions = []
        for value in values:
            velocity = self.state[value].setdefault("velocity", torch.zeros_like(value))
            velocity.lerp_(value.grad, 1 - group["momentum"])
            directions.append(value.grad.lerp(velocity, group["momentum"]).reshape(rows, columns))
        size = 0.2 * max(rows, columns) ** 0.5
        for value, update in zip(values, orthogonalize(torch.stack(directions).to(self.dtype)).to(values[0]) * size):
            value.mul_(1 - group["lr"] * group["weight_decay"])
            value.add_(update.reshape(value.shape), alpha=-group["lr"])
