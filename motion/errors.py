"""The three errors of the library. Their text is the interface: value, need, way out."""

from ..kernels.errors import ConfigError, ShapeError, ToldError

__all__ = ["CheckpointError", "ConfigError", "ShapeError", "ToldError"]


class CheckpointError(ToldError):
    """A weight or state file cannot be read, written or used here."""
