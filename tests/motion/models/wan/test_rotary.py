"""Rotary places of Wan against the formula, pair by pair in float64: whole, fractional and shifted ones."""

import math

import pytest
import torch
from pack.motion.choices import PLACES as MODES
from pack.motion.errors import ConfigError
from pack.motion.models.wan.rotary import sparse_places, turned, wan_rotary

AXES, HEADS = (8, 6, 6), 2
PLACES = {
    "whole": ([0, 1, 2], [0, 1], [0, 1, 2]),
    "fractional": ([0.0, 0.5, 2.25], [0, 1], [0.5, 1.5, 2.5]),
    "shifted": ([40.0, 41.0, 42.0], [7, 8], [-3, -2, -1]),
    "a place a row": ([[0.0, 1.0, 2.0], [5.5, 0.0, 0.25]], [0, 1], [0, 1, 2]),
}


def looped(x, frames, rows, columns):
    """x (b, n, d) turned one pair at a time: place · 10000^(-2i/width) for pair i of the numbers of an axis."""
    out = x.clone()
    frames = frames if isinstance(frames[0], list) else [frames] * len(x)
    for b in range(len(x)):
        tokens = [(f, r, c) for f in frames[b] for r in rows for c in columns]
        for n, places in enumerate(tokens):
            for head in range(HEADS):
                at = head * sum(AXES)
                for place, width in zip(places, AXES):
                    for i in range(width // 2):
                        angle = place * 10000.0 ** (-2 * i / width)
                        one, two = x[b, n, at].item(), x[b, n, at + 1].item()
                        out[b, n, at] = one * math.cos(angle) - two * math.sin(angle)
                        out[b, n, at + 1] = one * math.sin(angle) + two * math.cos(angle)
                        at += 2
    return out


@pytest.mark.parametrize("name", PLACES)
def test_tokens_turn_by_their_places_on_three_axes(name):
    x = torch.randn(2, 18, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = [torch.tensor(each) for each in PLACES[name]]
    expected = looped(x, *PLACES[name])
    assert (turned(x, wan_rotary(*places, AXES, dtype=torch.float64), HEADS) - expected).abs().max() <= 1e-12
    single = turned(x.float(), wan_rotary(*places, AXES), HEADS)
    assert single.dtype == torch.float32 and (single - expected).abs().max() <= 2e-6
    assert (x - expected).abs().max() > 0.1


def test_scores_depend_on_how_far_apart_places_are_alone():
    q, k = torch.randn(2, 1, 18, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = []
    for shift in (0.0, 12.5):
        places = [torch.arange(size, dtype=torch.float64) + shift for size in (3, 2, 3)]
        rotary = wan_rotary(*places, AXES, dtype=torch.float64)
        scores.append(turned(q, rotary, 1) @ turned(k, rotary, 1).mT)
    assert (scores[0] - scores[1]).abs().max() <= 1e-12


@pytest.mark.parametrize("mode, places", [
    ("stride", [0, 5, 10, 15, 20]), ("paper", [0, 4.2, 8.4, 12.6, 16.8]), ("center", [0, 3.5, 8.5, 13.5, 18.5]),
    ("off", [0, 1, 2, 3, 4]),
])  # fmt: skip
def test_sparse_frames_stand_where_each_mode_puts_them(mode, places):
    found = sparse_places(mode, 5, 21)
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(places, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_frames_that_are_not_sparse_stand_where_they_always_do(mode):
    assert torch.equal(sparse_places(mode, 5, 5), torch.arange(5.0))


def test_places_that_cannot_be_are_refused():
    for arguments in (("mine", 3, 5), ("stride", 1, 5), ("stride", 6, 5)):
        with pytest.raises(ConfigError, match="modes are stride, paper, center, off"):
            sparse_places(*arguments)
