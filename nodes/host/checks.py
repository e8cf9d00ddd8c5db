"""Widget values, checked again: older hosts pass on what a graph holds."""

from ...kernels.foreign_text import has_half_character
from ...motion.errors import ConfigError


def choose(name: str, value: str, options) -> str:
    """Re-check a combo value, which older hosts pass on unchecked. Raises ConfigError."""
    if value not in options:
        raise ConfigError(f"{name} is {str(value)[:60]!r}; it must be one of: {', '.join(options) or 'none here'}")
    return value


def in_range(name: str, value, low, high):
    """Re-check a number against the range its widget shows. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} is {str(value)[:60]}; it must be {low} to {high}")
    return value


def whole_text(name: str, value: str) -> str:
    """Refuse text that no encoder and no file can take. Raises ConfigError."""
    if not isinstance(value, str) or has_half_character(value):
        raise ConfigError(f"{name} is {value!r:.60}: not text, or half a character in it; type it again")
    return value
