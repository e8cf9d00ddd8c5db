"""Procedural clips: seeded, labelled truthfully, and their flow really is the flow."""

import math

import pytest
import torch
from pack.motion.data.procedural import camera as procedural
from pack.motion.data.procedural.camera import SINGLES, SIZE, Scenes, draw_scenes
from pack.motion.layers.letterbox import Letterbox
from pack.motion.layers.warp import resample_flow, warp
from pack.motion.metrics.dynamics import dynamics_degree
from pack.motion.models.model_spec import DynamicsSpec
from pack.motion.text.vocabulary import MotionVocabulary
from pack.recipes.tiny import builtin_spec
from pack.recipes.tiny_trainer import label_scenes, measure_buckets

CLIP = torch.arange(16)


def clip(motion: str, *, seed: int = 3, num: int = 6, frames=CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    scenes = draw_scenes(num, torch.Generator().manual_seed(seed), motions=[motion] * num)
    return scenes.render(frames.expand(num, -1))


def test_same_seed_gives_the_same_clips_and_another_seed_others():
    one, two, other = (draw_scenes(5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.captions == two.captions
    assert torch.equal(one.render(CLIP.expand(5, -1))[0], two.render(CLIP.expand(5, -1))[0])
    assert not torch.equal(one.canvas, other.canvas)


def test_any_frames_can_be_asked_for_alone():
    frames, flow = clip("zoom out, rotate left")
    some, some_flow = clip("zoom out, rotate left", frames=torch.tensor([0, 7, 15]))
    torch.testing.assert_close(some, frames[:, :, [0, 7, 15]])
    torch.testing.assert_close(some_flow, flow[:, [0, 7, 15]])


@pytest.mark.slow
@pytest.mark.parametrize("motion", SINGLES)
def test_warping_frame_0_by_the_flow_gives_the_frame_where_content_stays(motion):
    frames, flow = clip(motion, num=8)
    square = Letterbox(SIZE, SIZE, SIZE)
    middle = slice(24, 40)
    n = 4
    dense = resample_flow(flow[:, n], square)
    moved = warp(frames[:, :, 0], dense)
    error = (moved - frames[:, :, n])[..., middle, middle].abs().flatten(1).mean(1)
    still = (frames[:, :, 0] - frames[:, :, n])[..., middle, middle].abs().flatten(1).mean(1)
    assert error.median() < 0.01
    assert motion == "still" or error.median() < 0.35 * still.median()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("pan left", 0, -1), ("pan right", 0, 1), ("pan up", 1, -1), ("pan down", 1, 1)]
)
def test_pan_names_the_camera_so_the_picture_slides_the_other_way(motion, axis, sign):
    _, flow = clip(motion)
    middle = flow[:, 15].mean((-1, -2))  # backward flow: the camera's own path
    assert (middle[:, axis] * sign > 1).all() and (middle[:, 1 - axis].abs() < 1e-3).all()


@pytest.mark.parametrize(("motion", "sign"), [("zoom in", -1), ("zoom out", 1)])
def test_zoom_in_reads_nearer_to_the_middle(motion, sign):
    _, flow = clip(motion)
    assert (flow[:, 15, 0, :, -1] * sign > 0).all() and (flow[:, 15, 1, -1, :] * sign > 0).all()


def test_rotate_left_turns_the_picture_counter_clockwise():
    _, flow = clip("rotate left")
    # what was at the right edge is later at the top, so the top reads from the right: dx > 0 there
    assert (flow[:, 15, 0, 0, 8] > 0.5).all() and (flow[:, 15, 1, 8, 15] > 0.5).all()


def test_rotation_is_rigid_in_the_flow():
    """Corner of the backward flow equals R·x - x for one angle, computed here in float64."""
    scenes = draw_scenes(1, torch.Generator().manual_seed(0), motions=["rotate left"])
    angle = float(scenes.rate[0, 3]) * 9
    _, flow = scenes.render(torch.tensor([[0, 9]]))
    x, y = 2.0 - 32, 62.0 - 32
    truth = (math.cos(angle) * x - math.sin(angle) * y - x, math.sin(angle) * x + math.cos(angle) * y - y)
    assert flow[0, 1, :, 15, 0].tolist() == pytest.approx(truth, abs=1e-3)


@pytest.mark.slow
def test_near_object_and_ground_move_faster_than_the_distance():
    scenes = draw_scenes(64, torch.Generator().manual_seed(1), motions=["pan right"] * 64)
    _, flow = scenes.render(torch.tensor([0, 8]).expand(64, -1))
    spread = flow[:, 1, 0].flatten(1).amax(1) / flow[:, 1, 0].flatten(1).amin(1)
    layered = (scenes.blob[:, 4] > 1) | (scenes.ground[:, 1] > 0)
    assert 0.3 < layered.float().mean() < 0.9
    assert (spread[layered] > 1.1).float().mean() > 0.9 and (spread[~layered] < 1.001).all()


def test_pictures_are_finite_in_range_and_varied():
    frames, _ = clip("still", num=24, frames=torch.tensor([0]))
    assert frames.isfinite().all() and frames.min() >= 0 and frames.max() <= 1
    assert frames.flatten(1).std(1).min() > 0.01 and frames.mean((1, 2, 3, 4)).std() > 0.05


def test_captions_are_prompts_of_the_vocabulary():
    generator, vocabulary = torch.Generator().manual_seed(5), MotionVocabulary()
    captions = {procedural._draw_caption(generator) for _ in range(400)}
    assert set(SINGLES) <= captions
    assert all(", ".join(vocabulary.motions(caption)) == caption for caption in captions)


@pytest.mark.slow
def test_measured_bucket_is_that_of_the_whole_clip_to_one_step():
    spec = DynamicsSpec(degree_max=0.06, measure_size=64)
    scenes = draw_scenes(24, torch.Generator().manual_seed(2))
    frames, _ = scenes.render(CLIP.expand(24, -1))
    degree = dynamics_degree(frames.transpose(1, 2), measure_size=64)
    whole = (degree / 0.06 * 20).floor().clamp(0, 19).long()
    assert ((measure_buckets(scenes, spec) - whole).abs() <= 1).float().mean() > 0.85


@pytest.mark.slow
def test_bucket_0_means_no_motion_and_keeps_the_caption():
    generator = torch.Generator().manual_seed(4)
    scenes, bucket = label_scenes(draw_scenes(96, generator), builtin_spec().dynamics, generator)
    assert isinstance(scenes, Scenes)
    none = bucket == 0
    _, flow = scenes.render(CLIP.expand(96, -1))
    length = flow.abs().amax((1, 2, 3, 4))
    assert none.any() and (length[none] < 1e-4).all()
    assert any(scenes.captions[row] != "still" for row in none.nonzero().flatten().tolist())
    still = torch.tensor([text == "still" for text in scenes.captions])
    assert (length[~none & ~still] > 0.5).all() and (bucket[still] > 0).any()
