"""POSE_KEYPOINT of every tool comes in as the same points, hands on the right side, people who they were."""

import copy
import json
from functools import partial

import numpy as np
import pytest
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, pick_person, read_poses
from pose_people import (
    HEIGHT,
    WIDTH,
    as_controlnet_aux,
    as_core,
    as_openpose,
    crossing,
    kept_identity,
    one,
)

SIZE = (WIDTH, HEIGHT)


def two(num_frames=3):
    return np.stack((one(1, num_frames, (250, 240)), one(2, num_frames, (600, 240))), 1)


@pytest.mark.parametrize("write, size", [
    (as_core, None), (as_controlnet_aux, None), (partial(as_controlnet_aux, shares=True), None), (as_openpose, SIZE),
])  # fmt: skip
def test_every_tools_frames_are_the_same_points(write, size):
    truth = two()
    poses = read_poses(write(truth), size=size)
    assert (poses.width, poses.height) == SIZE and poses.points.shape == truth.shape
    parts = [BODY, FACE, LEFT_HAND, RIGHT_HAND]  # controlnet_aux writes no feet
    for part in parts if write is not as_core and size is None else [*parts, FEET]:
        np.testing.assert_allclose(poses.points[:, :, part], truth[:, :, part], atol=1e-9)


def test_what_we_write_holds_every_part_in_whole_and_is_read_as_it_was():
    truth = two()
    truth[1, 0, LEFT_HAND] = 0
    truth[2, 1] = 0
    truth[0, 0, 5, 2] = 0.625
    poses = read_poses(as_openpose(truth), size=SIZE)
    frames = poses.to_frames()
    for frame in frames:
        assert (frame["canvas_width"], frame["canvas_height"]) == SIZE
        for person in frame["people"]:
            assert [len(person[f"{name}_keypoints_2d"]) for name in
                    ("pose", "face", "hand_left", "hand_right", "foot")] == [54, 210, 63, 63, 18]  # fmt: skip
    assert [len(frame["people"]) for frame in frames] == [2, 2, 1]
    again = read_poses(json.loads(json.dumps(frames)))
    assert (again.points == poses.points).all() and again.to_frames() == frames
    assert frames[0]["people"][0]["pose_keypoints_2d"][5 * 3 + 2] == 0.625
    assert poses.to_frames(binary=True)[0]["people"][0]["pose_keypoints_2d"][5 * 3 + 2] == 1.0


def test_hands_go_to_the_nearer_wrist_whatever_their_lists_are_called():
    truth = one(3, 4)[:, None]
    for write in (as_core, as_controlnet_aux):
        points = read_poses(write(truth)).points
        for hand, wrist in ((LEFT_HAND, 7), (RIGHT_HAND, 4)):
            np.testing.assert_allclose(points[:, 0, hand][:, 0, :2], truth[:, 0, wrist, :2], atol=1e-9)


@pytest.mark.parametrize("lost", [LEFT_HAND, RIGHT_HAND])
@pytest.mark.parametrize("wrist", [None, 4, 7])
def test_one_hand_alone_finds_its_wrist_even_if_the_other_wrist_is_lost(lost, wrist):
    truth = one(3, 2)[:, None].copy()
    truth[:, :, lost] = 0
    if wrist is not None:
        truth[:, :, wrist] = 0
    points = read_poses(as_core(truth)).points
    np.testing.assert_allclose(points[:, :, 88:130], truth[:, :, 88:130], atol=1e-9)


def test_folded_hands_follow_what_holds_in_the_rest_of_the_clip():
    truth = one(3, 6)[:, None].copy()
    truth[2:, :, LEFT_HAND, :2] += truth[2:, :, None, 4, :2] - truth[2:, :, None, 7, :2]  # on the other hand
    truth[2:, :, 7, :2] = truth[2:, :, 4, :2]
    truth[2:, :, 7, 0] += 2
    truth[2, :, RIGHT_HAND, 0] += 2  # a little nearer to the wrong wrist
    points = read_poses(as_core(truth)).points
    np.testing.assert_allclose(points[:, 0, LEFT_HAND, :2], truth[:, 0, LEFT_HAND, :2], atol=1e-9)


def test_names_of_hands_hold_where_no_wrist_is_known():
    truth = one(3, 2)[:, None].copy()
    truth[:, :, [4, 7]] = 0
    points = read_poses(as_controlnet_aux(truth)).points
    np.testing.assert_allclose(points[:, :, LEFT_HAND], truth[:, :, LEFT_HAND], atol=1e-9)


def test_points_that_are_none_become_zeros_and_the_others_stay():
    frames = as_core(one(1, 1)[:, None])
    body = frames[0]["people"][0]["pose_keypoints_2d"]
    body[0:3] = [float("nan"), 5.0, 0.9]
    body[3:6] = [-1.0, -1.0, 0.9]
    body[6:9] = [10.0, 20.0, 0.29]
    body[9:12] = [float("inf"), 20.0, 1.0]
    body[12:15] = [-40.0, 900.0, 1.7]  # outside the picture is a place like others
    body[15:18] = [0.0, 0.0, 1.0]
    body[18:21] = [10.0, 20.0, 0.3]
    points = read_poses(frames).points[0, 0, :7]
    assert points[[0, 1, 2, 3, 5]].tolist() == [[0, 0, 0]] * 5
    assert points[4].tolist() == [-40.0, 900.0, 1.0] and points[6].tolist() == [10.0, 20.0, 0.3]


