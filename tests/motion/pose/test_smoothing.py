"""Smoothing: jitter goes, swings stay, nothing lags; gaps, frame rates, and what is missing stays missing."""

import numpy as np
import pytest
from pack.motion.errors import ConfigError
from pack.motion.pose.keypoints import MIN_CONFIDENCE, Poses
from pack.motion.pose.smoothing import (
    body_heights,
    fill_gaps,
    jitter,
    resample,
    smooth,
    smooth_one_euro,
    window,
)
from pose_people import one
from scipy.signal import savgol_filter


def clip(x, y=None, sure=None):
    """Poses of which every point moves as x (t,), y (t,)."""
    points = np.zeros((len(x), 1, 136, 3))
    points[..., 0] = np.asarray(x)[:, None, None]
    points[..., 1] = 100.0 if y is None else np.asarray(y)[:, None, None]
    points[..., 2] = 1.0 if sure is None else np.asarray(sure)[:, None, None]
    return Poses(points, 640, 480)


def noisy(fps, hertz, *, seconds=8, reach=60.0):
    """A swing, and 136 draws of noise of 2 px upon it."""
    t = np.arange(int(seconds * fps)) / fps
    clean = clip(200 + reach * np.sin(2 * np.pi * hertz * t), 200 + reach * np.cos(2 * np.pi * hertz * t))
    points = clean.points.copy()
    points[..., :2] += np.random.default_rng(0).normal(0, 2, points[..., :2].shape)
    return clean, Poses(points, 640, 480)


@pytest.mark.parametrize("fps", [16, 24, 30])
@pytest.mark.parametrize("hertz", [0.3, 1.0, 2.5])
def test_jitter_goes_swings_stay_and_nothing_lags(fps, hertz):
    clean, raw = noisy(fps, hertz)
    inner = slice(window(fps), -window(fps))
    steady, alone = smooth(raw, fps).points[inner], smooth(clean, fps).points[inner]
    left = np.diff(steady[..., :2] - alone[..., :2], 2, axis=0).std()
    given = np.diff((raw.points - clean.points)[inner][..., :2], 2, axis=0).std()
    assert left <= 0.40 * given
    swing = clean.points[inner, 0, 0, 0] - 200
    kept = alone[:, 0, 0, 0] - 200
    assert 0.9 <= np.abs(kept).max() / np.abs(swing).max() <= 1.001
    quarter = clean.points[inner, 0, 0, 1] - 200  # a lag would show as a part of the other phase
    assert abs(kept @ quarter / (quarter @ quarter) - swing @ quarter / (quarter @ quarter)) < 1e-3


@pytest.mark.parametrize("fps, order", [(16, 2), (24, 3), (30, 3), (60, 2)])
def test_away_from_the_ends_it_is_scipys_savitzky_golay_filter(fps, order):
    _, raw = noisy(fps, 1.0, seconds=2)
    wide = window(fps)
    truth = savgol_filter(raw.points[..., :2], wide, order, axis=0)
    inner = slice(wide, -wide)
    np.testing.assert_allclose(smooth(raw, fps).points[inner][..., :2], truth[inner], atol=1e-9)


def test_windows_are_those_that_were_settled():
    assert [window(fps) for fps in (8, 16, 24, 25, 30, 60, 120)] == [5, 5, 7, 7, 7, 13, 25]


def test_at_the_ends_a_parabola_stays_itself():
    t = np.arange(12.0)
    poses = clip(3 + 2 * t - 0.4 * t**2)
    np.testing.assert_allclose(smooth(poses, 16).points, poses.points, atol=1e-9)
    np.testing.assert_allclose(smooth(poses, 24).points, poses.points, atol=1e-9)


def test_what_is_less_sure_pulls_less():
    x, sure = np.full(9, 50.0), np.ones(9)
    x[4] = 90.0
    both = [smooth(clip(x, sure=np.where(np.arange(9) == 4, c, sure)), 16).points[4, 0, 0, 0] for c in (1.0, 0.3)]
    assert both[0] == pytest.approx(50 + 40 * 17 / 35)
    assert 50 < both[1] < both[0] - 5


