"""Curves as texts: straight between points, level outside, and anything unclear is refused with its point."""

import numpy as np
import pytest
from pack.motion.adapters.curves import MAX_POINTS, Curve, read_curve
from pack.motion.errors import ConfigError


@pytest.mark.parametrize("text", ["0:0, 0.5:1, 1:0.2", "0.25:2,0.75:-1", ".1:1e1 , 1:+3.", "0.5:4", "0:1,1:1"])
def test_a_curve_is_straight_between_its_points_and_level_outside(text):
    points = [tuple(float(part) for part in point.split(":")) for point in text.split(",")]
    curve = read_curve(text)
    for position in np.linspace(-0.2, 1.2, 57):
        assert curve.at(position) == pytest.approx(np.interp(position, *zip(*points)), abs=1e-12)
    for position, value in points:
        assert curve.at(position) == value


@pytest.mark.parametrize(("text", "value"), [("", 1.0), ("  ", 1.0), ("0.7", 0.7), (" -2 ", -2.0), ("0", 0.0)])
def test_no_points_mean_one_value_throughout(text, value):
    assert read_curve(text).at(0.0) == read_curve(text).at(0.31) == read_curve(text).at(1.0) == value


def test_sixty_four_points_are_read_and_not_one_more():
    texts = [f"{index / 64:.6f}:{index}" for index in range(MAX_POINTS)]
    assert read_curve(",".join(texts)) == Curve(tuple((round(index / 64, 6), float(index)) for index in range(64)))
    with pytest.raises(ConfigError, match="has 65 points; up to 64"):
        read_curve(",".join([*texts, "1:1"]))


@pytest.mark.parametrize(("text", "words"), [
    ("0:0, 0.5", "curve '0:0, 0.5': point '0.5' is no position:value"), ("0:0,", "point '' is no position:value"),
    ("0:0, 0:1", "point '0:1' stands at 0; .* above the one before"), ("0.5:0, 0.4:1", "point '0.4:1' stands at 0.4"),
    ("1.5:0", r"point '1.5:0' stands at 1.5; positions lie in 0..1"), ("-0.1:0", "stands at -0.1"),
    ("0:a", "value 'a' is no number"), ("x:1", "position 'x' is no number"), ("0:1:2", "value '1:2' is no number"),
    ("nan", "value 'nan' is no number"), ("0:inf", "'inf' is no number"), ("0:1e999", "'1e999' is no number"),
    ("1_0", "'1_0' is no number"), ("٣", "is no number"), ("0:", "value '' is no number"), (None, "is no text"),
    ("0" * 5000, "no text of up to 4096"),
])  # fmt: skip
def test_what_is_no_curve_is_refused_with_text_point_and_need(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_curve(text)
    assert len(str(caught.value)) < 300
