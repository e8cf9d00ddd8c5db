"""Motion fidelity against a loop in float64, and what it says of clips that are alike, mirrored, still or short."""

import math

import pytest
import torch
from pack.motion.metrics.motion_fidelity import motion_fidelity
from pack.motion.metrics.point_tracks import PointTracks


def tracks_of(places, seen=None, size=(100, 100)):
    places = torch.as_tensor(places, dtype=torch.float64)
    seen = torch.ones(places.shape[:2], dtype=torch.bool) if seen is None else torch.as_tensor(seen)
    return PointTracks(places, seen, *size)


def drawn(count, frames, seed, step=3.0):
    draw = torch.Generator().manual_seed(seed)
    start = 100 * torch.rand(count, 1, 2, generator=draw, dtype=torch.float64)
    return start + (step * torch.randn(count, frames, 2, generator=draw, dtype=torch.float64)).cumsum(1)


def corr_by_hand(a, b, seen_a, seen_b, diagonals):
    """Mean over common steps, as the page of the specification says it."""
    values = []
    for i in range(len(a) - 1):
        if not (seen_a[i] and seen_a[i + 1] and seen_b[i] and seen_b[i + 1]):
            continue
        u, v = [(p[i + 1][0] - p[i][0], p[i + 1][1] - p[i][1]) for p in (a, b)]
        lengths = [math.hypot(*u), math.hypot(*v)]
        still = [length < 0.0005 * diagonal for length, diagonal in zip(lengths, diagonals)]
        if any(still):
            values.append(1.0 if all(still) else 0.0)
        else:
            values.append((u[0] * v[0] + u[1] * v[1]) / (lengths[0] * lengths[1]))
    return sum(values) / len(values) if values else 0.0


def test_the_formula_is_that_of_a_loop():
    a, b = drawn(6, 7, 1), drawn(5, 7, 2)
    a[2, 3:5] = a[2, 3]
    b[1, 3:6] = b[1, 3]
    seen_a, seen_b = torch.ones(6, 7, dtype=torch.bool), torch.ones(5, 7, dtype=torch.bool)
    seen_a[0, 5:] = False
    seen_b[3, 4:] = False
    one, other = tracks_of(a, seen_a), tracks_of(b, seen_b, (80, 120))
    table = [[corr_by_hand(p, q, s, r, (one.diagonal, other.diagonal)) for q, r in zip(b.tolist(), seen_b.tolist())]
             for p, s in zip(a.tolist(), seen_a.tolist())]  # fmt: skip
    rows = sum(max(row) for row in table) / len(table)
    columns = sum(max(row[k] for row in table) for k in range(5)) / 5
    found = motion_fidelity(one, other)
    assert found.all_tracks == pytest.approx((rows + columns) / 2, abs=1e-12) and found.tracks == (6, 5)


def test_a_clip_is_wholly_like_itself():
    clip = tracks_of(drawn(30, 9, 3))
    found = motion_fidelity(clip, clip)
    assert found.all_tracks == pytest.approx(1, abs=1e-12) and found.moving_tracks == pytest.approx(1, abs=1e-12)


def right_and_still(frames=9, sign=1):
    """Ten points that go right, or left, and ten that stand."""
    places = torch.full((20, frames, 2), 50.0, dtype=torch.float64)
    places[:10, :, 0] += sign * torch.arange(frames) * 2.0
    return tracks_of(places)


def test_a_mirrored_motion_is_low_and_a_frozen_clip_is_shown_by_its_moving_tracks():
    source = right_and_still()
    mirrored = motion_fidelity(source, right_and_still(sign=-1))
    assert mirrored.moving_tracks == -1 and mirrored.all_tracks == pytest.approx(0.5)  # what stands agrees
    frozen = tracks_of(torch.full((20, 9, 2), 50.0))
    found = motion_fidelity(source, frozen)
    assert found.all_tracks == pytest.approx(0.75) and found.moving_tracks == 0.0 and found.moving == (10, 0)


def test_a_clip_of_another_length_is_compared_over_its_share_of_time_or_frame_by_frame():
    there_and_back = torch.full((6, 9, 2), 20.0, dtype=torch.float64)
    there_and_back[..., 0] += torch.tensor([0, 4, 8, 12, 16, 12, 8, 4, 0.0])
    long = tracks_of(there_and_back)
    short = tracks_of(there_and_back[:, ::2])  # the same motion in fewer frames
    assert motion_fidelity(long, short).moving_tracks == 1 == motion_fidelity(short, long).moving_tracks
    cut = tracks_of(there_and_back[:, :5])  # its first half
    assert motion_fidelity(long, cut, by_share=False).moving_tracks == 1
    assert motion_fidelity(long, cut).moving_tracks < 0.2
    assert motion_fidelity(long, short, by_share=False).moving_tracks < 0.2


def test_small_trembling_is_not_moving():
    trembling = tracks_of(50 + 0.1 * torch.randn(12, 60, 2, generator=torch.Generator().manual_seed(4)))
    found = motion_fidelity(trembling, right_and_still(60))
    assert found.moving == (0, 10) and found.moving_tracks is None and "nothing in the source moves" in found.missing
    assert found.all_tracks is not None


def test_too_few_tracks_give_no_number_and_a_reason():
    found = motion_fidelity(right_and_still(), tracks_of(drawn(3, 9, 5)))
    assert found.all_tracks is None and found.moving_tracks is None
    assert "fewer than 4 points of the clip" in found.missing
