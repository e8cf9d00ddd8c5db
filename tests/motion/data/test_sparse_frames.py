"""Which frames a motion is learned from: nearest in time, evenly apart, of lengths that Wan holds, none invented."""

import pytest
import torch
from pack.motion.data.clips import Clip
from pack.motion.data.sparse_frames import plan_frames
from pack.motion.errors import ConfigError, ShapeError


def clip(num_frames=100, fps=16.0, times=None):
    return Clip("a", "text", num_frames, fps, 32, 32, "mark", lambda at: torch.zeros(len(at), 3, 32, 32), times=times)


def test_of_eighty_one_frames_every_fifth_is_trained_and_of_seventeen_every_second():
    plan = plan_frames(clip())
    assert plan.window == tuple(range(81)) and plan.sparse == tuple(range(0, 81, 5))
    assert (plan.whole_latents, plan.num_latents, plan.fps) == (21, 5, 16.0)
    small = plan_frames(clip(20), num_frames=17, sparse_frames=9)
    assert small.sparse == tuple(range(0, 17, 2)) and (small.whole_latents, small.num_latents) == (5, 3)


def test_a_faster_clip_gives_the_frames_nearest_in_time_each_once():
    plan = plan_frames(clip(200, 30.0), num_frames=33, sparse_frames=9)
    assert plan.window[:5] == (0, 2, 4, 6, 7) or plan.window[:5] == (0, 2, 4, 6, 8)
    assert all(abs(index / 30 - n / 16) <= 1 / 60 + 1e-6 for n, index in enumerate(plan.window))
    assert len(set(plan.window)) == 33


def test_a_slow_clip_keeps_its_rate_and_says_so():
    plan = plan_frames(clip(50, 10.0), num_frames=33, sparse_frames=0)
    assert plan.window == tuple(range(33)) == plan.sparse and plan.fps == 10.0
    assert "10 frames a second, fewer than 16: its own rate is kept" in plan.text()


def test_times_of_a_file_count_not_its_nominal_rate():
    times = tuple(n / 16 for n in range(20)) + tuple(19 / 16 + (n + 1) / 8 for n in range(20))
    plan = plan_frames(clip(40, 16.0, times), num_frames=33, sparse_frames=9)
    assert plan.window[:20] == tuple(range(20)) and plan.window[21] == 20 and len(plan.window) == 33


def test_the_window_begins_where_it_is_told_and_a_short_clip_gives_the_most_it_holds():
    plan = plan_frames(clip(40), num_frames=81, sparse_frames=17, start=0.5)
    assert plan.window == tuple(range(8, 37)) and "the clip holds 29 of 81 frames" in plan.text()
    uneven = [b - a for a, b in zip(plan.sparse, plan.sparse[1:])]
    assert len(plan.sparse) == 17 and set(uneven) == {1, 2} and "every 1.75th frame" in plan.text()


def test_the_text_shows_every_index():
    text = plan_frames(clip(20), num_frames=17, sparse_frames=9).text()
    assert "17 frames at 16 fps, 1.00 s, 5 latent frames: 0 1 2 3" in text
    assert "9 of them are trained, 3 latent frames: 0 2 4 6 8 10 12 14 16" in text


@pytest.mark.parametrize("settings, said", [
    ({"num_frames": 16}, "num_frames is 16; Wan holds 4k \\+ 1 frames, here 9 to 1001: use 17"),
    ({"sparse_frames": 16}, "sparse_frames is 16; .*: use 17"), ({"num_frames": 3}, "num_frames is 3; .*: use 9"),
    ({"start": 99.0}, "start is 99 s; a is 6.19 s long"), ({"start": -1.0}, "start is -1 s"),
])  # fmt: skip
def test_lengths_that_wan_does_not_hold_are_refused_with_one_that_it_does(settings, said):
    with pytest.raises(ConfigError, match=said):
        plan_frames(clip(), **settings)


def test_three_frames_are_too_few():
    with pytest.raises(ShapeError, match="a has 3 frames at 16 fps from 0 s on; at least 9"):
        plan_frames(clip(3))
