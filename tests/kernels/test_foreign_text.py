"""Foreign text on its way to a person: it shows what is there, and does nothing else."""

import json
import logging
import pickle

import pytest
from pack.kernels.foreign_text import LIMIT, has_half_character, safe_logger, safe_text
from pack.motion.errors import CheckpointError, ConfigError, ShapeError

ERRORS = [CheckpointError, ConfigError, ShapeError]
HIDDEN = [*map(chr, range(32)), "\x7f", "\x85", "\x9b", "\xad", "\u061c", *map(chr, range(0x200B, 0x2010)),
          *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\ufeff", "\ud800", "\udcff", "\udfff",
          "\U000e0041"]  # fmt: skip


PLAIN = ["", "zoom in", "été 動画 клип عربى.mp4", "🦝 ❤️ 👍🏽", "a\xa0b\u3000c", "AT&T 'q' \"q\" \\n <pad>"]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_of_any_language_stays_as_it_is(text):
    assert safe_text(text) == text


@pytest.mark.parametrize("letter", sorted(set(HIDDEN) - set("\n\r\t")), ids=ascii)
def test_what_cannot_be_seen_is_written_out(letter):
    assert safe_text(f"a{letter}b") == f"a{ascii(letter)[1:-1]}b" == safe_text(f"a{letter}b", lines=True)


def test_line_breaks_are_kept_or_folded_as_asked():
    text = "one\r\ntwo \t\n\n three\rfour\tfive"
    assert safe_text(text) == "one two three four five"
    assert safe_text(text, lines=True) == "one\ntwo \\t\n\n three\nfour\\tfive"


def test_markup_turns_into_look_alikes_where_it_could_be_read_as_html():
    assert safe_text("<img src=x onerror=go()>", markup=False) == "‹img src=x onerror=go()›"
    assert safe_text("[[click here|https://x.y]] [[[", markup=False) == "[ [click here|https://x.y]] [ [ ["
    assert safe_text("&lt;b&gt; &#60; AT&T", markup=False) == "＆lt;b＆gt; ＆#60; AT&T"


def test_long_text_keeps_its_two_ends_and_never_exceeds_the_limit():
    assert safe_text("0123456789", limit=7) == "012…789" and safe_text("0123456789", limit=10) == "0123456789"
    for text in ("x" * 9_999_999, "\u202e" * 9999, "<\n" * 9999):
        for lines in (False, True):
            assert len(safe_text(text, lines=lines)) <= LIMIT


@pytest.mark.slow
def test_safe_text_comes_back_unchanged():
    for letter in HIDDEN:
        for text in (f"a{letter}<b [[[c&amp;lt;", "[[" * LIMIT, letter * LIMIT, letter * (LIMIT + 7)):
            for way in ({}, {"lines": True}, {"markup": False}, {"lines": True, "markup": False}):
                once = safe_text(text, **way)
                assert safe_text(once, **way) == once
                assert not has_half_character(once)


@pytest.mark.parametrize("kind", ERRORS)
def test_no_error_of_ours_holds_half_a_character_or_turns_the_line_round(kind):
    error = kind("clip 'a\ud800\u202e\x1b[2J\nb' is not there")
    assert str(error) == "clip 'a\\ud800\\u202e\\x1b[2J b' is not there"
    str(error).encode("utf-8")
    assert len(str(kind("x" * 10**7))) <= LIMIT


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_its_way_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("a\ud800")))
    assert type(error) is kind and str(error) == "a\\ud800" and error.args == ("a\\ud800",)


def test_our_loggers_write_safe_text_on_one_line(caplog):
    log = safe_logger("motionblocks.tested")
    assert safe_logger("motionblocks.tested") is log and len(log.filters) == 1
    with caplog.at_level(logging.WARNING):
        log.warning("%s was skipped", "a\ud800\nroot: all is well\x1b[0m")
    assert [record.getMessage() for record in caplog.records] == ["a\\ud800 root: all is well\\x1b[0m was skipped"]
    assert "\ud800" not in caplog.text


def test_half_a_character_is_told_from_a_whole_one():
    assert has_half_character(json.loads('"\\ud83e"')) and not has_half_character(json.loads('"\\ud83e\\udd9d"'))
