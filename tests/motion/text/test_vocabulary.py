"""The motion vocabulary reads plain prompts and refuses what it does not know."""

import time

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.text.encoder import MotionTextEncoder
from pack.motion.text.vocabulary import MotionVocabulary, _has_weight

VOCABULARY = MotionVocabulary()


@pytest.mark.parametrize(
    ("text", "motions"),
    [
        ("pan left", ("pan left",)),
        ("The camera slowly pans to the LEFT.", ("pan left",)),
        ("zoom in, pan left", ("pan left", "zoom in")),
        ("pan left and zooms in", ("pan left", "zoom in")),
        ("pan up left", ("pan left", "pan up")),
        ("rotating clockwise", ("rotate right",)),
        ("turn counter-clockwise", ("rotate left",)),
        ("static", ("still",)),
        ("pan left, pan left", ("pan left",)),
        ("", ()),
        ("  the camera ,, ", ()),
    ],
)
def test_prompt_is_read_as_its_motions(text, motions):
    assert VOCABULARY.motions(text) == motions


def test_order_of_motions_does_not_change_the_ids():
    assert VOCABULARY.tokenize("zoom in, pan left") == VOCABULARY.tokenize("pan left, zoom in")


def test_every_motion_has_its_own_token_and_rows_are_eight_long():
    rows = [VOCABULARY.tokenize(motion) for motion in VOCABULARY.words]
    assert len({tuple(row) for row in rows}) == len(VOCABULARY.words) == VOCABULARY.size - 1
    assert {len(row) for row in rows} == {8}
    assert VOCABULARY.tokenize("") == [0] * 8


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("zom in", "nearest is 'zoom'"),
        ("a dragon", "pan left"),
        ("pan", "needs a direction"),
        ("pan, zoom in", "needs a direction"),
        ("left", "known motions"),
        ("zoom left", "known motions"),
        ("pan left, pan right", "cancel"),
        ("still, pan left", "still"),
        ("pan left, zoom in, rotate left", "up to 2"),
        ("(pan left:1.2)", "dynamics slider"),
        ("((pan left) (zoom in :1.2))", "dynamics slider"),
        ("(pan left:1.2", "unknown word '(pan'"),
        ("pan left " * 200, "1800 characters; up to 1000"),
        ("\N{GRINNING FACE}" * 300, "known motions"),
    ],
)
def test_prompt_that_cannot_be_meant_is_refused_with_a_way_out(text, need):
    with pytest.raises(ConfigError, match=".") as caught:
        VOCABULARY.tokenize(text)
    assert need in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["(" + ":" * 990, "(:" * 490, "(" * 500 + ":" * 490, ":" * 500 + ")" * 490, "a" * 990])
def test_a_prompt_is_read_in_time_that_grows_with_its_length(text):
    """16,000 colons behind a bracket took 0.4 s and held the interpreter."""
    for hostile in (text, text * 1000):
        started = time.process_time()
        with pytest.raises(ConfigError, match="unknown word|up to 1000 are read"):
            VOCABULARY.tokenize(hostile)
        _has_weight(hostile)
        assert time.process_time() - started < 0.2


def test_encoder_rows_do_not_mix_and_empty_prompt_keeps_one_key():
    torch.manual_seed(0)
    encoder = MotionTextEncoder(VOCABULARY.size, 64)
    ids = torch.tensor([VOCABULARY.tokenize(text) for text in ("pan left, zoom in", "", "still")])
    context, pooled, mask = encoder(ids)
    assert (context.shape, pooled.shape, mask.shape) == ((3, 8, 64), (3, 64), (3, 8))
    assert mask.sum(1).tolist() == [2, 1, 1]
    alone = encoder(ids[1:2])
    assert torch.equal(alone[0], context[1:2]) and torch.allclose(alone[1], pooled[1:2], atol=1e-6)


LARGER = MotionVocabulary(("pan left", "rotate left", "still", "slide left", "slide up", "bounce", "spin", "rain"))


@pytest.mark.parametrize(
    ("text", "motions"),
    [
        ("the ball bounces", ("bounce",)),
        ("sliding to the left", ("slide left",)),
        ("pans left while it rains", ("pan left", "rain")),
        ("spins", ("spin",)),
        ("turn left", ("rotate left",)),
        ("glide up", ("slide up",)),
    ],
)
def test_a_files_own_motions_take_the_words_that_mean_them(text, motions):
    assert LARGER.motions(text) == motions


def test_a_file_without_spin_and_slide_reads_them_as_camera_motions():
    assert VOCABULARY.motions("slide left") == ("pan left",)
    assert VOCABULARY.motions("spin right") == ("rotate right",)


@pytest.mark.parametrize(
    ("text", "need"),
    [("pan right", "slide up"), ("snow", "bounce, rain"), ("slide", "slide left, slide up"), ("zoom in", "rain")],
)
def test_refusals_list_the_files_own_motions(text, need):
    with pytest.raises(ConfigError) as caught:
        LARGER.tokenize(text)
    assert need in str(caught.value) and "zoom out" not in str(caught.value)


def test_ids_follow_the_files_order():
    assert LARGER.tokenize("rain")[0] == 8 and LARGER.size == 9


@pytest.mark.parametrize(
    "words", [(), "rain", ("rain", "rain"), ("fly",), ("pan around",), ("rain", "rain left"), (3,)]
)
def test_what_is_no_list_of_motions_is_refused(words):
    with pytest.raises(ConfigError, match="motions? "):
        MotionVocabulary(words)


def test_motions_that_cancel_are_refused_also_when_they_are_single_words():
    with pytest.raises(ConfigError, match="cancel"):
        MotionVocabulary(("grow", "shrink")).motions("grow, shrink")
