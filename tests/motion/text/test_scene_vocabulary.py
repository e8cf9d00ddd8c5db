"""Prompts of what a picture shows: read in any order, refused with a way out, vectors that do not touch each other."""

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.text.scene_vocabulary import STOP_WORDS, SYNONYMS, VECTOR_SIZE, SceneVocabulary, word_vectors

GROUPS = {"size": ["small", "large"], "colour": ["red", "blue"], "shape": ["ball", "box"], "ground": ["sand", "night"],
          "motion": ["still", "left", "bounce"]}  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary():
    return SceneVocabulary(GROUPS)


def test_a_prompt_is_read_word_by_word_in_any_order(vocabulary):
    ids = vocabulary.tokenize("small red ball, on sand, moves left")
    assert ids == [1, 3, 5, 7, 10, 0, 0, 0] == vocabulary.tokenize("Left, moving BALL; red sand small!")
    assert vocabulary.tokenize("") == [0] * 8 and vocabulary.size == 12
    assert vocabulary.named("the ball stands still at night") == ("ball", "night", "still")


def test_other_words_for_the_same_are_read_and_repeats_count_once(vocabulary):
    assert vocabulary.tokenize("a tiny red circle bounces, hopping") == vocabulary.tokenize("small red ball, bounce")


def test_no_word_is_read_as_two_things():
    seen = [word for name, others in SYNONYMS.items() for word in (name, *others.split())]
    assert len(seen) == len(set(seen))
    assert not set(seen) & STOP_WORDS


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("red cat", "unknown word 'cat'.*colour: red, blue"), ("rde ball", "nearest is 'red'"),
        ("red and blue ball", "two words of colour, 'red' and 'blue'; keep one"), ("(red:1.2) ball", "weight"),
        ("red " * 400, "1600 characters"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_a_way_out(vocabulary, prompt, says):
    with pytest.raises(ConfigError, match=says):
        vocabulary.tokenize(prompt)


@pytest.mark.parametrize(
    "groups", [{}, {"colour": []}, {"colour": "red"}, {"a": ["red"], "b": ["red"]}, {"a": ["Red!"]}, [["red"]],
               {str(k): [f"word{'a' * k}"] for k in range(1, 12)}],
)  # fmt: skip
def test_tables_that_are_none_are_refused(groups):
    with pytest.raises(ConfigError):
        SceneVocabulary(groups)


def test_vectors_of_words_are_orthogonal_and_exact_in_half_precision():
    vectors = word_vectors(34, 4096)
    length = VECTOR_SIZE**2 * 4096
    assert torch.equal(vectors @ vectors.T, torch.eye(34) * length)
    assert torch.equal(vectors.half().float(), vectors) and torch.equal(vectors.bfloat16().float(), vectors)
    assert torch.equal(word_vectors(5, 4096), vectors[:5])  # a word added later changes none before it


@pytest.mark.parametrize("count, width", [(3, 100), (64, 64), (1, 0)])
def test_words_that_do_not_fit_a_width_are_refused(count, width):
    with pytest.raises(ConfigError, match="power of two"):
        word_vectors(count, width)
