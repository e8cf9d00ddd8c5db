"""The motions a built-in model knows, and how plain words are read as them. Each file names its own motions.

What each name means on screen (film usage: pan names the camera, rotate names the picture):
pan left / right: the camera turns left / right, so the picture slides right / left;
pan up / down: the camera turns up / down, so the picture slides down / up;
zoom in / out: the picture grows / shrinks about its middle;
rotate left / right: the picture turns counter-clockwise / clockwise;
still: nothing moves.
One object in the picture: slide left / right / up / down, bounce, orbit (runs in a circle), spin (clockwise), swing
(hangs from above), grow, shrink. A part of the picture: clouds (drift right), waterfall, ripple (water below).
The whole picture: sway (its upper part), shake, pulse, swirl. In front of it: rain, snow.
"""

import difflib
import re
from collections.abc import Callable, Sequence

from ..errors import ConfigError
from .safe_words import UNLISTED

MAX_TOKENS = 8
MAX_MOTIONS = 2
MAX_LETTERS = 1000  # of a prompt
MAX_WORDS = 1000  # motions of a file
DIRECTIONS = {
    "pan": ("left", "right", "up", "down"),
    "zoom": ("in", "out"),
    "rotate": ("left", "right"),
}
PLAIN = ("still",)
MOTIONS = (*(f"{verb} {way}" for verb, ways in DIRECTIONS.items() for way in ways), *PLAIN)  # of files that name none
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up", "in": "out", "out": "in"}
OPPOSITE_WORDS = {"grow": "shrink", "shrink": "grow"}
SYNONYMS = {  # a word is read as the last verb of the file's that lists it: "spin" is "rotate" only where no spin is
    "pan": "panning pans panned move moves moving tilt tilts tilting slide slides sliding track tracking truck",
    "zoom": "zooming zooms zoomed dolly dollies push pull",
    "rotate": "rotating rotates rotation rotated turn turns turning spin spins spinning roll rolls rolling",
    "slide": "slides sliding slid glide glides gliding",
    "bounce": "bounces bouncing bounced hop hops hopping jump jumps jumping",
    "orbit": "orbits orbiting circle circles circling",
    "spin": "spins spinning whirl whirls whirling",
    "swing": "swings swinging pendulum dangle dangles dangling",
    "grow": "grows growing swell swells",
    "shrink": "shrinks shrinking",
    "clouds": "cloud cloudy sky skies",
    "waterfall": "waterfalls cascade cascades",
    "ripple": "ripples rippling water waves wave",
    "sway": "sways swaying",
    "shake": "shakes shaking shaky handheld tremble trembles trembling",
    "pulse": "pulses pulsing pulsate heartbeat beat beats",
    "swirl": "swirls swirling twist twists twisting whirlpool",
    "rain": "rains raining rainy rainfall downpour",
    "snow": "snows snowing snowy snowfall flakes snowflakes",
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
FILLERS = frozenset("ball object thing drift drifts drifting fall falls falling flow flows flowing around".split())


class MotionVocabulary:
    """Reads prompts such as "pan left, zoom in" into fixed token ids; one token a motion, so order is free."""

    def __init__(self, words: Sequence[str] = MOTIONS, *, who_knows: Callable[[str], Sequence[str]] = lambda word: ()):
        """words: the file's motions in the order of its ids. who_knows(word): names of models that know a word, for
        the refusal of one that this file does not. Raises ConfigError for what is no list of motions.

        All words are read; `listed` are those that messages name: all but the UNLISTED, unless none were left.
        """
        self.words, self._who_knows = check_words(words), who_knows
        self.listed = tuple(word for word in self.words if word not in UNLISTED) or self.words
        self.max_tokens = MAX_TOKENS
        self._ids = {motion: index + 1 for index, motion in enumerate(self.words)}
        self._ways: dict[str, tuple[str, ...]] = {}
        for verb, _, way in (motion.partition(" ") for motion in self.words):
            self._ways[verb] = (*self._ways.get(verb, ()), *([way] if way else []))
        known = [*self._ways, *dict.fromkeys(way for ways in self._ways.values() for way in ways)]
        known.sort(key=list(SYNONYMS).index)
        reads = {word: name for name in known for word in SYNONYMS[name].split()}
        self._reads = {**reads, **{name: name for name in known}}
        self._ignored = STOP_WORDS | (FILLERS if self.words != MOTIONS else frozenset())

    @property
    def size(self) -> int:
        """Number of ids, the empty one (0) included."""
        return len(self.words) + 1

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a prompt, padded with 0 to 8; "" leaves the motion to the model (unconditional).

        Raises ConfigError for an unknown word, a verb without a direction, opposite motions, or too many motions.
        """
        ids = sorted(self._ids[motion] for motion in self.motions(text))
        return ids + [0] * (self.max_tokens - len(ids))

    def motions(self, text: str) -> tuple[str, ...]:
        """The motions a prompt names, without repeats, in vocabulary order. Raises as `tokenize`."""
        if len(text) > MAX_LETTERS:
            raise ConfigError(f"the prompt has {len(text)} characters; up to {MAX_LETTERS} are read; name one or two "
                              f"motions, such as {self.listed[0]!r}")  # fmt: skip
        if _has_weight(text):
            raise ConfigError(f"prompt {_short(text)!r} has a weight; motions have none; use the dynamics slider")
        words = [self._read(word) for word in re.findall(r"[^\s,.;:!?+&|/]+", text.lower())]
        named = self._pair([word for word in words if word])
        found = tuple(motion for motion in self.words if motion in named)
        self._check_together(found)
        return found

    def knows(self, word: str) -> bool:
        """Whether a lower-case word names a motion here, or a part of one."""
        return word in self._reads

    def _read(self, word: str) -> str | None:
        """Map one word to its canonical form; None for words without meaning here."""
        if word in self._ignored:
            return None
        if word in self._reads:
            return self._reads[word]
        hint = self._hint(word)
        raise ConfigError(f"unknown word {_short(word)!r} in the prompt{hint}; known motions: {', '.join(self.listed)}")

    def _hint(self, word: str) -> str:
        """A model that knows the word, else the nearest word known here."""
        others = self._who_knows(word)
        if others:
            return f"; the model {others[0]} knows it: use that one"
        named = [near for near, name in self._reads.items() if name not in UNLISTED or name in self.listed]
        near = difflib.get_close_matches(word[:60], named, n=1)
        return f"; nearest is {near[0]!r}" if near else ""

    def _pair(self, words: list[str]) -> list[str]:
        """Join verbs with the directions that follow them."""
        found, verb, served = [], None, True
        for word in words:
            if word in self._ways:
                self._check_served(verb, served)
                verb, served = (word, False) if self._ways[word] else (None, True)
                found += [] if self._ways[word] else [word]
            elif verb is None or word not in self._ways[verb]:
                known = ", ".join(self.listed)
                raise ConfigError(f"{verb or 'direction'} {word!r} is not a motion; known motions: {known}")
            else:
                found.append(f"{verb} {word}")
                served = True
        self._check_served(verb, served)
        return found

    def _check_served(self, verb: str | None, served: bool) -> None:
        if not served:
            ways = ", ".join(f"{verb} {way}" for way in self._ways[verb])
            raise ConfigError(f"{verb!r} needs a direction; use one of: {ways}")

    def _check_together(self, motions: tuple[str, ...]) -> None:
        """Refuse motions that cancel or that were never trained together."""
        if len(motions) > MAX_MOTIONS:
            raise ConfigError(f"{len(motions)} motions in one prompt; up to {MAX_MOTIONS} go together; drop some")
        if "still" in motions and len(motions) > 1:
            raise ConfigError("'still' cannot be joined with another motion; drop one of them")
        for motion in motions:
            verb, _, way = motion.partition(" ")
            other = f"{verb} {OPPOSITES[way]}" if way else OPPOSITE_WORDS.get(verb)
            if other in motions:
                raise ConfigError(f"{motion!r} and {other!r} cancel out; drop one of them")


def check_words(words: Sequence[str]) -> tuple[str, ...]:
    """A file's list of motions, checked. Raises ConfigError; every part must be a word of this pack."""
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"motions are {_short(repr(words))}; a list of at least one motion is needed")
    if len(words) > MAX_WORDS:
        raise ConfigError(f"{len(words)} motions; up to {MAX_WORDS} are read; save the model again with its own")
    known = {name for name in SYNONYMS if name not in OPPOSITES}
    for motion in words:
        verb = motion.partition(" ")[0]
        if verb not in known or motion not in (verb, *(f"{verb} {way}" for way in OPPOSITES)):
            raise ConfigError(f"motion {_short(motion)!r} is not known to this pack; update the pack")
    plain = {motion for motion in words if " " not in motion}
    if len(set(words)) != len(words) or any(motion.split()[0] in plain for motion in words if " " in motion):
        raise ConfigError(f"motions {_short(', '.join(words), 200)} name one twice; each must differ")
    return tuple(words)


def _has_weight(text: str) -> bool:
    """Whether some brackets that hold no others hold a colon, as in "(pan left:1.2)"; in one pass."""
    inside = (part.partition(")") for part in text.split("(")[1:])
    return any(closed and ":" in part for part, closed, _ in inside)


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
