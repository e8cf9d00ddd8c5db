"""JSON from others is read strictly, whole, and within limits that are checked before anybody walks through it."""

import time

import pytest
from pack.motion import foreign_json
from pack.motion.foreign_json import parse_json


def test_plain_values_are_read_from_text_and_bytes_with_or_without_a_byte_order_mark():
    values = {"a": [1, 2.5, None, True, "ü:,[{"], "b": {"c": {}}}
    text = '{"a": [1, 2.5, null, true, "ü:,[{"], "b": {"c": {}}}'
    assert parse_json(text) == parse_json(text.encode()) == parse_json("\ufeff" + text) == values
    assert parse_json(b"\xef\xbb\xbf" + text.encode()) == values


@pytest.mark.parametrize(("text", "reason"), [
    ('{"a": 1, "a": 2}', "'a' appears twice"), ("[NaN]", "NaN is not JSON"), ("[-Infinity]", "-Infinity is not JSON"),
    ("{", "Expecting"), (b"\xff", "utf-8"), ("1" * 5000, "digits"),
])  # fmt: skip
def test_what_is_no_json_is_a_value_error_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_constants_are_read_where_they_are_allowed():
    assert parse_json("[Infinity]", allow_constants=True) == [float("inf")]


@pytest.mark.parametrize("depth", [66, 400, 900, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_values_are_refused_before_code_that_walks_them_runs_out_of_stack(depth, opening):
    closing = "]" if opening == "[" else "}"
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(opening * depth + "1" + closing * depth)
    assert parse_json(opening * 64 + "1" + closing * 64)


@pytest.mark.parametrize("text", [
    lambda: "[" + "[]," * 1_200_000 + "1]", lambda: "[" + "0," * 1_300_000 + "0]",
    lambda: "{" + ",".join(f'"{i}":0' for i in range(460_000)) + "}",
], ids=["lists", "numbers", "names"])  # fmt: skip
def test_more_parts_than_any_file_needs_are_refused_before_they_are_made(text, monkeypatch):
    monkeypatch.setattr(foreign_json, "_STRICT", None)
    with pytest.raises(ValueError, match="more than 1200000 parts or 450000 names"):
        parse_json(text())


def test_commas_and_colons_in_a_text_are_no_parts():
    text = ",:[{" * 1_300_000
    assert parse_json(f'["{text}"]') == [text]


@pytest.mark.slow
@pytest.mark.parametrize("piece", ['"', '\\"', '"\\', "[", "]", '",', "{"])
def test_time_grows_with_the_size_and_not_faster(piece):
    text = ",:" * 600_001 + piece * 2_000_000
    started = time.process_time()
    with pytest.raises(ValueError, match="more than .* parts"):
        parse_json(text)
    assert time.process_time() - started < 2
