"""The motions the built-in model knows, and how plain words are read as them.

What each name means on screen (film usage: pan names the camera, rotate names the picture):
pan left / right: the camera turns left / right, so the picture slides right / left;
pan up / down: the camera turns up / down, so the picture slides down / up;
zoom in / out: the picture grows / shrinks about its middle;
rotate left / right: the picture turns counter-clockwise / clockwise;
still: nothing moves.
"""

import difflib
import re

from ..errors import ConfigError

MAX_TOKENS = 8
MAX_MOTIONS = 2
DIRECTIONS = {
    "pan": ("left", "right", "up", "down"),
    "zoom": ("in", "out"),
    "rotate": ("left", "right"),
}
PLAIN = ("still",)
MOTIONS = (*(f"{verb} {way}" for verb, ways in DIRECTIONS.items() for way in ways), *PLAIN)
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up", "in": "out", "out": "in"}
SYNONYMS = {
    "pan": "panning pans panned move moves moving tilt tilts tilting slide slides sliding track tracking truck",
    "zoom": "zooming zooms zoomed dolly dollies push pull",
    "rotate": "rotating rotates rotation rotated turn turns turning spin spins spinning roll rolls rolling",
    "left": "leftward leftwards counterclockwise counter-clockwise anticlockwise anti-clockwise ccw",
    "right": "rightward rightwards clockwise cw",
    "up": "upward upwards",
    "down": "downward downwards",
    "in": "inward inwards closer",
    "out": "outward outwards back",
    "still": "static motionless frozen freeze stillness",
}
STOP_WORDS = frozenset(
    "a an and the camera picture image photo shot scene view slowly slow gently gentle softly smoothly smooth"
    " quickly fast on to towards then while with of motion movement it is".split()
)
_READS = {word: name for name, words in SYNONYMS.items() for word in (name, *words.split())}


class MotionVocabulary:
    """Reads prompts such as "pan left, zoom in" into fixed token ids; one token a motion, so order is free."""

    def __init__(self):
        self.words = MOTIONS
        self.max_tokens = MAX_TOKENS
        self._ids = {motion: index + 1 for index, motion in enumerate(MOTIONS)}

    @property
    def size(self) -> int:
        """Number of ids, the empty one (0) included."""
        return len(self.words) + 1

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, padded with 0 to 8; "" means no wish (unconditional).

        Raises ConfigError for an unknown word, a verb without a direction, opposite motions, or too many motions.
        """
        ids = sorted(self._ids[motion] for motion in self.motions(text))
        return ids + [0] * (self.max_tokens - len(ids))

    def motions(self, text: str) -> tuple[str, ...]:
        """The motions a prompt names, without repeats, in vocabulary order. Raises as `tokenize`."""
        if re.search(r"\([^()]*:[^()]*\)", text):
            raise ConfigError(f"prompt {_short(text)!r} has a weight; motions have none; use the dynamics slider")
        words = [self._read(word) for word in re.findall(r"[^\s,.;:!?+&|/]+", text.lower())]
        named = self._pair([word for word in words if word])
        found = tuple(motion for motion in self.words if motion in named)
        _check_together(found)
        return found

    def _read(self, word: str) -> str | None:
        """Map one word to its canonical form; None for words without meaning here."""
        if word in STOP_WORDS:
            return None
        if word in _READS:
            return _READS[word]
        near = difflib.get_close_matches(word[:60], _READS, n=1)
        hint = f"; nearest is {near[0]!r}" if near else ""
        raise ConfigError(f"unknown word {_short(word)!r} in the prompt{hint}; known motions: {', '.join(self.words)}")

    def _pair(self, words: list[str]) -> list[str]:
        """Join verbs with the directions that follow them."""
        found, verb, served = [], None, True
        for word in words:
            if word in DIRECTIONS or word in PLAIN:
                self._check_served(verb, served)
                verb, served = (word, False) if word in DIRECTIONS else (None, True)
                found += [word] if word in PLAIN else []
            elif verb is None or word not in DIRECTIONS[verb]:
                known = ", ".join(self.words)
                raise ConfigError(f"{verb or 'direction'} {word!r} is not a motion; known motions: {known}")
            else:
                found.append(f"{verb} {word}")
                served = True
        self._check_served(verb, served)
        return found

    def _check_served(self, verb: str | None, served: bool) -> None:
        if not served:
            ways = ", ".join(f"{verb} {way}" for way in DIRECTIONS[verb])
            raise ConfigError(f"{verb!r} needs a direction; use one of: {ways}")


def _check_together(motions: tuple[str, ...]) -> None:
    """Refuse motions that cancel or that were never trained together."""
    if len(motions) > MAX_MOTIONS:
        raise ConfigError(f"{len(motions)} motions in one prompt; up to {MAX_MOTIONS} go together; drop some")
    if "still" in motions and len(motions) > 1:
        raise ConfigError("'still' cannot be joined with another motion; drop one of them")
    for motion in motions:
        verb, _, way = motion.partition(" ")
        if way and f"{verb} {OPPOSITES[way]}" in motions:
            raise ConfigError(f"{motion!r} and '{verb} {OPPOSITES[way]}' cancel out; drop one of them")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
