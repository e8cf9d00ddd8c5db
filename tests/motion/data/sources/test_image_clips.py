"""Frames in memory as clips: which frames each has, what is left out, and what changes its fingerprint."""

import pytest
import torch
from pack.motion.data.sources.generated import generate_collection
from pack.motion.data.sources.images import image_clips, joined
from pack.motion.errors import ConfigError, ShapeError

FRAMES = torch.rand(11, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def test_all_frames_are_one_clip_or_so_many_each():
    (whole,) = image_clips(FRAMES, fps=12.0, caption="sway").clips
    assert (whole.name, whole.caption, whole.num_frames, whole.fps) == ("images 1", "sway", 11, 12.0)
    assert (whole.height, whole.width) == (6, 8) and torch.equal(whole.frames([4, 10]), FRAMES[[4, 10]])
    cut = image_clips(FRAMES, fps=8.0, frames_per_clip=4, first=3)
    assert [clip.name for clip in cut.clips] == ["images 3", "images 4"]
    assert len({clip.fingerprint for clip in cut.clips}) == 2
    assert torch.equal(cut.clips[1].frames([0, 3]), FRAMES[[4, 7]])
    assert "3 frames at the end are left out: no whole clip of 4" in cut.summary()


def test_what_is_read_is_a_copy():
    frames = FRAMES.clone()
    (clip,) = image_clips(frames, fps=8.0).clips
    clip.frames([0]).zero_()
    assert torch.equal(frames, FRAMES)


def test_a_fingerprint_is_that_of_the_pixels_and_the_rate():
    marks = [image_clips(frames, fps=fps).clips[0].fingerprint
             for frames, fps in ((FRAMES, 8.0), (FRAMES.clone(), 8.0), (FRAMES, 9.0), (FRAMES * 0.999, 8.0))]
    assert marks[0] == marks[1] and len(set(marks)) == 3


def test_clips_are_joined_at_one_rate():
    drawn = generate_collection(2, motions=["pan left"], num_frames=4, size=32)
    both = joined(drawn, image_clips(FRAMES, fps=8.0, first=3))
    assert [clip.name for clip in both.clips[1:]] == ["0001 pan left", "images 3"] and both.fps == 8
    assert "drawn by the generator" in both.summary()
    with pytest.raises(ConfigError, match="the clips before are at 8 fps, these at 24; one rate is needed"):
        joined(drawn, image_clips(FRAMES, fps=24.0))


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="clips of 12 frames are asked for and 11 frames are there"):
        image_clips(FRAMES, fps=8.0, frames_per_clip=12)
    with pytest.raises(ConfigError, match="clips of 1 frames are asked for"):
        image_clips(FRAMES[:1], fps=8.0)
    with pytest.raises(ShapeError, match="frames are"):
        image_clips(FRAMES[:, :1], fps=8.0)


def test_masks_go_with_their_frames_into_the_clips_and_their_fingerprint():
    frames, masks = torch.rand(8, 3, 6, 4), torch.rand(8, 6, 4)
    made = image_clips(frames, fps=8.0, frames_per_clip=4, masks=masks)
    assert torch.equal(made.clips[1].mask_frames([0, 3]), masks[[4, 7]]) and "masks: 2 of 2 clips" in made.summary()
    plain, other = (image_clips(frames, fps=8.0, frames_per_clip=4, masks=given) for given in (None, 1 - masks))
    assert len({one.clips[0].fingerprint for one in (made, plain, other)}) == 3
    with pytest.raises(ConfigError, match="images 1 and 1 more of 2 clips has no masks, .*bird.mask.mp4 beside bird"):
        plain.check_masks()
    made.check_masks()


def test_masks_of_another_number_or_size_are_refused():
    for shape in ((7, 6, 4), (8, 4, 6)):
        with pytest.raises(ShapeError, match="masks are .*; .8, 6, 4. is needed: a mask for each frame, of its size"):
            image_clips(torch.rand(8, 3, 6, 4), fps=8.0, masks=torch.rand(shape))
