"""The three errors of the library. Their text is the interface: value, need, way out."""


class ShapeError(ValueError):
    """A tensor, image or frame count does not have the shape or content that is needed."""


class CheckpointError(ValueError):
    """A weight or state file cannot be read, written or used here."""


class ConfigError(ValueError):
    """A setting, number, name or prompt is outside what is allowed."""
