"""Errors that operators raise; motion/errors.py hands them on under the same names."""

from .foreign_text import safe_text


class ToldError(ValueError):
    """An error whose text users read; names and values in it may be foreign, so it is made safe here."""

    def __init__(self, text: str = ""):
        super().__init__(safe_text(str(text)))


class ShapeError(ToldError):
    """A tensor, image or frame count does not have the shape or content that is needed."""


class ConfigError(ToldError):
    """A setting, number, name or prompt is outside what is allowed."""
