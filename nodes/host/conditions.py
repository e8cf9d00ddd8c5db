"""What our nodes put into the host's CONDITIONING: the keys, who writes them, who reads them.

A CONDITIONING is [[text, {key: value}], …]. Core nodes copy such a dict whole, add keys of their own and leave others
alone; a run hands all of them to `extra_conds`. So ours are flat, one a value, under one prefix: a dict of ours in one
key would be replaced whole by the next writer and shared between copies. Releases before wrote four of them without
the prefix, and other packs and API clients may: those names are still read. Writing takes them away, so one that
stands beside ours was set later, and counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

PREFIX = "motionblocks_"
WITHOUT_PREFIX = ("first_latent", "first_latent_space", "motion_bucket_id", "longer")  # as 0.1 wrote them


@dataclass(frozen=True, eq=False)
class Told:
    """What one prompt of a CONDITIONING is told by our nodes; None is what nobody said."""

    first_latent: Tensor | None = None  # (b, c, 1, h, w), unscaled: the start image
    first_latent_space: str | None = None  # kind of the latent space it was encoded in
    motion_bucket_id: int | Tensor | None = None  # dynamics
    longer: str | None = None  # what a clip longer than the trained one does
    words: tuple[str, ...] = ()  # motions that the prompt names
    unread: object | None = None  # why the prompt could not be read: an `Unread`


KEYS = {item.name: PREFIX + item.name for item in fields(Told)}
WORDS, UNREAD = KEYS["words"], KEYS["unread"]  # keys of a vocabulary's tokens, too


def keys_of(**told) -> dict:
    """Fields of `Told` under the keys of a CONDITIONING, for encoders that make one; None is left out."""
    return {KEYS[name]: value for name, value in told.items() if value is not None}


def tell(conditioning: list, **told) -> list:
    """A copy of a CONDITIONING, each of whose prompts is told these fields of `Told`; None is left out."""
    new = keys_of(**told)
    replaced = {name for name in WITHOUT_PREFIX if told.get(name) is not None}
    return [[text, {key: value for key, value in part.items() if key not in replaced} | new]
            for text, part in conditioning]


def read(part: Mapping) -> Told:
    """What a prompt is told. part: the dict of a CONDITIONING, a guider's own condition or what `extra_conds` gets."""
    found = {name: part.get(key) for name, key in KEYS.items()}
    found |= {name: part[name] for name in WITHOUT_PREFIX if part.get(name) is not None}
    return Told(**{name: value for name, value in found.items() if value is not None})
