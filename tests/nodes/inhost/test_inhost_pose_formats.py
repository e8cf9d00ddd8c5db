"""Poses beside the host's own nodes: what core writes is read, hands on the right side, and core draws what we write.

Hosts without these nodes (0.3.64) have no POSE_KEYPOINT of their own; there the formats are read as files.
"""

import importlib
import importlib.util

import numpy as np
import pytest
from pack.motion.io.pose_files import read_pose_file, write_pose_file
from pack.motion.pose.keypoints import FEET, LEFT_HAND, RIGHT_HAND, Poses, read_poses
from pack.motion.pose.retarget import retarget
from pose_people import HEIGHT, WIDTH, as_controlnet_aux, as_openpose, one

COCO = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]  # of 17 points in COCO's order: ours


@pytest.fixture(scope="module")
def core_poses():
    """The host's module of pose nodes."""
    return importlib.import_module("comfy_extras.nodes_sdpose")


def people(num_frames=5):
    return np.stack((one(1, num_frames, (250, 240)), one(2, num_frames, (600, 240))), 1)


def coco_whole_body(person):
    """(133, 2) in the order of COCO-WholeBody: 17 points, feet, face, left hand, right hand."""
    return np.concatenate((person[COCO], person[FEET], person[18:86], person[LEFT_HAND], person[RIGHT_HAND]))[:, :2]


if importlib.util.find_spec("comfy_extras.nodes_sdpose"):

    def test_what_core_makes_of_its_networks_points_is_read_as_they_were(core_poses):
        truth = people()
        keypoints = [[coco_whole_body(person) for person in frame] for frame in truth]
        scores = [[np.full(133, 0.9) for _ in frame] for frame in truth]
        frames = core_poses._to_openpose_frames(keypoints, scores, HEIGHT, WIDTH)
        points = read_poses(frames).points
        named = [part for part in range(136) if part != 1]  # core puts the neck midway between the shoulders
        np.testing.assert_allclose(points[:, :, named, :2], truth[:, :, named, :2], atol=1e-3)

    @pytest.mark.parametrize("lost", [None, LEFT_HAND, slice(18, 88), slice(18, 136)])
    def test_core_draws_what_we_write(core_poses, lost, tmp_path):
        truth = people()
        if lost is not None:
            truth[2, 0, lost] = 0
        truth[3] = 0
        poses = read_poses(as_controlnet_aux(truth))
        again = read_pose_file(write_pose_file(tmp_path / "poses.json", poses))
        for frames in (poses.to_frames(), again.to_frames(binary=True)):
            drawn = core_poses.SDPoseDrawKeypoints.execute(frames, True, True, True, True, 4, 3, 0.3, True).args[0]
            assert drawn.shape == (5, HEIGHT, WIDTH, 3)
            assert [bool(frame.any()) for frame in drawn] == [True, True, True, False, True]


def test_formats_are_read_and_poses_fitted_in_every_host():
    truth = people()
    for frames, size in ((as_openpose(truth), (WIDTH, HEIGHT)), (as_controlnet_aux(truth, shares=True), None)):
        points = read_poses(frames, size=size).points
        np.testing.assert_allclose(points[:, :, :130], truth[:, :, :130], atol=1e-6)
    done = retarget(Poses(truth * (0.5, 0.5, 1), WIDTH, HEIGHT), Poses(truth[2:3], WIDTH, HEIGHT))
    assert np.abs(done.poses.points - truth).max() <= 1
