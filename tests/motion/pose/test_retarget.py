"""Fitting to another body: nothing changes where nothing differs, proportions come out, and arms never grow long."""

import numpy as np
import pytest
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.pose.body18 import LIMBS
from pack.motion.pose.keypoints import FACE, LEFT_HAND, RIGHT_HAND, Poses
from pack.motion.pose.retarget import BONE_CLAMP, MODES, SCALE_CLAMP, retarget
from pose_people import HEIGHT, WIDTH, crossing, one, puppet, whole

A, B = (list(ends) for ends in zip(*LIMBS))
PAIRS = [(0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (13, 15), (14, 16), (12,)]  # of bones: both sides


def poses_of(points, width=WIDTH, height=HEIGHT):
    return Poses(points if points.ndim == 4 else points[:, None], width, height)


def frame_of(poses, t):
    return Poses(poses.points[t : t + 1].copy(), poses.width, poses.height)


def lengths(points):
    return np.linalg.norm(points[..., A, :2] - points[..., B, :2], axis=-1)


def rebuilt(joints, factors):
    """Joints (t, 18, 2) with every bone as many times as long."""
    done = joints.copy()
    for factor, (a, b) in zip(factors, LIMBS):
        done[..., b, :] = done[..., a, :] + factor * (joints[..., b, :] - joints[..., a, :])
    return done


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_reference_that_is_a_frame_of_the_clip_changes_nothing(mode, by_hand):
    for seed in range(4):
        poses = poses_of(one(seed))
        done = retarget(poses, frame_of(poses, 11), mode=mode, calibration=11 if by_hand else None)
        assert np.abs(done.poses.points - poses.points).max() <= 0.5
        assert mode == "none" or np.abs(lengths(done.poses.points) - lengths(poses.points)).max() < 1e-6


@pytest.mark.parametrize("mode", ["limb", "global"])
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.7])
def test_a_scaled_and_shifted_copy_is_undone(mode, scale):
    poses = poses_of(one(2))
    copy = poses.points.copy()
    copy[..., :2] = copy[..., :2] * scale + (37, -12)
    done = retarget(poses_of(copy), frame_of(poses, 5), mode=mode)
    assert done.calibration == (5,) and done.scales[0] == pytest.approx(1 / scale)
    assert np.abs(done.poses.points - poses.points).max() <= 1


def test_a_copy_on_another_canvas_is_undone_and_mode_none_only_fits_the_canvas():
    poses = poses_of(one(2))
    large = Poses(poses.points * (2, 2, 1) + (0, 20, 0), 2 * WIDTH, 2 * HEIGHT + 40)
    done = retarget(large, frame_of(poses, 5))
    assert np.abs(done.poses.points - poses.points).max() <= 1
    plain = retarget(large, frame_of(poses, 5), mode="none")
    scale = HEIGHT / (2 * HEIGHT + 40)
    expected = large.points[..., :2] * scale + ((WIDTH - scale * 2 * WIDTH) / 2, 0)
    np.testing.assert_allclose(plain.poses.points[..., :2], expected)
    assert (plain.poses.width, plain.poses.height) == (WIDTH, HEIGHT) and plain.scales == (None,)


def even(values):
    """Lengths (…, 17), left and right as the mean of both: puppets lean, which their proportions do not."""
    done = values.copy()
    for pair in PAIRS:
        done[..., list(pair)] = values[..., list(pair)].mean(-1, keepdims=True)
    return done


def test_bones_get_the_lengths_of_the_reference_for_200_random_proportions():
    chance = np.random.default_rng(0)
    for case in range(200):
        driving = poses_of(whole(puppet(case % 8, 24, "flaps") + (416, 240)))
        factors = np.ones(len(LIMBS))
        for pair in PAIRS:
            factors[list(pair)] = chance.uniform(0.7, 1.4)
        other = rebuilt(puppet(50 + case % 5, 24, "flaps"), factors)[7]
        reference = poses_of(whole(other * chance.uniform(0.6, 1.3) + (400, 250))[None])
        done = retarget(driving, reference)
        got, need = lengths(done.poses.points[:, 0]), lengths(reference.points[0, 0])
        assert np.abs(even(got) / even(need) - 1).max() <= 0.02, case