def test_missing_points_stay_missing_and_pull_nobody():
    poses = clip(np.where(np.arange(12) == 5, 0.0, 40.0), sure=np.where(np.arange(12) == 5, 0.0, 0.7))
    poses.points[5] = 0
    done = smooth(poses, 16).points
    assert not done[5].any()
    np.testing.assert_allclose(np.delete(done, 5, 0)[..., 0], 40.0)
    assert (done[..., 2] == poses.points[..., 2]).all()
    lonely = clip([10.0, 0, 0, 0, 0, 0, 90.0], sure=[1, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(smooth(lonely, 16).points, lonely.points)


def test_one_euro_is_its_paper_written_out():
    fps, cutoff, beta = 30, 1.2, 2.0
    _, raw = noisy(fps, 1.0, seconds=1)
    done = smooth_one_euro(raw, fps, cutoff=cutoff, beta=beta).points[:, 0, 7, :2]
    height = body_heights(raw)[0]
    seen, speed, now = raw.points[:, 0, 7, :2], np.zeros(2), raw.points[0, 0, 7, :2]
    for t in range(1, len(seen)):
        speed = speed + (1 / (1 + fps / (2 * np.pi * 1.0))) * ((seen[t] - now) * fps / height - speed)
        now = now + (1 / (1 + fps / (2 * np.pi * (cutoff + beta * np.hypot(*speed))))) * (seen[t] - now)
        np.testing.assert_allclose(done[t], now, atol=1e-9)


def test_one_euro_starts_anew_after_a_gap():
    _, raw = noisy(16, 1.0, seconds=2)
    after = smooth_one_euro(Poses(raw.points[13:], 640, 480), 16).points
    raw.points[10:13] = 0
    heights = body_heights(raw), body_heights(Poses(raw.points[13:], 640, 480))
    done = smooth_one_euro(raw, 16).points
    assert not done[10:13].any() and heights[0] == pytest.approx(heights[1], rel=0.2)
    np.testing.assert_allclose(done[13:], after, atol=0.5)
    np.testing.assert_array_equal(done[13], raw.points[13])


@pytest.mark.parametrize("gap, filled", [(1, True), (4, True), (5, False)])
def test_gaps_of_four_frames_are_closed_and_longer_ones_stay(gap, filled):
    t = np.arange(6.0 + gap)
    poses = clip(10 + 5 * t, sure=np.full(len(t), 0.8))
    poses.points[3 : 3 + gap] = 0
    done = fill_gaps(poses).points
    assert (done[3 : 3 + gap, :, :, 2] == (0.4 if filled else 0)).all()
    np.testing.assert_allclose(done[..., 0], clip(10 + 5 * t).points[..., 0] * (done[..., 2] > 0))
    assert (fill_gaps(poses, 0).points == poses.points).all()


@pytest.mark.parametrize("sure, filled", [(1.0, 0.5), (0.5, MIN_CONFIDENCE), (0.2, 0.2)])
def test_a_point_filled_in_is_not_lost_when_the_file_is_read_again(sure, filled):
    poses = clip(np.full(5, 30.0), sure=np.full(5, sure))
    poses.points[2] = 0
    assert (fill_gaps(poses).points[2, ..., 2] == filled).all()


def test_gaps_at_the_ends_are_no_gaps():
    poses = clip(np.full(8, 30.0))
    poses.points[:2] = poses.points[-2:] = 0
    assert (fill_gaps(poses).points == poses.points).all()


@pytest.mark.parametrize("fps, new", [(30, 16), (16, 30), (24, 16), (16, 12), (30, 60)])
def test_another_frame_rate_keeps_seconds_and_swings(fps, new):
    t = np.arange(4 * fps + 1) / fps
    done = resample(clip(200 + 60 * np.sin(2 * np.pi * t)), fps, new).points[:, 0, 0, 0]
    assert len(done) == 4 * new + 1
    truth = 200 + 60 * np.sin(2 * np.pi * np.arange(4 * new + 1) / new)
    np.testing.assert_allclose(done, truth, atol=0.9)
    inner = slice(new // 4, -new // 4)  # where each place has two neighbours on both sides
    np.testing.assert_allclose(done[inner], truth[inner], atol=0.2)


def test_frames_that_fall_on_frames_are_those_frames():
    _, raw = noisy(30, 1.0, seconds=2)
    np.testing.assert_array_equal(resample(raw, 30, 15).points, raw.points[::2])
    assert resample(raw, 30, 30) is raw
    np.testing.assert_array_equal(resample(raw, 30, 60).points[::2], raw.points)


def test_resampling_makes_no_point_of_one_that_is_missing():
    poses = clip([10.0, 20.0, 30.0, 40.0])
    poses.points[2] = 0
    done = resample(poses, 4, 16).points[:, 0, 0]
    assert done[:, 2].tolist() == [1] * 7 + [0] * 4 + [1] * 2
    assert set(done[[5, 6, 11, 12], 0]) == {20.0, 40.0}
    assert (done[done[:, 2] == 0] == 0).all()


def test_jitter_is_the_second_difference():
    assert jitter(clip([0.0, 1, 2, 3], sure=[1] * 4)) == 0
    assert jitter(clip([5.0, 8, 5, 8])) == pytest.approx(6.0)
    assert jitter(clip([5.0, 8], sure=[1, 1])) == 0


def test_jitter_of_a_noisy_puppet_is_at_least_halved():
    points = one(4, 72)[:, None].copy()
    points[..., :2] += np.random.default_rng(1).normal(0, 2, points[..., :2].shape)
    raw = Poses(points, 832, 480)
    assert jitter(smooth(raw, 16)) <= 0.5 * jitter(raw)


@pytest.mark.parametrize("call, says", [
    (lambda p: smooth(p, 0), "frame rate is 0"), (lambda p: smooth(p, float("nan")), "frame rate is nan"),
    (lambda p: resample(p, 24, 500), "500"), (lambda p: fill_gaps(p, -1), "gaps of -1"),
    (lambda p: smooth_one_euro(p, 24, cutoff=0), "cutoff is 0"), (lambda p: smooth_one_euro(p, 24, beta=-1), "beta -1"),
    (lambda p: resample(p, 1, 240), "10000"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(call, says):
    with pytest.raises(ConfigError, match=says):
        call(clip(np.arange(60.0)))


def test_nobody_and_one_frame_go_through():
    empty = Poses(np.zeros((5, 0, 136, 3)), 64, 64)
    for done in (smooth(empty, 16), smooth_one_euro(empty, 16), fill_gaps(empty), resample(empty, 16, 8)):
        assert done.points.shape[1] == 0
    still = clip([4.0])
    assert (smooth(still, 16).points == still.points).all() and len(resample(still, 16, 8).points) == 1


def test_smoothing_writes_into_no_input():
    _, raw = noisy(16, 1.0, seconds=1)
    raw.points[3] = 0
    before = raw.points.copy()
    for _ in (smooth(raw, 16), smooth_one_euro(raw, 16), fill_gaps(raw), resample(raw, 16, 8)):
        assert (raw.points == before).all()
