"""The shipped small Wan that follows poses: puppets, acts and a ground that no training drew."""

import pytest
import torch
from pack.motion.io.files.safetensors import read_header
from pack.motion.io.networks.builtin_names import POSE_NAME, builtin_path
from pack.motion.pose.renderer import RENDERER_ID
from pack.motion.scene_model import load_scene_model
from pack.recipes.pose import HELD_BACK_ACTS, HELD_BACK_GROUNDS, PoseSource

SEED, CLIPS = 9_000_017, 4


@pytest.fixture(scope="module")
def model():
    return load_scene_model(builtin_path(POSE_NAME))


@pytest.fixture(scope="module")
def clips():
    source = PoseSource(96, 96, 9, acts=HELD_BACK_ACTS, grounds=("grass", *HELD_BACK_GROUNDS))
    return [source.draw(torch.Generator().manual_seed(SEED + row)) for row in range(CLIPS)]


@pytest.fixture(scope="module")
def made(model, clips):
    """Videos (b, 3, t, h, w) of each clip's own poses."""
    references = torch.stack([clip.reference[:, 0] for clip in clips])
    skeletons = torch.stack([clip.skeletons for clip in clips])
    return model.draw_poses(references, skeletons, num_steps=10).movedim(-1, 1)


def test_the_file_is_small_and_says_how_it_was_made_and_what_it_reads(model):
    path = builtin_path(POSE_NAME)
    told = read_header(path).metadata
    assert path.stat().st_size <= 24_000_000 and told["command"].startswith("python tools/train_pose.py")
    assert told["pose_renderer"] == str(RENDERER_ID) and told["sequence_mode"] == model.sequences.mode == "separate"
    assert model.starts_from_image and model.spec.sampling.guidance_scale == 1.0


def test_who_is_drawn_is_who_the_picture_shows(clips, made):
    for clip, video in zip(clips, made):
        own = float((video - clip.target).square().mean())
        assert all(own < 0.6 * float((video - other.target).square().mean()) for other in clips if other is not clip)


def test_the_body_stands_where_the_skeleton_has_it(clips, made):
    """Nearer to the clip itself than the picture is, whose pose is another, in every clip."""
    for clip, video in zip(clips, made):
        moved = (clip.target - clip.reference).abs().amax(0, keepdim=True) > 0.15  # where the two poses differ
        moved = moved.expand_as(video)
        drawn, still = (float((each.expand_as(video) - clip.target)[moved].square().mean())
                        for each in (video, clip.reference))  # fmt: skip
        assert drawn < 0.6 * still


def test_other_skeletons_give_another_video_and_the_same_ones_the_same(model, clips):
    clip = clips[0]
    reference, skeletons = clip.reference[:, 0][None], clip.skeletons[None]
    one = model.draw_poses(reference, skeletons, num_steps=2)
    assert torch.equal(one, model.draw_poses(reference, skeletons, num_steps=2))
    assert float((one - model.draw_poses(reference, clips[1].skeletons[None], num_steps=2)).abs().mean()) > 0.01
