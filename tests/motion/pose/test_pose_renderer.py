"""Skeletons: the common colours, wide enough to survive a small picture, the same pixels however they come about."""

import hashlib

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.pose.body18 import COLOURS, LIMB_LIGHT, LIMBS, POINTS
from pack.motion.pose.renderer import FINGERS, RENDERER_ID, draw_bodies, draw_people, line_width
from pose_people import HEIGHT, WIDTH, crossing, one


def body(size=128.0, sure=1.0):
    """Points far from one another, so that every point and limb can be looked at."""
    x = torch.tensor([0.50, 0.50, 0.35, 0.25, 0.15, 0.65, 0.75, 0.85, 0.40, 0.38, 0.36, 0.60, 0.62, 0.64, 0.46, 0.54, 0.42, 0.58])  # fmt: skip # noqa: E501
    y = torch.tensor([0.15, 0.28, 0.28, 0.42, 0.55, 0.28, 0.42, 0.55, 0.55, 0.72, 0.90, 0.55, 0.72, 0.90, 0.12, 0.12, 0.14, 0.14])  # fmt: skip # noqa: E501
    return torch.stack((x * size, y * size, torch.full((18,), sure)), 1)


def pixel(picture, x, y):
    return (picture[:, int(y), int(x)] * 255).round().int().tolist()


def test_points_have_their_full_colour_and_limbs_the_dimmed_colour_of_their_number():
    points = body(512.0)
    picture = draw_bodies([points], 512, 512)
    for (x, y, _), colour in zip(points.tolist(), COLOURS):
        assert pixel(picture, x, y) == list(colour)
    for limb, (a, b) in enumerate(LIMBS[:13]):
        x, y = ((points[a] + points[b]) / 2)[:2].tolist()
        assert pixel(picture, x, y) == [round(value * LIMB_LIGHT) for value in COLOURS[limb]], POINTS[a]


def test_a_point_that_is_not_there_takes_its_limbs_along_and_nothing_else():
    whole, without = body(), body()
    without[4, 2] = 0.0  # right wrist
    a, b = draw_bodies([whole], 128, 128), draw_bodies([without], 128, 128)
    changed = (a != b).any(0).nonzero()
    assert 0 < len(changed) < 100
    assert changed[:, 1].max() <= 0.26 * 128 + 2 and changed[:, 0].min() >= 0.41 * 128 - 2


