"""The slider of a word ends where faces and people would bend; words that cannot behave are read but not listed."""

import pytest
from pack.motion.builtin_model import load_builtin
from pack.motion.errors import ConfigError
from pack.motion.limits import MAX_DYNAMICS
from pack.motion.text.safe_words import SAFE, UNLISTED, safe_bucket, safety_notes
from pack.motion.text.vocabulary import MOTIONS, MotionVocabulary

SMALL = (
    *MOTIONS, "slide left", "slide right", "slide up", "slide down", "bounce", "orbit", "spin", "swing", "clouds",
    "waterfall", "sway", "pulse", "rain", "snow",
)  # fmt: skip


@pytest.mark.parametrize("word", SAFE)
def test_a_capped_word_keeps_its_whole_slider_from_still_to_its_cap(word):
    buckets = [safe_bucket([word], dynamics) for dynamics in range(MAX_DYNAMICS + 1)]
    assert buckets[0] == 0 and buckets[MAX_DYNAMICS] == SAFE[word] < MAX_DYNAMICS
    assert buckets == sorted(buckets) and min(buckets[1:]) == 1
    assert set(buckets) == set(range(SAFE[word] + 1)), "every strength up to the cap can be reached"
    straight = [dynamics * SAFE[word] / MAX_DYNAMICS for dynamics in range(MAX_DYNAMICS + 1)]
    assert all(abs(bucket - due) <= 0.5 for bucket, due in zip(buckets, straight) if bucket > 1)


@pytest.mark.parametrize("words", [(), *((word,) for word in (*MOTIONS, "sway", "pulse", "rain", "snow"))])
def test_words_of_camera_picture_and_weather_keep_the_slider_as_it_is(words):
    for dynamics in range(MAX_DYNAMICS + 1):
        assert safe_bucket(words, dynamics) == dynamics and not safety_notes(words, dynamics)


@pytest.mark.parametrize(("words", "lowest"), [(("slide left", "swing"), "swing"), (("pan left", "clouds"), "clouds")])
def test_the_lower_cap_of_two_words_holds_and_is_named(words, lowest):
    assert safe_bucket(words, MAX_DYNAMICS) == safe_bucket(words[::-1], MAX_DYNAMICS) == SAFE[lowest]
    (note,) = safety_notes(words, MAX_DYNAMICS)
    assert repr(lowest) in note and f"dynamics {MAX_DYNAMICS}" in note and f"strength {SAFE[lowest]}" in note


def test_nothing_is_said_where_nothing_was_weakened():
    assert safety_notes(["swing"], 0) == () and safety_notes(["swing"], 1) == ()


def test_words_that_cannot_behave_are_read_with_a_note_and_named_nowhere():
    vocabulary = MotionVocabulary(SMALL)
    assert vocabulary.listed == tuple(word for word in SMALL if word not in UNLISTED)
    for index, word in enumerate(SMALL):
        assert vocabulary.tokenize(word)[0] == index + 1, "ids are those of the file"
    for word in UNLISTED:
        assert vocabulary.motions(word) == (word,)
        assert f"{word!r} is no longer listed" in safety_notes([word], 0)[-1]


@pytest.mark.parametrize("text", ["a dragon", "left", "zoom left", "spinn", "waterfal", "cascad", "x" * 2000])
def test_messages_do_not_propose_an_unlisted_word(text):
    with pytest.raises(ConfigError) as caught:
        MotionVocabulary(SMALL).tokenize(text)
    proposed = str(caught.value).replace(repr(text), "")
    assert not any(word in proposed for word in UNLISTED)


def test_a_file_that_knows_nothing_else_still_lists_what_it_knows():
    assert MotionVocabulary(("spin",)).listed == ("spin",)


def test_the_table_is_about_the_words_of_the_shipped_model():
    words = load_builtin("motionblocks-small").vocabulary.words
    assert words == SMALL and set(UNLISTED) < set(SAFE) < set(words)
