"""Frozen records from plain values: every name and type is checked before anything is built."""

import typing
from dataclasses import asdict, fields

from .errors import ConfigError


def check_fields(cls: type, values: dict) -> dict:
    """Compare plain values with a dataclass's fields by name and type; ints pass as floats.

    Returns the values, ready to be passed to cls. Raises ConfigError naming the first misfits.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__name__} needs a JSON object, got {type(values).__name__}")
    types = typing.get_type_hints(cls)
    unknown = sorted(str(name)[:40] for name in set(values) - {item.name for item in fields(cls)})
    if unknown:
        raise ConfigError(f"{cls.__name__} does not know {', '.join(unknown[:5])}; a newer pack may have made this")
    checked = {}
    for name, value in values.items():
        allowed = typing.get_args(types[name]) or (types[name],)
        if float in allowed and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) not in allowed:
            need = " or ".join(kind.__name__ for kind in allowed)
            raise ConfigError(f"{cls.__name__}.{name} is {str(value)[:40]!r}; it needs {need}")
        checked[name] = value
    return checked


class PlainRecord:
    """The way of a frozen dataclass to plain values and back; strict, see `check_fields`."""

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict):
        """Build from plain JSON values. Raises ConfigError for unknown names, wrong types and bad values."""
        return cls(**check_fields(cls, values))
