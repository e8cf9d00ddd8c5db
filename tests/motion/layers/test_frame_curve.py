"""Frames between whole places follow from those at whole places, by scipy's cubic spline; whole ones are left alone."""

import pytest
import torch
from pack.motion.choices import BACK_AND_FORTH, GO_ON, SAME_MOVE
from pack.motion.layers.frame_curve import frame_curve
from pack.motion.sampling.clip_places import clip_places
from scipy.interpolate import make_interp_spline


@pytest.mark.parametrize("clip", [
    (16, 16, SAME_MOVE), (40, 16, GO_ON), (40, 16, BACK_AND_FORTH), (5, 2, SAME_MOVE), (3, 1, SAME_MOVE)])
def test_clips_of_whole_places_and_of_fewer_than_three_have_no_curve(clip):
    assert frame_curve(clip_places(*clip)[0]) is None


@pytest.mark.parametrize("num_frames", [17, 31, 64, 121])
def test_a_whole_clip_is_seen_at_every_trained_place_once_and_passes_through_them(num_frames):
    motion = clip_places(num_frames, 16, SAME_MOVE)[0]
    curve = frame_curve(motion)
    assert curve.places.tolist() == list(range(16)) and len(set(curve.frames.tolist())) == 16
    assert (motion[curve.frames] - curve.places).abs().max() <= 0.5
    values = torch.randn(1, 2, 16, 3, 4, generator=torch.Generator().manual_seed(0))
    truth = make_interp_spline(range(16), values[0].double().movedim(1, 0).numpy(), k=3)(motion.double().numpy())
    assert torch.allclose(curve.along(values)[0].double(), torch.from_numpy(truth).movedim(0, 1), atol=1e-5)
    at_places = (motion == motion.round()).nonzero().flatten()
    assert torch.allclose(curve.along(values)[:, :, at_places], values[:, :, motion[at_places].long()], atol=1e-6)


def test_a_window_that_begins_later_asks_for_the_places_around_its_frames_only():
    motion = torch.cat((torch.zeros(1), clip_places(121, 16, SAME_MOVE)[0][30:70]))  # frame 1 is put in front
    curve = frame_curve(motion)
    assert curve.places.tolist() == [0, *range(3, 10)] and curve.frames[0] == 0
    line = curve.weights @ curve.places
    assert (line - motion).abs().max() < 1e-4
