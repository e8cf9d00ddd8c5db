"""Generated clips: drawn on demand, each from its own seed, with captions and a flow that are true."""

import pytest
import torch
from pack.motion.data.procedural.scenes import WORDS
from pack.motion.data.sources.generated import generate_collection
from pack.motion.errors import ConfigError
from pack.motion.layers.letterbox import Letterbox
from pack.motion.layers.warp import resample_flow, warp

PLAYED = ["pan right", "zoom out", "rotate left", "bounce", "sway"]


@pytest.fixture(scope="module")
def played():
    """One clip of each of PLAYED, by caption."""
    return {clip.caption: clip for clip in generate_collection(len(PLAYED), motions=PLAYED, seed=8).clips}


def test_clips_are_drawn_when_they_are_read_and_come_out_the_same_again():
    clip = generate_collection(2, motions=["pan left"], seed=3, size=32).clips[1]
    again = generate_collection(5, motions=["pan left"], seed=3, size=32).clips[1]
    frames = clip.frames(range(16))
    assert frames.shape == (16, 3, 32, 32) and 0 <= frames.min() and frames.max() <= 1
    assert torch.equal(frames, again.frames(range(16))) and clip.fingerprint == again.fingerprint
    torch.testing.assert_close(clip.frames([9, 2]), frames[[9, 2]])


def test_seeds_sizes_lengths_and_clips_differ_in_fingerprint_and_picture():
    base = generate_collection(2, motions=["zoom in"], size=32)
    others = [generate_collection(1, motions=["zoom in"], **{"size": 32, **change}).clips[0]
              for change in ({"seed": 1}, {"size": 48}, {"num_frames": 8})]  # fmt: skip
    marks = {clip.fingerprint for clip in (*base.clips, *others)}
    assert len(marks) == 5
    assert not torch.equal(base.clips[0].frames([0]), base.clips[1].frames([0]))
    assert not torch.equal(base.clips[0].frames([0]), others[0].frames([0]))


def test_motions_are_dealt_out_in_turn_and_any_motion_is_drawn_without_them():
    dealt = generate_collection(5, motions=["pan left", " Zoom in,pan up "])
    assert [clip.caption for clip in dealt.clips] == ["pan left", "pan up, zoom in"] * 2 + ["pan left"]
    drawn = generate_collection(60)
    captions = {clip.caption for clip in drawn.clips}
    assert len(captions) > 10 and {word for text in captions for word in text.split(", ")} <= set(WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("motion", PLAYED)
@pytest.mark.parametrize("start", [0, 3])
def test_flow_is_that_of_the_frames_against_the_first_of_them(played, motion, start):
    clip = played[motion]
    wanted = [start, start + 2, start + 7]
    frames, flow = clip.frames(wanted), clip.flow(wanted)
    assert flow.shape == (3, 2, 16, 16) and flow[0].abs().max() < 1e-4
    dense = resample_flow(flow, Letterbox(64, 64, 64))
    moved = warp(frames[:1].expand(3, -1, -1, -1), dense)
    middle = slice(12, 52)
    error, still = ((pictures - frames)[..., middle, middle].abs().mean((1, 2, 3)) for pictures in (moved, frames[:1]))
    assert (error[1:] < 0.35 * still[1:] + 1e-3).all()


def test_any_motion_can_be_kept_to_some_words():
    drawn = generate_collection(40, words=["pan left", "zoom in", "still"])
    words = {word for clip in drawn.clips for word in clip.caption.split(", ")}
    assert words == {"pan left", "zoom in", "still"}


def test_clips_looked_at_in_inference_mode_can_be_read_outside_it(played):
    with torch.inference_mode():
        seen = played["sway"].frames([0, 4]), played["sway"].flow([0, 4])
    torch.testing.assert_close(played["sway"].frames([0, 4]), seen[0])
    torch.testing.assert_close(played["sway"].flow([0, 4]), seen[1])


def test_the_summary_names_the_motions():
    text = generate_collection(4, motions=["pan left", "still"], seed=7).summary()
    assert text.startswith("4 clips, 64 frames at 8 fps (16 a clip)")
    assert "64x64 (4)" in text and "pan left (2), still (2)" in text and "from seed 7" in text


@pytest.mark.parametrize("wrong, words", [
    ({"motions": ["fly"]}, "'fly' cannot be drawn; there are: pan left"), ({"motions": [""]}, "cannot be drawn"),
    ({"motions": ["still, pan left"]}, "joins 'still' with a motion"), ({"motions": []}, "empty list"),
    ({"words": []}, "empty list"), ({"words": ["fly"]}, "'fly' cannot be drawn"),
    ({"num_frames": 1}, "num_frames is 1; it must be 2"), ({"size": 72}, "size is 72; a multiple of 16"),
    ({"size": 16}, "size is 16; it must be 32"), ({"fps": 0}, "fps is 0"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        generate_collection(1, **wrong)
    with pytest.raises(ConfigError, match="num_clips is 0"):
        generate_collection(0)
