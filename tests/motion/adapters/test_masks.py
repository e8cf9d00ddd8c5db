"""Masks as weights of tokens: means of frames and of areas, counted by loops; other frame counts are refused."""

import pytest
import torch
from pack.motion.adapters.masks import check_mask, token_mask
from pack.motion.errors import ShapeError


def mask_of(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("side", "cells"), [((12, 8), (3, 4)), ((7, 10), (3, 4)), ((2, 3), (4, 5)), ((1, 1), (2, 2))])
def test_a_token_has_the_mean_of_its_area_with_parts_of_pixels(side, cells):
    mask = mask_of(1, *side)
    found = token_mask(mask, 9, 4, cells).double()
    fine = mask[0].double().repeat_interleave(cells[0], 0).repeat_interleave(cells[1], 1)  # each pixel cut into parts
    truth = [fine[y * side[0] : (y + 1) * side[0], x * side[1] : (x + 1) * side[1]].mean()
             for y in range(cells[0]) for x in range(cells[1])]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(truth)[None], atol=1e-6, rtol=0)


def test_a_latent_frame_has_the_mean_of_its_frames_and_the_first_stands_alone():
    mask = mask_of(9, 4, 4)
    found = token_mask(mask, 9, 4, (4, 4))
    for latent, frames in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
        truth = sum(mask[frame] for frame in frames) / len(frames)
        torch.testing.assert_close(found[latent], truth.flatten())
    assert torch.equal(token_mask(mask, 9, 1, (4, 4)), mask.flatten(1))


@pytest.mark.parametrize(("frames", "words"), [
    (5, "mask has 5 frames; 1 is needed, or 17 as the video has; a mask counts the video's frames, not its latent"),
    (4, "mask has 4 frames; 1 is needed, or 17 as the video has; repeat"), (18, "18 frames"),
])  # fmt: skip
def test_other_frame_counts_are_refused_those_of_latent_frames_too(frames, words):
    with pytest.raises(ShapeError, match=words):
        token_mask(mask_of(frames, 4, 4), 17, 4, (2, 2))


def test_a_mask_is_copied_and_must_lie_in_0_to_1():
    mask = mask_of(4, 4)
    copy = check_mask(mask)
    assert copy.shape == (1, 4, 4) and torch.equal(copy[0], mask)
    mask.zero_()
    assert copy.sum() > 0
    for bad in (torch.full((1, 2, 2), 1.5), torch.full((1, 2, 2), -0.1), torch.full((1, 2, 2), torch.nan)):
        with pytest.raises(ShapeError, match="0 to 1 is needed"):
            check_mask(bad)
    for bad in (torch.ones(4), torch.ones(1, 1, 2, 2), torch.ones(0, 2, 2)):
        with pytest.raises(ShapeError, match="height, width"):
            check_mask(bad)
