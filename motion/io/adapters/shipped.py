"""Motion adapters that come with the pack, for its first built-in model; docs/training has the jobs that made them."""

import os
from pathlib import Path

from ..networks.builtin_names import WEIGHTS

FOLDER = WEIGHTS / "motion_adapters"
SHIPPED_ADAPTERS = ("jelly", "pan_left")


def adapter_file(name_or_file: str) -> Path:
    """Where an adapter lies: one that is shipped by its name, unless a file is called so, or a file by its path."""
    if name_or_file in SHIPPED_ADAPTERS and not os.path.lexists(name_or_file):
        return FOLDER / f"{name_or_file}.safetensors"
    return Path(name_or_file)
