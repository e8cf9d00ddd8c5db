"""The clips that come with the pack: small, readable, with captions every model takes, and the motion they promise."""

import math
from pathlib import Path

import pytest
import torch
from pack.motion.data.grid_flow import estimate_grid_flow
from pack.motion.data.sources.folder import open_clip_folder
from pack.motion.layers.letterbox import fit_square
from pack.motion.text.vocabulary import MotionVocabulary

JELLY = Path(__file__).resolve().parents[4] / "assets" / "clips" / "jelly"


@pytest.fixture(scope="module")
def jelly():
    return open_clip_folder(JELLY, fps=8)


def test_there_are_ten_small_clips_with_captions_that_every_model_takes(jelly):
    assert len(jelly) == 10 and not jelly.skipped
    assert all((clip.num_frames, clip.height, clip.width) == (16, 128, 128) for clip in jelly.clips)
    assert sum(path.stat().st_size for path in JELLY.iterdir()) < 1.5e6
    assert all(MotionVocabulary().motions(clip.caption) == () for clip in jelly.clips)


@pytest.mark.slow
def test_the_picture_is_squashed_and_then_stretched(jelly):
    axis = torch.arange(16) * 4 - 30.0  # cells from the middle, working px
    for clip in (jelly.clips[0], jelly.clips[9]):
        swing = 0.04 if clip is jelly.clips[0] else 0.16
        flow = estimate_grid_flow(fit_square(clip.frames(range(16)), 64))
        for frame in (4, 8, 12):
            squash = swing * math.sin(2 * math.pi * frame / 16)
            across, down = (math.exp(-squash) - 1) * axis, (math.exp(squash) - 1) * axis
            assert (flow[frame, 0].median(0).values - across).abs().max() < 0.3
            assert (flow[frame, 1].median(1).values - down).abs().max() < 0.3