def test_a_face_of_68_points_has_no_pupils():
    frames = as_core(one(1, 1)[:, None])
    del frames[0]["people"][0]["face_keypoints_2d"][68 * 3 :]
    points = read_poses(frames).points[0, 0, FACE]
    assert (points[:68, 2] == 1).all() and not points[68:].any()


def test_frames_without_people_are_frames():
    truth = one(1, 4)[:, None].copy()
    truth[1:3] = 0
    frames = as_core(truth)
    frames[1]["people"] = None
    poses = read_poses(frames)
    assert poses.present[:, 0].tolist() == [True, False, False, True]
    nobody = read_poses([{"people": [], "canvas_width": 64, "canvas_height": 32}] * 3)
    assert nobody.points.shape == (3, 0, 136, 3) and len(nobody.to_frames()) == 3
    assert pick_person(nobody) is nobody


def test_one_dict_is_one_frame_and_an_empty_canvas_takes_that_of_the_others():
    frame = as_core(one(1, 1)[:, None])[0]
    assert len(read_poses(frame).points) == 1
    bare = {"people": []}
    assert read_poses([bare, frame]).width == WIDTH


@pytest.mark.parametrize("seed", range(6))
def test_people_who_cross_hide_and_leave_keep_their_identity(seed):
    truth = crossing(seed)
    frames = as_core(truth)
    chance = np.random.default_rng(seed)
    for frame in frames:
        chance.shuffle(frame["people"])
    points = read_poses(frames).points
    assert points.shape[1] == 3
    assert kept_identity(truth, points) >= 0.98


def test_the_largest_person_is_one_person_over_the_whole_clip():
    truth = two(8)
    truth[:, 1, :, :2] = (truth[:, 1, :, :2] - (600, 240)) * 0.6 + (600, 240)
    truth[3, 0] = 0  # not there for a frame, in which the other is the largest
    poses = read_poses(as_core(truth))
    largest = pick_person(poses)
    np.testing.assert_allclose(largest.points[:, 0, BODY], truth[:, 0, BODY], atol=1e-9)
    np.testing.assert_allclose(pick_person(poses, 1).points[:, 0, BODY], truth[:, 1, BODY], atol=1e-9)
    with pytest.raises(ConfigError, match="no person 2.*has 2"):
        pick_person(poses, 2)


def spoilt(change):
    frames = as_core(one(1, 2)[:, None])
    change(frames)
    return frames


def set_body(values):
    return lambda frames: frames[1]["people"][0].__setitem__("pose_keypoints_2d", values)


@pytest.mark.parametrize("frames, says", [
    ([], "no frames"), ("poses.json", "str.*list with a dict"), ([3], "frame 0 is int"), ([{"a": 1}], "no 'people'.*a"),
    ([{"version": "ap10k", "animals": [[1.0]]}], "AP10k.*18 points"),
    ([{"version": "AP10K", "people": []}], "AP10k"), ([{"people": 3}], "no list of dicts"),
    ([{"people": [3]}], "no list of dicts"),
    (spoilt(set_body([1.0] * 51)), "person 0 of frame 1 has 51 numbers.*18 or 25"),
    (spoilt(set_body([[1.0] * 3] * 18)), "flat list"), (spoilt(set_body(["x"] * 54)), "no number"),
    (spoilt(set_body([10**400] * 54)), "no number"), (spoilt(set_body({"a": 1})), "no number|shape"),
    (spoilt(lambda frames: frames[0].update(canvas_width=1.5)), "canvas of frame 0 is 1.5"),
    (spoilt(lambda frames: frames[0].update(canvas_width="832")), "canvas of frame 0"),
    ([{"people": [{}] * 101}], "frame 0 has 101 people.*100"), ([{"people": []}] * 10_001, "10001 frames.*10000"),
])  # fmt: skip
def test_what_is_no_pose_of_people_is_refused_by_name(frames, says):
    with pytest.raises(ShapeError, match=says):
        read_poses(frames)


def test_the_canvas_is_asked_for_and_never_guessed():
    truth = one(1, 2)[:, None]
    with pytest.raises(ConfigError, match="give width and height"):
        read_poses(as_openpose(truth))
    with pytest.raises(ConfigError, match="you gave 64x64"):
        read_poses(as_core(truth), size=(64, 64))
    frames = as_core(truth)
    frames[1]["canvas_width"] = 640
    with pytest.raises(ConfigError, match="frame 1 is of 640x480"):
        read_poses(frames)
    with pytest.raises(ConfigError, match="whole pixels"):
        read_poses(as_openpose(truth), size=(0, 5))
    with pytest.raises(ConfigError, match="min_confidence is 2"):
        read_poses(frames, min_confidence=2)


def test_inputs_are_not_written_into():
    frames = as_core(two())
    before = copy.deepcopy(frames)
    poses = read_poses(frames)
    pick_person(poses)
    poses.to_frames()
    assert frames == before


def test_identity_is_taken_from_tools_that_follow_people_and_not_from_those_that_do_not():
    truth = two(2)
    frames = as_core(truth)
    for t, frame in enumerate(frames):
        for k, person in enumerate(frame["people"]):
            person["person_id"] = [7 - k if t else k + 6]  # says that they changed places
    points = read_poses(frames).points
    np.testing.assert_allclose(points[1, 1, BODY], truth[1, 0, BODY], atol=1e-9)
    for frame in frames:
        for person in frame["people"]:
            person["person_id"] = [-1]
    np.testing.assert_allclose(read_poses(frames).points[:, :, BODY], truth[:, :, BODY], atol=1e-9)
