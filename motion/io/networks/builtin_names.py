"""Names and places of the built-in models; light, since the host asks for them before any model is wanted."""

import os
from pathlib import Path

from ...errors import ConfigError
from ..files.kind import shown

BUILTIN_NAMES = ("motionblocks-tiny", "motionblocks-small")  # those that animate a photo
SCENE_NAMES = ("motionblocks-wan", "motionblocks-wan-i2v")  # small Wan: draws from words; from a picture and words
POSE_NAME = "motionblocks-wan-pose"  # small Wan: a picture of a puppet follows poses
WAN_NAMES = (*SCENE_NAMES, POSE_NAME)
ALL_NAMES = BUILTIN_NAMES + WAN_NAMES
WEIGHTS = Path(__file__).resolve().parents[3] / "weights"
VAE = WEIGHTS / "motionblocks-vae.safetensors"  # of WAN_NAMES


def builtin_path(name: str) -> Path:
    """Where the weights of a built-in model lie. Raises ConfigError for an unknown name."""
    if name not in ALL_NAMES:
        raise ConfigError(f"no built-in model is called {name!r}; there are: {', '.join(ALL_NAMES)}")
    return WEIGHTS / f"{name}.safetensors"


def weights_path(name_or_file: str | None) -> Path:
    """Where the weights lie: a built-in model by its name, or a file by its path; None = the first built-in model.

    Raises ConfigError for a name without an ending that is neither a built-in model nor on the disk.
    """
    if name_or_file is None or name_or_file in ALL_NAMES:
        return builtin_path(name_or_file or BUILTIN_NAMES[0])
    if not Path(name_or_file).suffix and not os.path.lexists(name_or_file):
        names = ", ".join(ALL_NAMES)
        raise ConfigError(f"{shown(name_or_file)} is neither a file nor a built-in model; built-in are: {names}")
    return Path(name_or_file)
