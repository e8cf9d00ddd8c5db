"""What a report tells of poses."""

import numpy as np
import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.pose.keypoints import LEFT_HAND, Poses
from pack.motion.pose.renderer import draw_people
from pack.motion.pose.report import DrawnPoses, describe, pose_sheet, report_on
from pack.motion.pose.smoothing import jitter
from pose_people import HEIGHT, WIDTH, one


def two():
    points = np.stack((one(1, 20, (250, 240)), one(2, 20, (600, 240))), 1)
    points[5:8, 0, 7] = 0  # a wrist lost for three frames
    points[12, 0, 7] = points[14, 0, 4] = 0
    points[:10, 1] = 0  # comes late
    points[15:, 1, LEFT_HAND] = 0
    return Poses(points, WIDTH, HEIGHT)


def test_people_gaps_and_parts_are_counted():
    report = report_on(two())
    first, second = report.people
    assert (first.frames, first.first, first.last, first.gaps, first.longest_gap) == (20, 0, 19, 3, 3)
    assert (second.frames, second.first, second.last, second.gaps) == (10, 10, 19, 0)
    assert first.shares == {"face": 1, "left hand": 1, "right hand": 1} and second.shares["left hand"] == 0.5
    alone = Poses(two().points[:, :1], WIDTH, HEIGHT)
    assert first.jitter == jitter(alone) and report.empty_frames == 0


def test_lengths_are_those_of_the_body_left_before_right():
    points = two().points[:, :1].copy()
    points[0, 0, 7, :2] = points[0, 0, 6, :2] + 1.5 * (points[0, 0, 7, :2] - points[0, 0, 6, :2])
    points[0, 0, 10, :2] += 9
    points[0, 0, 12, :2] += 7
    length = lambda a, b: np.linalg.norm(points[0, 0, a, :2] - points[0, 0, b, :2])  # noqa: E731
    found = report_on(Poses(points[:1], WIDTH, HEIGHT)).people[0].lengths
    assert found["forearms"] == pytest.approx((length(6, 7), length(3, 4)))
    assert found["thighs"] == pytest.approx((length(11, 12), length(8, 9)))
    assert found["shoulders"] == pytest.approx((length(2, 5),))


def test_the_text_names_every_person_and_sets_before_beside_after():
    poses = two()
    text = describe(report_on(poses), report_on(poses))
    assert text.startswith("20 frames, 832x480 px, 2 people\nperson 0: in 20 frames, 0 to 19\n")
    assert "3 gaps of body points, the longest 3 frames (before: 3, 3)" in text and "px before, " in text
    assert "left hand in 50 %" in text
    short = points = poses.points.copy()
    points[:, 0, 7] = points[:, 0, 6] + 0.3 * (points[:, 0, 7] - points[:, 0, 6])
    assert "(uneven)" in describe(report_on(Poses(short, WIDTH, HEIGHT)))


def test_another_number_of_people_before_is_told_and_compared_with_nobody():
    poses = two()
    text = describe(report_on(poses), report_on(Poses(poses.points[:, :1], WIDTH, HEIGHT)))
    assert "before: 1 person, so nobody can be compared" in text and "(before:" not in text


def test_nobody_is_told_too():
    nobody = Poses(np.zeros((4, 0, 136, 3)), 64, 48)
    assert describe(report_on(nobody)) == "4 frames, 64x48 px, nobody\nnobody in 4 of 4 frames"
    lost = Poses(np.zeros((4, 1, 136, 3)), 64, 48)
    assert "trunk ? px" in describe(report_on(lost)) and report_on(lost).people[0].frames == 0


def test_frames_of_a_sheet_are_drawn_at_their_size_and_never_enlarged():
    poses = two()
    half, whole = DrawnPoses(poses, WIDTH // 2), DrawnPoses(poses, 4 * WIDTH)
    assert half.shape == (20, HEIGHT // 2, WIDTH // 2, 3) and whole.shape == (20, HEIGHT, WIDTH, 3)
    people = [torch.from_numpy(person * (0.5, 0.5, 1)) for person in poses.points[12]]
    assert torch.equal(half[12], draw_people(people, HEIGHT // 2, WIDTH // 2).movedim(0, -1))


def test_a_sheet_has_a_row_for_each_clip_and_steps_of_it():
    poses, steps = two(), []
    one_row = pose_sheet([("poses", poses)], columns=3, cell=64)
    both = pose_sheet([("before", poses), ("after", poses)], columns=3, cell=64, on_step=lambda *at: steps.append(at))
    assert both.shape[2] == one_row.shape[2] and both.shape[1] > 1.6 * one_row.shape[1] and steps == [(1, 2), (2, 2)]
    with pytest.raises(ShapeError, match="no frames"):
        pose_sheet([("poses", Poses(poses.points[:0], WIDTH, HEIGHT))])