def test_no_bone_grows_beyond_its_clamp_in_5000_random_cases():
    chance = np.random.default_rng(1)
    grown = 0
    for _ in range(250):  # of 20 people with a reference each
        points = np.zeros((3, 20, 136, 3))
        points[..., :2] = 300 + chance.uniform(5, 300, (1, 20, 1, 1)) * chance.normal(0, 1, (3, 20, 136, 2))
        points[..., 2] = chance.random(points.shape[:-1]) < chance.uniform(0.3, 1.2, (1, 20, 1))
        points[points[..., 2] == 0] = 0
        reference = points[:1, ::-1].copy()
        reference[..., :2] *= np.exp(chance.normal(0, 1.5, (1, 20, 136, 2)))
        reference[..., 2] = chance.random(reference.shape[:-1]) < 0.9
        mode = ("limb", "global")[chance.integers(2)]
        done = retarget(poses_of(points), poses_of(reference), mode=mode, keep_feet=bool(chance.integers(2)))
        fitted = [k for k, scale in enumerate(done.scales) if scale is not None]
        scales = np.array([done.scales[k] for k in fitted])[:, None]
        there = ((points[:, :, A, 2] > 0) & (points[:, :, B, 2] > 0))[:, fitted]
        before, after = lengths(points)[:, fitted], lengths(done.poses.points)[:, fitted]
        assert (scales <= SCALE_CLAMP[1]).all() and (scales >= SCALE_CLAMP[0]).all()
        most = scales * (BONE_CLAMP[1] if mode == "limb" else 1.0)
        assert (after <= most * before + 1e-6)[there].all()
        grown += int((there & (after > 1.9 * scales * before)).any((0, 2)).sum())
        assert (done.poses.points[..., 2] == points[..., 2]).all() and np.isfinite(done.poses.points).all()
        assert not done.poses.points[points[..., 2] == 0].any()
    assert grown > 1000  # the clamp is reached, so it is what holds them


@pytest.mark.parametrize("both", [False, True])
def test_a_foreshortened_arm_of_the_reference_takes_its_mirrors_or_parents_ratio(both):
    poses = poses_of(one(3))
    reference = frame_of(poses, 9)
    for elbow, wrist in ((3, 4), (6, 7))[: 2 if both else 1]:
        way = reference.points[0, 0, wrist, :2] - reference.points[0, 0, elbow, :2]
        reference.points[0, 0, wrist, :2] = reference.points[0, 0, elbow, :2] + 0.2 * way
    done = retarget(poses, reference, calibration=9)
    np.testing.assert_allclose(done.ratios, 1.0, atol=1e-9)


@pytest.mark.parametrize("seen", [0.3, 0.85])
@pytest.mark.parametrize("longer", [1.0, 1.3])
def test_an_arm_that_leans_towards_the_camera_when_calibrated_does_not_grow(seen, longer):
    poses = poses_of(one(3))
    factors = np.ones(len(LIMBS))
    factors[[3, 5]] = longer
    reference = poses_of(whole(rebuilt(puppet(3)[9:10], factors) + (WIDTH / 2, HEIGHT / 2)))
    for elbow, wrist in ((3, 4), (6, 7)):
        way = poses.points[9, 0, wrist, :2] - poses.points[9, 0, elbow, :2]
        poses.points[9, 0, wrist, :2] = poses.points[9, 0, elbow, :2] + seen * way
    done = retarget(poses, reference, calibration=9)
    np.testing.assert_allclose(done.ratios[0], factors, atol=1e-6)


