"""How strongly a motion word may act before it bends faces and people, and words that are read but no longer listed.

motionblocks-small moves a part of the photo and pulls what lies around it along like a rubber sheet. The slider of
such a word is therefore scaled: 19 gives the strongest bucket at which that stretch stays small on photographs of
people, animals and streets, 0 gives 0. Words that move the camera, the whole picture or the weather are not scaled.
benchmarks/safe_words.py measures the table; docs/words.md shows it.
"""

from collections.abc import Sequence

from ..limits import MAX_DYNAMICS

SAFE = {  # word -> bucket at the slider's top
    "slide left": 7, "slide right": 7, "slide up": 7, "slide down": 7, "bounce": 6, "orbit": 6, "swing": 5,
    "spin": 3, "clouds": 4, "waterfall": 4,
}  # fmt: skip
UNLISTED = {  # word -> why it is no longer named where motions are listed; prompts that have it are still read
    "spin": "what it turns is wrung long before it has turned far",
    "waterfall": "in a photo without falling water it bends whatever is pale and upright",
}


def safe_bucket(words: Sequence[str], dynamics: int) -> int:
    """The bucket for the network in place of the slider's value: dynamics · cap / 19, the lowest cap of the words.

    words: motions as the vocabulary names them. Never falls as dynamics rises; 0 stays 0, and 1 or more stays at
    least 1, since at 0 nothing moves. Without a capped word it is dynamics itself, whatever that is.
    """
    cap = _cap(words)
    return dynamics if cap >= MAX_DYNAMICS or dynamics < 1 else max(1, round(dynamics * cap / MAX_DYNAMICS))


def safety_notes(words: Sequence[str], dynamics: int) -> tuple[str, ...]:
    """Sentences for whoever asked for these words at this slider value: what was weakened, what is not listed."""
    notes = []
    bucket = safe_bucket(words, dynamics)
    if bucket != dynamics:
        weakest = min((word for word in words if word in SAFE), key=SAFE.__getitem__)
        notes.append(
            f"{weakest!r} at dynamics {dynamics} moves with strength {bucket}: its slider ends at {SAFE[weakest]} of "
            f"{MAX_DYNAMICS}, beyond which faces and people bend"
        )
    notes += [f"{word!r} is no longer listed: {UNLISTED[word]}; it is still read" for word in words if word in UNLISTED]
    return tuple(notes)


def _cap(words: Sequence[str]) -> int:
    return min((SAFE.get(word, MAX_DYNAMICS) for word in words), default=MAX_DYNAMICS)
