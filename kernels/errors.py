"""The errors of the pack; motion/errors.py hands them on under the same names.

Hosts, logs and tracebacks put an error's module in front of its name, and the module of a node pack begins with the
path that it was cloned to. The three errors that users read give a short public name in its place, which is the same on
every machine: `MotionBlocks.ConfigError: …`.
"""

from .foreign_text import safe_text

PUBLIC = "MotionBlocks"  # no module to import: pickles name `_made_again` below instead


class ToldError(ValueError):
    """An error whose text users read; names and values in it may be foreign, so it is made safe here."""

    def __init__(self, text: str = ""):
        super().__init__(safe_text(str(text)))

    def __reduce__(self):
        kind = type(self)
        if KINDS.get(kind.__name__) is not kind:
            return super().__reduce__()
        return _made_again, (kind.__name__, *self.args), self.__dict__ or None


class ShapeError(ToldError):
    """A tensor, image or frame count does not have the shape or content that is needed."""


class ConfigError(ToldError):
    """A setting, number, name or prompt is outside what is allowed."""


class CheckpointError(ToldError):
    """A weight or state file cannot be read, written or used here."""


KINDS = {kind.__name__: kind for kind in (ShapeError, ConfigError, CheckpointError)}
for _kind in KINDS.values():
    _kind.__module__ = PUBLIC


def _made_again(name: str, *args: str) -> ToldError:
    """One of the three errors, as pickle and copy ask for it."""
    return KINDS[name](*args)
