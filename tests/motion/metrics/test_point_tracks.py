"""Points followed through clips whose motion is known, and tracks of others read from their text."""

import json

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics.motion_track import shrink
from pack.motion.metrics.point_tracks import GIVEN, OWN, follow_points, read_tracks


def texture(height, width, seed=0):
    """A smooth picture (3, height, width) with detail everywhere."""
    draw = torch.rand(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(draw, (height, width), mode="bicubic")[0].clamp(0, 1)


def sliding(dx, dy, frames=6, height=72, width=96, seed=0):
    """A clip (t, h, w, 3) of a texture that moves by whole px a frame."""
    whole = texture(height + 60, width + 60, seed)
    rows = [whole[:, 30 - n * dy : 30 - n * dy + height, 30 - n * dx : 30 - n * dx + width] for n in range(frames)]
    return torch.stack(rows).movedim(1, -1)


@pytest.mark.parametrize("dx, dy", [(1, 0), (0, -2), (3, 2), (-4, 3)])
def test_points_go_where_the_picture_goes(dx, dy):
    found = follow_points(sliding(dx, dy))
    assert len(found) > 300 and found.by == OWN and (found.height, found.width) == (72, 96)
    truth = torch.arange(6.0, dtype=torch.float64).unsqueeze(1) * torch.tensor((dx, dy), dtype=torch.float64)
    away = (found.places - found.places[:, :1] - truth).norm(dim=-1)
    assert away[found.seen].median() < 0.05 and (away[found.seen] < 0.5).double().mean() > 0.97


def test_a_point_is_lost_at_the_border_and_stays_lost():
    found = follow_points(sliding(5, 0, frames=5))
    late = (found.places[:, 0, 0] > 96 - 15) & (found.places[:, 0, 0] < 96 - 11)  # out at frame 4 of 5
    assert late.any() and not found.seen[late, -1].any() and found.seen[late, 0].all()
    assert (found.seen[:, 1:] <= found.seen[:, :-1]).all()
    assert (found.places[:, 0, 0] < 96 - 8).all()  # those that leave sooner than half way are left out


def test_flat_ground_and_straight_edges_hold_no_point():
    assert len(follow_points(torch.full((4, 64, 64, 3), 0.4))) == 0
    edge = torch.zeros(4, 64, 64, 3)
    edge[:, :, 32:] = 1
    assert len(follow_points(edge)) == 0
    corner = torch.zeros(4, 64, 64, 3)
    corner[:, 32:, 32:] = 1
    assert len(follow_points(corner)) > 0


def test_larger_clips_are_followed_at_256_px_and_told_in_their_own():
    small = sliding(2, 1, frames=3, height=256, width=256)
    large = torch.nn.functional.interpolate(small.movedim(-1, 1), scale_factor=2.0, mode="bilinear").movedim(1, -1)
    found = follow_points(large, grid=8)
    step = (found.places[:, 2] - found.places[:, 0])[found.seen[:, 2]].median(dim=0).values
    assert found.width == 512 and (step - torch.tensor((8.0, 4.0))).abs().max() < 0.4


def test_clips_are_measured_at_256_px_at_most():
    small, scale = shrink(torch.rand(2, 300, 600, 3))
    assert small.shape == (2, 256, 512, 3) and scale == 256 / 300
    assert shrink(small[:, :64])[1] == 1 and torch.equal(shrink(small[:, :64])[0], small[:, :64])


def test_something_that_jumps_is_lost_not_guessed():
    clip = sliding(0, 0, frames=4)
    clip[2:] = texture(72, 96, seed=9).movedim(0, -1)
    found = follow_points(clip)
    assert found.seen[:, 1].all() and found.seen[:, 2].double().mean() < 0.05


def test_reach_is_the_farthest_from_the_start_and_places_between_frames_are_on_the_way():
    text = json.dumps([[{"x": x, "y": 10} for x in (5, 9, 17, 5)]])
    found = read_tracks(text, 4, 20, 30)
    assert found.by == GIVEN and found.reach.tolist() == [12.0] and found.diagonal == pytest.approx(1300**0.5)
    assert found.at(torch.tensor([0.5, 2.25], dtype=torch.float64)).places[0, :, 0].tolist() == [7.0, 14.0]


@pytest.mark.parametrize("text, said", [
    ("no json", "tracks cannot be read"), ("[]", "1 to 1024 tracks"), ('[[{"x": 1, "y": 2}]]', "2 points.*not 1"),
    ('[[{"x": 1}, {"x": 1}]]', "without a number y"), ('[[{"x": true, "y": 1}, {"x": 1, "y": 1}]]', "number x"),
    ('[[{"x": 1e300, "y": 1}, {"x": 1, "y": 1}]]', "number x"), ('{"x": 1}', "a list of 1"),
])  # fmt: skip
def test_tracks_that_cannot_be_read_are_refused_in_words(text, said):
    with pytest.raises(ConfigError, match=said):
        read_tracks(text, 2, 20, 30)


def test_clips_that_cannot_be_followed_are_refused():
    for shape in ((1, 64, 64, 3), (3, 8, 64, 3), (3, 64, 64)):
        with pytest.raises(ShapeError, match="t >= 2 and sides of at least 16 px"):
            follow_points(torch.zeros(shape))
