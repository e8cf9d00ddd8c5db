"""The three errors of the library. Their text is the interface: value, need, way out."""

from ..kernels.errors import CheckpointError, ConfigError, ShapeError, ToldError

__all__ = ["CheckpointError", "ConfigError", "ShapeError", "ToldError"]
