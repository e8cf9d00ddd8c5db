"""Skeletons over pictures, and skeleton pictures brought to a size."""

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.pose.body18 import COLOURS, LIMB_LIGHT
from pack.motion.pose.overlay import fit_pictures, lay_over, spread
from pack.motion.pose.renderer import draw_people
from pose_people import one


def test_limbs_cover_the_picture_and_black_lets_it_through():
    points = torch.from_numpy(one(1, 1, (250, 240))[0])
    skeleton = draw_people([points], 480, 832).movedim(0, -1)
    picture = torch.rand(480, 832, 3, generator=torch.Generator().manual_seed(0))
    done = lay_over(picture, skeleton)
    black = (skeleton == 0).all(-1)
    torch.testing.assert_close(done[black], picture[black])
    x, y = ((points[8, :2] + points[9, :2]) / 2).round().int().tolist()  # the middle of a thigh
    colour = torch.tensor([round(value * LIMB_LIGHT) for value in COLOURS[7]]) / 255
    torch.testing.assert_close(done[y, x], colour, atol=1e-6, rtol=0)
    assert 0 <= done.min() and done.max() <= 1 + 1e-6


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ShapeError, match="one size"):
        lay_over(torch.zeros(4, 5, 3), torch.zeros(4, 6, 3))


def test_pad_shows_everything_in_proportion_and_crop_leaves_no_black():
    frames = torch.ones(2, 20, 40, 3)
    padded = fit_pictures(frames, 40, 40, "pad")
    assert padded.shape == (2, 40, 40, 3) and padded[:, 10:30].eq(1).all() and padded[:, :10].eq(0).all()
    assert padded[:, 30:].eq(0).all()
    assert fit_pictures(frames, 40, 40, "crop").eq(1).all()


@pytest.mark.parametrize("fill", ["pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (7, 31), (64, 48), (33, 90), (200, 10)])
def test_every_size_is_met_exactly_and_the_middle_stays_in_the_middle(fill, size):
    frames = torch.zeros(1, 30, 50, 3)
    frames[:, 14:16, 24:26] = 1
    done = fit_pictures(frames, *size, fill)
    assert done.shape == (1, size[1], size[0], 3)
    if min(size) > 20:
        y, x = (done[0, ..., 0].nonzero().double() + 0.5).mean(0).tolist()
        assert abs(x - size[0] / 2) <= 1 and abs(y - size[1] / 2) <= 1


def test_enlarging_makes_up_no_colour_and_the_size_they_have_changes_nothing():
    frames = torch.randint(0, 3, (1, 9, 13, 3), generator=torch.Generator().manual_seed(1)) / 2.0
    kept = frames.clone()
    colours = {tuple(colour) for colour in frames.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in fit_pictures(frames, 40, 31, "crop").reshape(-1, 3).tolist()} <= colours
    assert fit_pictures(frames, 13, 9) is frames and torch.equal(frames, kept)


@pytest.mark.parametrize("call, kind, says", [
    (lambda: fit_pictures(torch.zeros(1, 4, 4, 3), 4, 4, "stretch"), ConfigError, "known: pad, crop"),
    (lambda: fit_pictures(torch.zeros(1, 4, 4, 4), 4, 4), ShapeError, "height, width, 3"),
    (lambda: fit_pictures(torch.zeros(0, 4, 4, 3), 4, 4), ShapeError, "height, width, 3"),
    (lambda: fit_pictures(torch.zeros(1, 4, 4, 3), 0, 4), ShapeError, "0x4 px"),
])  # fmt: skip
def test_what_is_no_clip_of_pictures_is_refused(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_frames_are_spread_from_the_first_to_the_last():
    assert spread(40, 6) == [0, 8, 16, 23, 31, 39] and spread(3, 6) == [0, 1, 2] and spread(1, 6) == [0]
