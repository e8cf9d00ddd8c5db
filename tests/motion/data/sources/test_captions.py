"""Captions as people and their editors write them find their clips; what cannot be is refused by its place."""

import json
import time
import unicodedata

import pytest
from pack.motion.data.sources import captions
from pack.motion.data.sources.captions import read_captions
from pack.motion.errors import ConfigError

COMPOSED, APART = (unicodedata.normalize(form, "café été.mp4") for form in ("NFC", "NFD"))


def put_list(folder, *lines):
    text = "\n".join(json.dumps(dict(zip(("file", "caption"), line)), ensure_ascii=False) for line in lines)
    (folder / "captions.jsonl").write_bytes(text.encode())


@pytest.mark.parametrize(("clip", "listed"), [
    (COMPOSED, APART), (APART, COMPOSED), ("sub/deep/a.mp4", "sub\\deep\\a.mp4"), ("sub/a.mp4", ".\\sub\\a.mp4"),
    ("sub/a.mp4", "./sub//a.mp4"), (f"sub/{APART}", f"sub\\{COMPOSED}"), ("back\\slash.mp4", "back\\slash.mp4"),
])  # fmt: skip
def test_a_name_in_the_list_fits_a_clip_whose_separators_or_accents_are_written_otherwise(tmp_path, clip, listed):
    (tmp_path / clip).parent.mkdir(parents=True, exist_ok=True)
    put_list(tmp_path, (listed, "pan left"))
    assert read_captions(tmp_path, [clip]) == ({clip: "pan left"}, [], [])


def test_an_exact_name_wins_over_one_that_is_written_otherwise(tmp_path):
    put_list(tmp_path, (APART, "apart"), (COMPOSED, "composed"))
    assert read_captions(tmp_path, [COMPOSED, APART])[0] == {COMPOSED: "composed", APART: "apart"}


def test_two_lines_that_mean_one_clip_are_refused(tmp_path):
    put_list(tmp_path, (APART, "apart"), (COMPOSED, "composed"))
    with pytest.raises(ConfigError, match="line 2: .* has a caption already"):
        read_captions(tmp_path, [COMPOSED])


@pytest.mark.parametrize(("clip", "text"), [
    ("a.mp4", "a.TXT"), ("a.b.mp4", "a.b.Txt"), (COMPOSED, APART.replace("mp4", "txt")),
    (APART, COMPOSED.replace("mp4", "TXT")),
])  # fmt: skip
def test_a_text_beside_a_clip_is_found_in_any_case_of_its_suffix_and_any_form_of_its_accents(tmp_path, clip, text):
    (tmp_path / text).write_text("zoom in")
    put_list(tmp_path, (clip, "pan left"))
    assert read_captions(tmp_path, [clip]) == ({clip: "zoom in"}, [], [])


def test_of_two_texts_the_one_with_the_plain_suffix_is_read_and_without_it_both_are_named(tmp_path):
    for name in ("a.txt", "a.TXT", "a.Txt"):
        (tmp_path / name).write_text(name)
    assert read_captions(tmp_path, ["a.mp4"])[0] == {"a.mp4": "a.txt"}
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ConfigError, match="a.mp4 has the captions a.TXT and a.Txt; keep one"):
        read_captions(tmp_path, ["a.mp4"])


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_and_lists_are_read_in_the_codings_that_editors_save(tmp_path, coding):
    (tmp_path / "a.txt").write_bytes("zoom in – größer\r\n".encode(coding))
    line = json.dumps({"file": "b.mp4", "caption": "schwenk – nach links"}, ensure_ascii=False)
    (tmp_path / "captions.jsonl").write_bytes(f"{line}\r\n".encode(coding))
    found, *_ = read_captions(tmp_path, ["a.mp4", "b.mp4"])
    assert found == {"a.mp4": "zoom in – größer", "b.mp4": "schwenk – nach links"}


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x1e"])
def test_only_line_feeds_and_returns_end_a_line_of_the_list(tmp_path, mark):
    caption = f"one{mark}two" if mark != "\x1e" else "one two"
    end = "\r\n" if mark != "\x1e" else "\r"
    lines = [json.dumps({"file": f"{name}.mp4", "caption": caption}, ensure_ascii=False) for name in "ab"]
    (tmp_path / "captions.jsonl").write_bytes(end.join(lines).encode())
    assert read_captions(tmp_path, ["a.mp4", "b.mp4"])[0] == {"a.mp4": "one two", "b.mp4": "one two"}


@pytest.mark.parametrize(("text", "words"), [
    ('{"file": "a.mp4", "caption": "\\ud83d"}', "line 1: not JSON .half a character"),
    ('{"file": "a.mp4", "caption": "' + "x" * 70_000 + '"}', "line 1: longer than 65536 letters"),
    ('{"file": ' + "[" * 500 + "]" * 500 + "}", "line 1: not JSON .nested too deep"),
    ("\n" * 200_001, "more than 100000 lines"), (" " * (16 * 2**20 + 1), "longer than 16777216 bytes; split"),
])  # fmt: skip
def test_a_list_that_cannot_be_is_refused_with_its_place(tmp_path, text, words):
    (tmp_path / "captions.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_captions(tmp_path, ["a.mp4"])


@pytest.mark.slow
def test_the_longest_list_is_read_in_a_moment(tmp_path):
    names = [f"{index:06d}.mp4" for index in range(captions.MAX_LINES)]
    put_list(tmp_path, *((name, "pan left") for name in names))
    started = time.process_time()
    assert len(read_captions(tmp_path, names)[0]) == captions.MAX_LINES
    assert time.process_time() - started < 5
