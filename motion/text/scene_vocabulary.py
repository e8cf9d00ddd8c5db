"""Prompts that say what a picture shows and what it does, such as "small red ball, on sand, moves left".

A model names its words by group (size, colour, texture, shape, ground, motion) in its file; one word of a group is
read, in any order. Each word is a token with a vector of its own; vectors of different words are orthogonal and known
without a file, so the network's text embedding can hold any meaning for each.
"""

import difflib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from .vocabulary import MAX_LETTERS

MAX_TOKENS = 8
MAX_WORDS = 1000
VECTOR_SIZE = 0.125  # of every number of a word's vector; a power of two, so that every type holds it exactly
SYNONYMS = {
    "small": "tiny little", "large": "big huge", "grey": "gray", "purple": "violet magenta", "striped": "stripes",
    "spotted": "dotted spots dots", "ball": "circle disc sphere", "box": "square block cube", "ring": "hoop donut",
    "cross": "plus", "sand": "beach desert sandy", "grass": "lawn meadow grassy", "snow": "snowy", "night": "dark",
    "bricks": "brick wall", "still": "static motionless stays standing", "left": "leftward leftwards",
    "right": "rightward rightwards", "up": "upward upwards rises rising", "down": "downward downwards falls falling",
    "bounce": "bounces bouncing hops hopping jumps jumping", "orbit": "orbits orbiting circles circling",
    "spin": "spins spinning rotates rotating turns turning", "grow": "grows growing", "shrink": "shrinks shrinking",
}  # fmt: skip
STOP_WORDS = frozenset(
    "a an and the on in at of to with it is that which while moves move moving goes going slides sliding stands stand"
    " slowly gently smoothly coloured colored against over video clip".split()
)


class SceneVocabulary:
    """Reads prompts into fixed token ids: one a word, without order, padded with 0 to eight."""

    max_tokens = MAX_TOKENS

    def __init__(self, groups: Mapping[str, Sequence[str]]):
        """groups: words by what they say, in the order of the ids. Raises ConfigError for what is no such table."""
        self.groups = _checked(groups)
        self.words = tuple(word for words in self.groups.values() for word in words)
        self._ids = {word: index + 1 for index, word in enumerate(self.words)}
        self._group = {word: group for group, words in self.groups.items() for word in words}
        self._reads = {other: word for word in self.words for other in (word, *SYNONYMS.get(word, "").split())}

    @property
    def size(self) -> int:
        """Number of ids, the empty one (0) included."""
        return len(self.words) + 1

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, padded with 0 to 8; "" leaves all to the model. Raises as `named`."""
        return self.tokens(self.named(text))

    def tokens(self, words: Sequence[str]) -> list[int]:
        """Token ids of words of this vocabulary, as `tokenize` orders them."""
        ids = sorted(self._ids[word] for word in words)
        return ids + [0] * (self.max_tokens - len(ids))

    def named(self, text: str) -> tuple[str, ...]:
        """The words a prompt names, in the vocabulary's order.

        Raises ConfigError for an unknown word, two words of a group, weights such as "(red:1.2)", and long prompts.
        """
        if len(text) > MAX_LETTERS:
            raise ConfigError(f"the prompt has {len(text)} characters; up to {MAX_LETTERS} are read; write one short "
                              f"line, such as {self._example()}")  # fmt: skip
        if re.search(r"[():]", text):
            raise ConfigError(f"prompt {_short(text)!r} has brackets or a weight; words here have none; leave them out")
        found: dict[str, str] = {}
        for word in re.findall(r"[^\s,.;!?+&|/]+", text.lower()):
            if word in STOP_WORDS and word not in self._reads:
                continue
            name = self._reads.get(word)
            if name is None:
                raise ConfigError(f"unknown word {_short(word)!r} in the prompt{self._hint(word)}; {self._known()}")
            group = self._group[name]
            if found.get(group, name) != name:
                raise ConfigError(f"the prompt names two words of {group}, {found[group]!r} and {name!r}; keep one")
            found[group] = name
        return tuple(word for word in self.words if word in found.values())

    def _hint(self, word: str) -> str:
        near = difflib.get_close_matches(word[:60], self._reads, n=1)
        return f"; nearest is {near[0]!r}" if near else ""

    def _known(self) -> str:
        return "; ".join(f"{group}: {', '.join(words)}" for group, words in self.groups.items())

    def _example(self) -> str:
        return repr(" ".join(words[0] for words in self.groups.values()))


def word_vectors(count: int, width: int) -> Tensor:
    """The vectors of ids 0 to count - 1, (count, width): rows 1, 2, … of a Hadamard matrix times `VECTOR_SIZE`.

    Raises ConfigError for a width that is no power of two, or too small for so many words.
    """
    if width < 1 or width & (width - 1) or count >= width:
        raise ConfigError(f"{count} words of {width} numbers each; a power of two above {count} is needed")
    rows, columns = torch.arange(1, count + 1).unsqueeze(1), torch.arange(width).unsqueeze(0)
    common, sign = rows & columns, torch.ones(count, width)
    for bit in range(width.bit_length()):
        sign *= 1 - 2 * ((common >> bit) & 1).float()
    return sign * VECTOR_SIZE


def _checked(groups) -> dict[str, tuple[str, ...]]:
    """Refuse what is no table of words. Raises ConfigError."""
    fits = isinstance(groups, Mapping) and groups and all(
        isinstance(group, str) and isinstance(words, list | tuple) and words and all(
            isinstance(word, str) and re.fullmatch(r"[a-z]{1,40}", word) for word in words)
        for group, words in groups.items())  # fmt: skip
    if not fits or len(groups) > MAX_TOKENS:
        raise ConfigError(f"words are {_short(repr(groups))}; a table of 1 to {MAX_TOKENS} groups of words is needed")
    words = [word for each in groups.values() for word in each]
    if len(words) > MAX_WORDS or len(set(words)) != len(words):
        raise ConfigError(f"words {_short(', '.join(words))} are too many, or name one twice; each must differ")
    return {group: tuple(words) for group, words in groups.items()}


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