@pytest.mark.parametrize("side", [64, 96, 128, 512, 1024])
def test_lines_are_never_thinner_than_a_pixel_and_a_half(side):
    points = torch.zeros(18, 3)
    points[1], points[2] = torch.tensor([side * 0.2, side / 2, 1.0]), torch.tensor([side * 0.8, side / 2, 1.0])
    column = draw_bodies([points], side, side)[:, :, side // 2]
    light = (column.amax(0) / LIMB_LIGHT).sum()
    assert line_width(side, side) == max(side / 64, 1.5)
    assert float(light) == pytest.approx(max(side / 64, 1.5), abs=0.55)


def test_points_outside_are_cut_at_the_edge_and_no_person_is_black():
    assert draw_bodies([body() + torch.tensor([60.0, -40.0, 0.0])], 128, 128).any()
    assert not draw_bodies([], 96, 128).any() and draw_bodies([], 96, 128).shape == (3, 96, 128)
    assert not draw_bodies([body(sure=0.0)], 96, 128).any()


def test_later_people_lie_over_earlier_ones():
    front = body() + torch.tensor([5.0, 0.0, 0.0])
    both, alone = draw_bodies([body(), front], 128, 128), draw_bodies([front], 128, 128)
    x, y = front[1, :2].tolist()
    assert pixel(both, x, y) == pixel(alone, x, y) == list(COLOURS[1])


def test_every_pixel_of_renderer_1_is_as_it_was():
    picture = (draw_bodies([body()], 128, 128) * 255).round().to(torch.uint8)
    assert RENDERER_ID == 1  # another drawing needs another number: what was trained on this one must find it again
    assert hashlib.sha256(picture.numpy().tobytes()).hexdigest()[:16] == "c980660dd870f4a1"


@pytest.mark.parametrize(
    "points, height, says",
    [(torch.zeros(17, 3), 64, "18, 3"), (torch.full((18, 3), float("nan")), 64, "NaN"),
     (torch.zeros(18, 3), 0, "1 px")],  # fmt: skip
)
def test_what_is_no_body_or_no_picture_is_refused(points, height, says):
    with pytest.raises(ShapeError, match=says):
        draw_bodies([points], height, 64)


def person(frame=0, seed=0):
    return torch.from_numpy(one(seed)[frame])


def test_hands_and_faces_change_no_pixel_of_a_body_without_them():
    points = torch.zeros(136, 3)
    points[:18] = body()
    expected = draw_bodies([body()], 128, 128)
    assert torch.equal(draw_people([points], 128, 128), expected)
    whole = person()
    assert torch.equal(draw_people([whole], HEIGHT, WIDTH, parts=("body",)),
                       draw_bodies([whole[:18]], HEIGHT, WIDTH))  # fmt: skip


def test_every_pixel_of_hands_and_faces_of_renderer_1_is_as_it_was():
    people = [torch.from_numpy(points) for points in crossing(1)[0]]
    picture = draw_people(people, HEIGHT, WIDTH, as_bytes=True)
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == torch.uint8
    assert torch.equal((draw_people(people, HEIGHT, WIDTH) * 255).round().to(torch.uint8).movedim(0, -1), picture)
    spots = torch.tensor([[48.0 + 36 * (k % 12), 40.0 + 36 * (k // 12), 1.0] for k in range(136)])
    drawn = draw_people([spots], 512, 512, as_bytes=True)
    assert hashlib.sha256(drawn.numpy().tobytes()).hexdigest()[:16] == "a9fa5c3779b8947c"


def test_fingers_have_the_colours_of_the_rainbow_and_blue_points_and_faces_are_white():
    points = torch.zeros(136, 3)
    for hand in (88, 109):
        at = torch.arange(21.0)
        points[hand : hand + 21] = torch.stack((40 + 20 * at, 60 + 200 * (hand > 88) + 90 * (at % 2), at * 0 + 1), 1)
    points[18] = torch.tensor([300.0, 450.0, 0.5])
    picture = draw_people([points], 512, 512)
    for first in (88, 109):
        assert pixel(picture, *points[first + 20, :2]) == [0, 0, 255]
    a, b = points[88 + 1], points[88 + 2]
    assert pixel(picture, *((a + b) / 2)[:2]) == [255, 76, 0]  # the second of twenty hues
    assert pixel(picture, 300, 450) == [255, 255, 255] and pixel(picture, 300, 454) == [0, 0, 0]
    assert len(FINGERS) == 20 and FINGERS[4] == (0, 5) and FINGERS[7] == (7, 8)
    assert not draw_people([points], 512, 512, parts=("body",)).any()
    assert not draw_people([points], 512, 512, parts=("face",))[:, :400].any()


@pytest.mark.parametrize("side", [64, 512, 1024])
def test_fingers_are_never_thinner_than_a_pixel_and_a_half(side):
    points = torch.zeros(136, 3)
    points[88], points[89] = torch.tensor([side * 0.2, side / 2, 1.0]), torch.tensor([side * 0.8, side / 2, 1.0])
    column = draw_people([points], side, side)[0, :, side // 2]
    assert float(column.sum()) == pytest.approx(max(side / 256, 1.5), abs=0.55)


def test_what_is_no_person_or_part_is_refused():
    with pytest.raises(ShapeError, match="136, 3"):
        draw_people([body()], 64, 64)
    with pytest.raises(ConfigError, match="no part 'feet'.*body, hands, face"):
        draw_people([], 64, 64, parts=("feet",))
