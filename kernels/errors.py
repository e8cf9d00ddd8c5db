"""Errors that operators raise; motion/errors.py hands them on under the same names."""


class ShapeError(ValueError):
    """A tensor, image or frame count does not have the shape or content that is needed."""


class ConfigError(ValueError):
    """A setting, number, name or prompt is outside what is allowed."""
