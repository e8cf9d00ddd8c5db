"""Where things are computed without a host: a device by name, or the best there is."""

import torch

from .errors import ConfigError


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or CUDA where torch sees it, else the CPU. Raises ConfigError."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, NotImplementedError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise ConfigError(f"device {str(device)!r} cannot be used here ({reason}); use cpu or cuda") from error
    return chosen
