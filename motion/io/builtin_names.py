"""Names and places of the built-in models; light, since the host asks for them before any model is wanted."""

from pathlib import Path

from ..errors import ConfigError

BUILTIN_NAMES = ("motionblocks-tiny",)
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def builtin_path(name: str) -> Path:
    """Where the weights of a built-in model lie. Raises ConfigError for an unknown name."""
    if name not in BUILTIN_NAMES:
        raise ConfigError(f"no built-in model is called {name!r}; there are: {', '.join(BUILTIN_NAMES)}")
    return WEIGHTS / f"{name}.safetensors"