def test_joints_missing_when_calibrated_are_measured_in_other_frames():
    poses = poses_of(one(3))
    factors = np.ones(len(LIMBS))
    factors[[3, 5]] = 0.7
    reference = poses_of(whole(rebuilt(puppet(3)[9:10], factors) + (WIDTH / 2, HEIGHT / 2)))
    poses.points[9, 0, [4, 7]] = 0
    done = retarget(poses, reference, calibration=9)
    np.testing.assert_allclose(done.ratios[0], factors, atol=1e-6)


def test_joints_the_reference_lacks_take_the_ratio_above_and_the_scale():
    poses = poses_of(one(3))
    reference = frame_of(poses, 9)
    reference.points[..., :2] *= 0.7
    reference.points[0, 0, [9, 10, 12, 13, 14, 15, 16, 17]] = 0
    done = retarget(poses, reference)
    np.testing.assert_allclose(done.ratios, 0.7, atol=1e-9)


def test_hands_and_face_go_with_wrists_and_nose_and_have_their_size():
    driving = poses_of(one(1))
    factors = np.ones(len(LIMBS))
    factors[[3, 5]], factors[12], factors[13:17] = 0.7, 1.2, 1.3  # forearms, neck to nose, head
    reference = poses_of(whole(rebuilt(puppet(1), factors)[4:5] + (416, 240)))
    done = retarget(driving, reference, calibration=4).poses.points[:, 0]
    for part, joint, scale in ((LEFT_HAND, 7, 0.7), (RIGHT_HAND, 4, 0.7), (FACE, 0, 1.3)):
        before = driving.points[:, 0, part, :2] - driving.points[:, 0, joint, None, :2]
        after = done[:, part, :2] - done[:, joint, None, :2]
        np.testing.assert_allclose(after, scale * before, atol=0.02 * np.abs(before).max())


def test_a_missing_joint_leaves_the_others_where_they_were():
    poses = poses_of(one(3))
    reference = poses_of(whole(puppet(6)[3:4] * 1.1 + (400, 250)))
    before = retarget(poses, reference, calibration=2).poses.points
    poses.points[20, 0, [9, 1]] = 0  # right knee, neck
    after = retarget(poses, reference, calibration=2).poses.points
    assert not after[20, 0, [9, 1]].any()
    kept = np.delete(np.arange(136), [1, 9, 10, *range(133, 136)])
    np.testing.assert_allclose(after[20, 0, kept], before[20, 0, kept], atol=1.5)
    np.testing.assert_allclose(np.delete(after, 20, 0), np.delete(before, 20, 0), atol=1.5)


def test_legs_stay_where_they_were_in_a_frame_without_neck_and_shoulders():
    poses = poses_of(whole(puppet(3, 24, "flaps") + (416, 240)))
    factors = np.ones(len(LIMBS))
    factors[[6, 9]] = 1.4
    reference = poses_of(whole(rebuilt(puppet(3, 24, "flaps"), factors)[3:4] + (400, 250)))
    before = retarget(poses, reference).poses.points
    poses.points[20, 0, [0, 1, 2, 5]] = 0
    legs = [8, 9, 10, 11, 12, 13]
    np.testing.assert_allclose(retarget(poses, reference).poses.points[20, 0, legs], before[20, 0, legs], atol=1)


def test_a_frame_that_shows_little_is_not_calibrated_at_though_it_fits():
    poses = poses_of(one(3))
    reference = poses_of(whole(puppet(6)[3:4] + (400, 250)))
    poses.points[30, 0] = 0
    poses.points[30, 0, [1, 2, 5]] = reference.points[0, 0, [1, 2, 5]]
    assert retarget(poses, reference).calibration[0] not in (None, 30)


def test_feet_are_put_on_the_ground_of_the_reference_and_axes_can_be_locked():
    points = one(3, 48)
    points[..., :2] += np.stack((np.linspace(-80, 80, 48), 15 * np.sin(np.arange(48) / 4)), -1)[:, None]
    reference = poses_of(whole(puppet(6)[3:4] * (0.8, 1.3) + (400, 210)))
    done = retarget(poses_of(points), reference, keep_feet=True).poses.points[:, 0]
    ground = reference.points[0, 0, [10, 13], 1].max()
    lowest = done[:, [10, 13], 1].max(1)
    assert np.percentile(lowest, 95) == pytest.approx(ground) and lowest.max() < ground + 12
    for axis, name in enumerate(("lock_x", "lock_y")):
        locked = retarget(poses_of(points), reference, **{name: True}).poses.points[:, 0, 1]
        np.testing.assert_allclose(locked[:, axis], reference.points[0, 0, 1, axis])
        assert np.ptp(locked[:, 1 - axis]) > 10


