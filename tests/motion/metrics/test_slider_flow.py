"""What the dynamics slider does, as clips show it: the table agrees with flow measured on photos, long or short."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.io.media.video import read_photo
from pack.motion.metrics.camera_way import camera_way
from pack.motion.metrics.optical_flow import has_cv2
from pack.motion.metrics.slider_flow import SLIDERS, WAYS, like_sliders
from pack.motion.sampling.clip_places import SAME_MOVE, clip_places
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import flow_dpm_2m

WORDS = {"pan": "pan down", "zoom in": "zoom in", "zoom out": "zoom out", "rotate": "rotate right"}
CUTS = {"chelsea.png": (180, 270), "coffee.png": (320, 180), "brick.png": (208, 208)}  # to height, width


def test_a_way_is_read_as_the_slider_that_goes_as_far():
    for model, moves in WAYS.items():
        for move, row in moves.items():
            assert list(row) == sorted(set(row)) and len(row) == len(SLIDERS)
            for slider, way in zip(SLIDERS, row):
                assert like_sliders(model, way)[move] == slider
            between = like_sliders(model, (row[2] + row[3]) / 2)[move]
            assert between == pytest.approx((SLIDERS[2] + SLIDERS[3]) / 2)
            assert like_sliders(model, 99.0)[move] == 19 and like_sliders(model, 0.0)[move] == 0
    assert like_sliders("another", 5.0) is None


def photo(name):
    """The middle of a photograph of the scikit-image wheel, at the size of CUTS."""
    picture = read_photo(Path(importlib.util.find_spec("skimage").origin).parent / "data" / name)
    height, width = CUTS[name]
    scale = min(picture.shape[1] / height, picture.shape[2] / width)
    cut = [round(side * scale) for side in (height, width)]
    top, left = ((side - kept) // 2 for side, kept in zip(picture.shape[1:], cut))
    picture = picture[None, :, top : top + cut[0], left : left + cut[1]]
    return torch.nn.functional.interpolate(picture, (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)


@torch.no_grad()
def clips(model, picture, dynamics, num_frames, num_steps=3):
    """One clip (t, h, w, 3) for each of WORDS."""
    sampling, words = model.spec.sampling, list(WORDS.values())
    first = model.codec.encode(picture[None, :, None]).expand(len(words), -1, -1, -1, -1)
    told = replace(model.encode(words), first_latent=first, motion_bucket_id=torch.tensor([dynamics]))
    denoise = MotionDenoiser(model.dit, told.at_places(clip_places(num_frames, sampling.num_frames, SAME_MOVE)))
    noise = torch.randn((len(words), first.shape[1], num_frames, *first.shape[3:]),
                        generator=torch.Generator().manual_seed(3))  # fmt: skip
    latents = flow_dpm_2m(denoise, noise, flow_sigmas(num_steps, shift=sampling.shift))
    return [model.codec.decode_onto(latents[row : row + 1], picture)[0].movedim(0, -1) for row in range(len(words))]


def away(name, title, dynamics, num_frames):
    """How far each measured move is from the table, as a share of it."""
    made = clips(load_builtin(name), photo(title), dynamics, num_frames)
    at = SLIDERS.index(dynamics)
    return {move: camera_way(clip) / WAYS[name][move][at] - 1 for move, clip in zip(WORDS, made)}


@pytest.mark.slow
@pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
@pytest.mark.parametrize("title, dynamics, num_frames", [
    ("chelsea.png", 12, 16), ("coffee.png", 8, 16), ("brick.png", 4, 16), ("chelsea.png", 12, 64)
])  # fmt: skip
def test_motionblocks_small_measures_within_15_percent_of_its_table(title, dynamics, num_frames):
    found = away("motionblocks-small", title, dynamics, num_frames)
    assert all(abs(value) < 0.15 for value in found.values()), found


@pytest.mark.slow
@pytest.mark.skipif(not has_cv2(), reason="opencv-python-headless is not installed")
@pytest.mark.parametrize("num_frames", [16, 64])
def test_motionblocks_tiny_depends_on_the_photo_and_stays_within_35_percent(num_frames):
    found = away("motionblocks-tiny", "chelsea.png", 12, num_frames)
    assert all(abs(value) < 0.35 for value in found.values()), found
