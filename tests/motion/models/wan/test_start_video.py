"""What Wan's image-to-video variants see of a start image."""

import torch
from pack.motion.models.wan.start_video import concat_latents, start_video


def test_a_start_video_is_the_image_then_grey():
    first = torch.rand(2, 3, 1, 4, 6)
    video = start_video(first, 5)
    assert video.shape == (2, 3, 5, 4, 6) and torch.equal(video[:, :, :1], first)
    assert bool((video[:, :, 1:] == 0.5).all()) and torch.equal(start_video(first, 1), first)


def test_the_mask_stands_before_the_latents_and_is_one_in_the_first_frame_alone():
    latents = torch.randn(2, 16, 3, 4, 6)
    seen = concat_latents(latents)
    assert seen.shape == (2, 20, 3, 4, 6) and torch.equal(seen[:, 4:], latents)
    assert bool((seen[:, :4, 0] == 1).all()) and not seen[:, :4, 1:].any()
