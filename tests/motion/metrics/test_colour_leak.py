"""How far a clip takes over another's colours."""

import pytest
import torch
from pack.motion.metrics.colour import srgb_to_lab
from pack.motion.metrics.colour_leak import colour_leak, colour_shares, colours_in_common


def of(*parts, frames=3):
    """A clip (t, 32, 40, 3) of upright stripes of equal width, each of one colour."""
    clip = torch.empty(frames, 32, 40, 3)
    for index, colour in enumerate(parts):
        clip[:, :, index * 40 // len(parts) : (index + 1) * 40 // len(parts)] = torch.tensor(colour)
    return clip


RED, GREEN, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.9), (0.5, 0.5, 0.5)


def test_shares_are_those_of_a_loop_over_pixels():
    clip = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(1))
    truth = torch.zeros(6, 13, 13, dtype=torch.float64)
    for lab in srgb_to_lab(clip.reshape(-1, 3).double()).tolist():
        place = [lab[0] / 20, (lab[1] + 120) / 20, (lab[2] + 120) / 20]
        for corner in range(8):
            at, weight = [], 1.0
            for axis, value in enumerate(place):
                low, up = int(value), corner >> axis & 1
                at.append(low + up)
                weight *= value - low if up else 1 - (value - low)
            if weight:
                truth[tuple(at)] += weight / 70
    found = colour_shares(clip)
    assert (found - truth).abs().max() < 1e-12 and found.sum() == pytest.approx(1)


def test_the_same_colours_anywhere_are_all_in_common_and_others_none():
    shares = colour_shares(of(RED, GREEN))
    assert colours_in_common(shares, colour_shares(of(GREEN, RED))) == pytest.approx(1)
    assert colours_in_common(shares, colour_shares(of(BLUE, GREY))) < 0.01
    assert colours_in_common(shares, colour_shares(of(RED, BLUE))) == pytest.approx(0.5, abs=0.01)


def test_a_small_change_of_colour_is_a_small_change():
    one, other = (colour_shares(of((0.5, 0.4, 0.3 + more))) for more in (0.0, 0.002))
    assert 0.97 < colours_in_common(one, other) < 1


def test_a_leak_is_told_beside_what_the_base_has_anyway():
    source, base, made = (colour_shares(of(*parts)) for parts in ((RED, GREEN), (GREEN, BLUE), (RED, GREEN)))
    assert colour_leak(made, source) == pytest.approx(1) == colour_leak(made, source, base)
    assert colour_leak(base, source) == pytest.approx(0.5, abs=0.01)
    assert colour_leak(base, source, base) == pytest.approx(0, abs=1e-12)
    half = colour_shares(of(RED, GREEN, GREEN, BLUE))
    assert colour_leak(half, source, base) == pytest.approx(0.5, abs=0.02)
    assert colour_leak(colour_shares(of(BLUE, GREY)), source, base) == pytest.approx(-1, abs=0.02)
    assert colour_leak(made, source, source) is None
