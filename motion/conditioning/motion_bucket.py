"""The dynamics slider as the network hears it."""

import torch
from torch import Tensor

from ..errors import ConfigError


def motion_bucket(bucket: int | Tensor, num_buckets: int = 20) -> Tensor:
    """Check a motion bucket (larger = more motion) and return it as the network takes it.

    bucket: a whole number, or a tensor (b,) of them, in 0..num_buckets - 1. Returns (1,) or (b,) long.
    Raises ConfigError for anything else; the range belongs to the model file (`spec.dynamics.num_buckets`).
    """
    values = torch.as_tensor(bucket).reshape(-1)
    if not values.numel() or values.is_floating_point() or values.dtype == torch.bool or values.is_complex():
        raise ConfigError(f"dynamics is {bucket!r}; it must be a whole number from 0 to {num_buckets - 1}; 15 is usual")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_buckets:
        wrong = low if low < 0 else high
        raise ConfigError(
            f"dynamics is {wrong}; this model knows 0 (still) to {num_buckets - 1} (most motion); use a value between"
        )
    return values.long()
