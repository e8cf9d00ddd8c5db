"""Clips of a camera move over photos: which way they move, that nothing beyond the photo is shown, and their flow."""

import pytest
import torch
import torch.nn.functional as F
from pack.motion.choices import CAMERA_MOVES
from pack.motion.data.procedural.textures import canvases
from pack.motion.data.sources.camera_clips import camera_clips
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.metrics.optical_flow import direction_agrees

WIDE = (1, 3, 90, 130)


def map_of(height: int, width: int) -> torch.Tensor:
    """A photo whose red and green say where a pixel lies, 0 to 1 from edge to edge."""
    y, x = ((torch.arange(side) + 0.5) / side for side in (height, width))
    return torch.stack((x.expand(height, -1), y.unsqueeze(1).expand(-1, width), torch.zeros(height, width)))[None]


def places(clip) -> torch.Tensor:
    """Where in the photo each pixel of the first, a middle and the last frame was read: (3, 2, h, w)."""
    return clip.frames([0, clip.num_frames // 2, clip.num_frames - 1])[:, :2]


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_a_move_goes_the_way_its_name_says(move):
    photo = canvases(1, 160, torch.Generator().manual_seed(3)).clamp(0, 1)
    (clip,) = camera_clips(photo, move, 1, num_frames=5, amount=0.2, side=96).clips
    assert clip.caption == move
    assert direction_agrees(move, clip.frames(range(5)).movedim(1, -1))


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_every_frame_lies_inside_the_photo_and_the_first_is_upright(move):
    clips = camera_clips(map_of(90, 130), move, 12, num_frames=7, amount=0.5, vary=0.9, side=45).clips
    for clip in clips:
        assert (clip.height, clip.width) == (45, 65)
        seen = places(clip)
        # at the very edge half a pixel repeats, which a window beyond the edge would show over many
        step = seen[0, 0, 0].diff()
        assert torch.allclose(step, step.mean(), atol=0.3 * float(step.mean()))
        assert torch.allclose(seen[0, 1], seen[0, 1, :, :1].expand(45, 65), atol=1e-3)
        inner = seen[..., 2:-2, 2:-2]
        assert (inner.diff(dim=-1).abs().sum(1) > 0).all() and (inner.diff(dim=-2).abs().sum(1) > 0).all()


def test_a_pan_goes_as_far_as_asked_a_zoom_grows_and_a_turn_turns_so_much():
    def last(move):
        (clip,) = camera_clips(map_of(200, 200), move, 1, num_frames=4, amount=0.2, vary=0.0, side=100).clips
        first, _, end = places(clip)[..., 3:-3, 3:-3]
        across = (end[:, 0, -1] - end[:, 0, 0]) / (first[0, 0, -1] - first[0, 0, 0])  # of the upper edge
        return (end - first).mean((1, 2)) / (first[0, 0, -1] - first[0, 0, 0]) * 93 / 100, across

    way, _ = last("pan down")
    assert torch.allclose(way, torch.tensor([0.0, 0.2]), atol=0.003)
    for move, growth in (("zoom in", -0.2), ("zoom out", 0.2)):
        _, across = last(move)
        assert torch.allclose(across, torch.tensor([growth]).exp() * torch.tensor([1.0, 0.0]), atol=0.003)
    _, across = last("rotate right")  # the window turns against the picture
    assert torch.allclose(across, torch.stack((torch.tensor(0.2).cos(), -torch.tensor(0.2).sin())), atol=0.003)


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_the_flow_says_where_what_is_seen_was_in_the_first_frame_asked_for(move):
    (clip,) = camera_clips(map_of(120, 120), move, 1, num_frames=9, amount=0.2, side=64, seed=4).clips
    first, later = clip.frames([2, 7])[:, :2]
    flow = clip.flow([2, 7])
    assert flow.shape == (2, 2, 16, 16) and float(flow[0].abs().max()) < 1e-5
    dense = F.interpolate(flow[1:], size=64, mode="bilinear")[0]
    axis = torch.arange(64.0)
    place = torch.stack((axis + dense[0], axis.unsqueeze(1) + dense[1]), -1)
    inside = ((place > 1) & (place < 62)).all(-1) & F.pad(torch.ones(56, 56), (4,) * 4).bool()
    read = F.grid_sample(first[None], ((place + 0.5) / 32 - 1)[None], align_corners=False)[0]
    assert inside.sum() > 1000 and float((read - later)[:, inside].abs().max()) < 0.005


def test_the_flow_of_a_wide_clip_lies_on_the_square_around_it():
    (clip,) = camera_clips(map_of(*WIDE[2:]), "zoom in", 1, num_frames=3, amount=0.3, vary=0.0, side=40).clips
    flow, middle = clip.flow([0, 2])[1], 7.5
    cell = max(clip.height, clip.width) / 16
    expected = (torch.arange(16) - middle) * cell * (torch.tensor(-0.3).exp() - 1)
    assert torch.allclose(flow[0], expected.expand(16, -1), atol=1e-4)
    assert torch.allclose(flow[1], expected.unsqueeze(1).expand(-1, 16), atol=1e-4)


def test_clips_differ_and_clip_k_is_the_same_however_many_there_are():
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    few, many = (camera_clips(photos, "pan left", count, num_frames=3, side=32) for count in (3, 7))
    assert [clip.name for clip in few.clips] == ["0000 pan left", "0001 pan left", "0002 pan left"]
    for one, other in zip(few.clips, many.clips):
        assert one.fingerprint == other.fingerprint and torch.equal(one.frames([0, 2]), other.frames([0, 2]))
    assert len({clip.fingerprint for clip in many.clips}) == 7
    assert not torch.equal(many.clips[0].frames([0]), many.clips[2].frames([0]))  # of the same photo
    changed = [camera_clips(photos, "pan left", 1, num_frames=3, side=32, **more).clips[0].fingerprint
               for more in ({"seed": 1}, {"amount": 0.2}, {"vary": 0.1})]
    changed.append(camera_clips(photos * 0.99, "pan left", 1, num_frames=3, side=32).clips[0].fingerprint)
    assert len({few.clips[0].fingerprint, *changed}) == 5
    assert "pan left inside 2 photos, with its true flow" in many.summary() and many.fps == 8.0


def test_soft_clips_are_said_and_large_photos_do_not_flicker():
    small = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert "photos are enlarged up to" in camera_clips(small, "zoom in", 1, side=128).summary()
    assert "enlarged" not in camera_clips(small, "zoom in", 1, side=32).summary()
    fine = torch.zeros(1, 3, 512, 512)
    fine[..., ::2] = 1.0  # stripes finer than a pixel of the clip
    frames = camera_clips(fine, "pan right", 1, num_frames=4, side=64).clips[0].frames(range(4))
    assert float((frames - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("more, words", [
    ({"move": "pan away"}, "move is 'pan away'; it must be one of: pan left"), ({"num_clips": 0}, "num_clips is 0"),
    ({"num_frames": 1}, "num_frames is 1"), ({"amount": 0.6}, r"amount is 0.6; it must be 0.01 to 0.5"),
    ({"amount": float("nan")}, "amount is nan"), ({"vary": 1.0}, "vary is 1.0"), ({"side": 16}, "side is 16"),
    ({"side": 4000}, "clips would be 5778x4000 px"), ({"fps": 0.0}, "fps"),
])  # fmt: skip
def test_bad_input_is_refused(more, words):
    with pytest.raises(ConfigError, match=words):
        camera_clips(torch.rand(WIDE), **{"move": "pan left", "num_clips": 1, **more})


def test_what_is_no_photo_is_refused():
    for photos, words in ((torch.rand(0, 3, 64, 64), "photos are"), (torch.rand(1, 4, 64, 64), "photos are"),
                          (torch.rand(1, 3, 20, 64), "photos are 64x20 px; at least 32")):
        with pytest.raises(ShapeError, match=words):
            camera_clips(photos, "pan left", 1)
