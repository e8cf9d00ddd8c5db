"""Who is who: by where somebody was going, by build, and by both."""

import numpy as np
import pytest
from pack.motion.errors import ConfigError
from pack.motion.pose.identity import boxes, diagonals, follow_people
from pose_people import one


def follow(points):
    """Identities (t, k) of points (t, k, 136, 3), -1 for who is not there; people are listed in changing order."""
    order = [np.random.default_rng(t).permutation(points.shape[1]) for t in range(len(points))]
    rows = [(t, k) for t in range(len(points)) for k in order[t] if points[t, k, :, 2].any()]
    listed = np.stack([points[row] for row in rows])
    slots = follow_people(listed[:, :18], np.array([t for t, _ in rows]), listed)
    found = np.full(points.shape[:2], -1)
    for row, slot in zip(rows, slots):
        found[row] = slot
    return found


def kept(found):
    """Whether each person has one number of its own."""
    numbers = [set(column[column >= 0].tolist()) for column in found.T]
    return all(len(each) == 1 for each in numbers) and len(set.union(*numbers)) == len(numbers)


def walk(points, speed, start=0.0):
    moved = points.copy()
    moved[..., 0] += start + speed * np.arange(len(points))[:, None]
    return moved


def test_twins_who_pass_behind_one_another_go_on_as_they_went():
    still = np.repeat(one(1, 1), 40, 0)
    points = np.stack((walk(still, 8, -160), walk(still, -8, 160)), 1)
    points[15:26, 1] = 0
    assert kept(follow(points))
    points[15:26] = 0  # both behind a tree
    assert kept(follow(points))


def test_people_of_another_build_are_told_apart_after_a_long_absence():
    tall, small = one(1, 90), one(1, 90)
    small[..., :2] = (small[..., :2] - 300) * 0.72 + 300
    points = np.stack((walk(tall, 0, -200), walk(small, 0, 200)), 1)
    points[30:60] = 0
    points[60:, 0, :, 0] += 420
    points[60:, 1, :, 0] -= 380  # each where the other was
    assert kept(follow(points))


def test_a_stranger_of_another_build_is_nobody_who_was_there_before():
    tall, small = one(1, 60), one(1, 60)
    small[..., :2] = (small[..., :2] - 300) * 0.5 + 300
    points = np.stack((tall, small), 1)
    points[20:, 0] = 0
    points[:40, 1] = 0
    assert kept(follow(points))


def test_somebody_seen_in_halves_stays_one():
    points = walk(np.repeat(one(1, 1), 60, 0), 15)[:, None]
    legs, rest = [9, 10, 12, 13], [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 16, 17]
    points[20:45][..., legs, :] = 0
    points[45:][..., rest, :] = 0
    points[:, :, 18:] = 0
    assert kept(follow(points))


@pytest.mark.parametrize("part", [slice(18, 88), slice(88, 109)])
def test_faces_and_hands_without_bodies_are_followed_too(part):
    points = np.stack((walk(one(1, 20), 2), walk(one(2, 20), -2, 300)), 1)
    alone = np.zeros_like(points)
    alone[:, :, part] = points[:, :, part]
    assert kept(follow(alone))


def test_boxes_leave_out_what_is_missing():
    points = np.array(((3.0, 4.0, 1.0), (0.0, 0.0, 0.0), (6.0, 8.0, 0.5)))
    assert boxes(points).tolist() == [3, 4, 6, 8] and diagonals(points) == 5
    assert np.isnan(boxes(points * 0)).all() and diagonals(points * 0) == 0


def test_crowds_that_never_come_back_are_refused_before_they_fill_the_memory():
    crowd = np.stack([one(1, 1)[0]] * 400)
    crowd[:, :, 0] += 5000.0 * np.arange(400)[:, None]
    with pytest.raises(ConfigError, match="more than 300 different people up to frame 3"):
        follow_people(crowd[:, :18], np.arange(400) // 100, crowd)
