"""Differences between host versions, in one place. The floor is ComfyUI 0.3.64; newer keywords are dropped there."""

import inspect
from functools import cache

from comfy_api.latest import io


def schema(**keywords) -> io.Schema:
    """Build a schema from the keywords this host knows; the others are dropped."""
    known = io.Schema.__dataclass_fields__
    return io.Schema(**{name: value for name, value in keywords.items() if name in known})


def inp(kind: type, *arguments, **keywords):
    """Build an input or output from the keywords this host knows, e.g. inp(io.Int.Input, "n", advanced=True).

    A host without the keyword advanced passes the mark on all the same, for pages newer than it.
    """
    known = _parameters(kind)
    made = kind(*arguments, **{name: value for name, value in keywords.items() if name in known})
    if "advanced" in keywords and "advanced" not in known:
        made.extra_dict = {**made.extra_dict, "advanced": keywords["advanced"]}
    return made


@cache
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__init__).parameters)


def out(kind: type, name: str, tooltip: str):
    """Build an output of an io type: out(io.Model, "model", "…")."""
    return inp(kind.Output, display_name=name, tooltip=tooltip)


def unique_id(node: type) -> str | None:
    """Id of the node in the running graph; None in a direct call."""
    return getattr(node.hidden, "unique_id", None)