def test_three_people_are_paired_from_left_to_right_and_keep_their_places():
    people = np.stack([one(k, 12, at) for k, at in enumerate([(650, 250), (150, 240), (400, 240)])], 1)
    poses = poses_of(people)
    reference = Poses(people[3:4, [1, 2, 0]].copy(), WIDTH, HEIGHT)
    done = retarget(poses, reference)
    assert np.abs(done.poses.points - people).max() <= 0.5 and not done.notes
    alone = retarget(poses, Poses(reference.points[:, :1], WIDTH, HEIGHT))
    assert len(alone.notes) == 2 and alone.poses.points.shape == people.shape
    assert sum(scale is None for scale in alone.scales) == 2


def test_people_who_come_and_go_stay_as_many():
    points = crossing(3, 40)
    done = retarget(poses_of(points), poses_of(points[:1]))
    assert (done.poses.present == poses_of(points).present).all() and len(done.poses.points) == 40


def test_who_shows_no_shoulders_is_fitted_to_the_canvas_only_and_told():
    poses = poses_of(one(3))
    reference = frame_of(poses, 2)
    legs = poses.points.copy()
    legs[:, :, :9] = 0
    done = retarget(poses_of(legs), reference)
    assert (done.poses.points == legs).all() and "no neck and shoulders" in done.notes[0]
    nobody = retarget(poses, Poses(np.zeros((1, 0, 136, 3)), WIDTH, HEIGHT))
    assert (nobody.poses.points == poses.points).all() and "no partner" in nobody.notes[0]
    gone = poses.points.copy()
    gone[4] = 0
    told = retarget(poses_of(gone), reference, calibration=4)
    assert "in frame 4" in told.notes[0] and told.calibration == (None,)
    reference.points[0, 0, [10, 13]] = 0
    assert "no ankle" in retarget(poses, reference, keep_feet=True).notes[0]


@pytest.mark.parametrize("options, kind, says", [
    ({"mode": "stretch"}, ConfigError, "no mode 'stretch'.*limb, global, none"),
    ({"calibration": 48}, ConfigError, "frame 48 of 48"), ({"calibration": -1}, ConfigError, "frame -1"),
])  # fmt: skip
def test_settings_of_fitting_that_cannot_be_are_refused(options, kind, says):
    poses = poses_of(one(3))
    with pytest.raises(kind, match=says):
        retarget(poses, frame_of(poses, 0), **options)
    with pytest.raises(ShapeError, match="48 frames.*one picture"):
        retarget(poses, poses)


def test_fitting_writes_into_no_input():
    poses = poses_of(one(3))
    reference = poses_of(whole(puppet(6)[3:4] + (400, 250)))
    before = poses.points.copy(), reference.points.copy()
    retarget(poses, reference, keep_feet=True, lock_x=True)
    assert (poses.points == before[0]).all() and (reference.points == before[1]).all()


@pytest.mark.parametrize("factor, says", [(8.0, "scale of 3, the most"), (0.05, "scale of 0.3, the least")])
def test_a_scale_at_its_bound_is_told(factor, says):
    points = one(1, 6)[:, None]
    small = Poses(points * (0.1, 0.1, 1), 832, 480) if factor > 1 else Poses(points, 832, 480)
    reference = Poses(small.points[:1] * (factor, factor, 1), 832, 480)
    done = retarget(small, reference)
    assert any(says in note for note in done.notes) and "crop the picture" in done.notes[0]
    assert retarget(small, Poses(small.points[:1], 832, 480)).notes == ()
