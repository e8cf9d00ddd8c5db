"""The three errors of the library. Their text is the interface: value, need, way out."""

from ..kernels.errors import ConfigError, ShapeError

__all__ = ["CheckpointError", "ConfigError", "ShapeError"]


class CheckpointError(ValueError):
    """A weight or state file cannot be read, written or used here."""
