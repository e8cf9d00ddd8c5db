"""Scenes of every motion word: seeded by row, true flow, masks where the object is, labels that are true."""

import pytest
import torch
from pack.motion.data.procedural.fields import AXES, OBJECT_WORDS
from pack.motion.data.procedural.paint import Dice
from pack.motion.data.procedural.scenes import CELL, WORDS, SceneSource, draw_caption
from pack.motion.data.procedural.weather import KINDS
from pack.motion.errors import ConfigError
from pack.motion.layers.letterbox import Letterbox
from pack.motion.layers.warp import resample_flow, warp
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.models.heads.flow_head import compose_clean

SIZE = 64
FRAMES = torch.tensor([0, 1, 5, 11])
FLOWING = [word for word in WORDS if word not in ("still", *KINDS)]


@pytest.fixture(scope="module")
def source():
    return SceneSource(SIZE, num_textures=8, seed=3)


def scenes_of(source, captions, seed=0, speed=0.8):
    generators = [torch.Generator().manual_seed(seed + 31 * index) for index in range(len(captions))]
    return source.draw(generators, captions=captions).at_speed(torch.full((len(captions),), speed))


@pytest.fixture(scope="module")
def every(source):
    """Pictures and flow of one scene a word."""
    scenes = scenes_of(source, list(WORDS))
    return scenes, *scenes.render(FRAMES.expand(len(WORDS), -1))


def test_frame_0_is_the_unsampled_window_and_does_not_move(every):
    scenes, pictures, flow = every
    assert torch.allclose(pictures[:, :, 0], scenes.canvas[:, :, :SIZE, :SIZE].clamp(0, 1), atol=1e-4)
    assert flow[:, 0].abs().max() == 0


@pytest.mark.parametrize("word", FLOWING)
def test_frame_0_warped_by_the_true_flow_is_the_frame_where_content_stays_in_view(word, every):
    _, pictures, flow = every
    row = WORDS.index(word)
    dense = resample_flow(flow[row], Letterbox(SIZE, SIZE, SIZE))
    axis = torch.arange(SIZE, dtype=torch.float32)
    place = torch.stack((dense[:, 0] + axis, dense[:, 1] + axis.unsqueeze(1)), 1)
    inside = ((place > 1) & (place < SIZE - 2)).all(1)
    first = pictures[row, :, 0].expand(len(FRAMES), -1, -1, -1)
    error = (warp(first, dense) - pictures[row].transpose(0, 1)).abs().amax(1)
    assert inside[-1].float().mean() > 0.3
    assert error[inside].max() < 1e-4
    assert (flow[row, 1:].abs().amax((1, 2, 3)) > 0.02).all(), "every word moves something from frame 1 on"


def test_the_models_own_flow_head_needs_no_correction_for_what_flows(source):
    scenes = scenes_of(source, ["slide left", "clouds", "waterfall", "sway", "bounce"], speed=0.3)
    pictures, flow = scenes.render(FRAMES.expand(5, -1))
    clean = FlowCodec(SIZE).encode(pictures, flow)
    index = FRAMES.view(1, 1, -1, 1, 1) / 4.0
    raw = torch.cat((torch.zeros_like(clean[:, :192]), clean[:, 192:] / index.clamp_min(0.1)), 1)
    made, _ = compose_clean(raw, clean[:, :, :1], FRAMES)
    assert (FlowCodec(SIZE).decode(made) - pictures).abs().mean() < 2e-3


@pytest.mark.parametrize("word", ["still", *KINDS])
def test_still_rain_and_snow_leave_the_background_where_it_is(word, every):
    _, pictures, flow = every
    row = WORDS.index(word)
    assert flow[row].abs().max() == 0
    change = (pictures[row, :, 1:] - pictures[row, :, :1]).abs()
    assert (change.max() == 0) if word == "still" else (0.005 < change.mean() < 0.2)


def test_rain_and_snow_fall(source):
    for kind in KINDS:
        scenes = scenes_of(source, [kind], speed=1.0)
        rows, weather = scenes.weather[kind]
        cover = weather.cover(torch.tensor([[0, 4, 5]]), SIZE)[0]
        assert cover[0].abs().max() == 0 and rows.tolist() == [True]
        steps = range(-SIZE // 3, SIZE // 3)
        likeness = [float((cover[1].roll(step, 0) * cover[2])[20:-20].sum()) for step in steps]
        assert steps[likeness.index(max(likeness))] > 0, kind


@pytest.mark.parametrize(
    ("word", "way"),
    [("slide left", (-1, 0)), ("slide right", (1, 0)), ("slide up", (0, -1)), ("slide down", (0, 1)),
     ("bounce", (0, -1))],
)
def test_objects_go_where_the_word_says_and_the_mask_is_where_they_are(source, word, way):
    scenes = scenes_of(source, [word] * 4, seed=7)
    frames = torch.tensor([0, 4]).expand(4, -1)
    flow = scenes.flow(frames)[:, 1]
    mask = scenes.object_mask()
    centre = scenes.layout.disc[:, :2] * SIZE / CELL
    for row in range(4):
        x, y = (int(value) for value in centre[row])
        assert mask[row, y, x] == 1
        assert 0.01 < mask[row].mean() < 0.25
        assert (flow[row, :, y, x] * torch.tensor(way)).sum() < -1, "backward flow points against the motion"
    assert scenes.moving(frames)[:, 1].mean() < 0.9


def test_other_words_have_no_object_mask(source):
    assert scenes_of(source, ["pan left", "rain", "still"]).object_mask().abs().max() == 0


def test_clouds_move_above_the_skyline_only_and_water_below_the_shore_only(source):
    scenes = scenes_of(source, ["clouds", "ripple"] * 3, seed=5)
    flow = scenes.flow(torch.tensor([0, 7]).expand(6, -1))[:, 1].abs().amax(1)
    rows = (torch.arange(SIZE // CELL) + 0.5) / (SIZE // CELL)
    below_sky = rows.view(1, -1, 1) > scenes.layout.skyline[::2].unsqueeze(1)
    above_shore = (rows.view(1, -1) < scenes.layout.shore[1::2].unsqueeze(1)).unsqueeze(2).expand(-1, -1, SIZE // CELL)
    assert flow[::2][below_sky].max() == 0 and flow[::2].amax((1, 2)).min() > 1
    assert flow[1::2][above_shore].max() == 0 and flow[1::2].amax((1, 2)).min() > 0.1


def test_camera_words_move_as_in_the_first_edition(source):
    flow = scenes_of(source, ["pan left", "zoom in", "rotate left"], speed=1.0).flow(torch.full((3, 1), 5))[:, 0]
    assert flow[0, 0].max() < -7 and flow[0, 1].abs().max() == 0
    top, left = flow[1, 1, 0, :].mean(), flow[1, 0, :, 0].mean()
    assert top > 2 and left > 2, "zoom in reads nearer to the middle"
    assert flow[2, 0, 0, :].mean() > 2, "the picture turns counter-clockwise: its top comes from the right"


def test_a_scene_depends_on_its_own_generator_only(source):
    alone = source.draw([torch.Generator().manual_seed(11)], captions=["orbit"])
    among = source.draw([torch.Generator().manual_seed(seed) for seed in (5, 11, 9)],
                        captions=["rain", "orbit", "clouds"])
    again = SceneSource(SIZE, num_textures=8, seed=3).draw([torch.Generator().manual_seed(11)], captions=["orbit"])
    frames = FRAMES.unsqueeze(0)
    first = alone.render(frames)
    assert torch.allclose(first[0], among.render(FRAMES.expand(3, -1))[0][1:2], atol=1e-6)
    assert torch.equal(first[0], again.render(frames)[0]) and torch.equal(first[1], again.render(frames)[1])


def test_speed_0_stands_still_and_speed_scales_the_way(source):
    captions = [word for word in WORDS if word not in ("spin", "swing", "rotate left", "rotate right")]
    full, none = scenes_of(source, captions, speed=1.0), scenes_of(source, captions, speed=0.0)
    frames = torch.tensor([0, 6]).expand(len(captions), -1)
    pictures, flow = none.render(frames)
    assert flow.abs().max() == 0 and torch.allclose(pictures[:, :, 0], pictures[:, :, 1], atol=1e-6)
    moving = [caption not in ("still", *KINDS) for caption in captions]
    ratio = scenes_of(source, captions, speed=0.5).flow(frames).abs().amax((1, 2, 3, 4))[moving]
    ratio = ratio / full.flow(frames).abs().amax((1, 2, 3, 4))[moving]
    assert ((0.3 < ratio) & (ratio < 0.7)).all()


def test_captions_draw_every_word_and_pairs_that_go_together(source):
    generator = torch.Generator().manual_seed(0)
    captions = [draw_caption(torch.rand(6, generator=generator).tolist()) for _ in range(4000)]
    singles = {caption for caption in captions if "," not in caption}
    pairs = {caption for caption in captions if "," in caption}
    assert singles == set(WORDS)
    for pair in pairs:
        first, second = pair.split(", ")
        assert first in AXES and first != second and (second not in AXES or AXES[first][0] != AXES[second][0])
    assert 0.02 < sum("," in caption for caption in captions) / len(captions) < 0.15
    only = [draw_caption(torch.rand(6, generator=generator).tolist(), ("slide left", "rain")) for _ in range(50)]
    assert set(only) == {"slide left", "rain"}


def test_two_words_add_up(source):
    both = scenes_of(source, ["pan up, rain", "pan left, zoom in"])
    pictures, flow = both.render(torch.tensor([0, 5]).expand(2, -1))
    assert flow[0, 1, 1].max() < 0 and flow[0, 1, 0].abs().max() == 0
    assert both.weather["rain"][0].tolist() == [True, False]
    assert flow[1, 1, 0].std() > 0.5 and flow[1, 1, 0].mean() < -1


@pytest.mark.parametrize("size", [32, 128])
def test_any_size_gives_the_same_scene_seen_larger(size):
    scenes = SceneSource(size, num_textures=4).draw([torch.Generator().manual_seed(2)], captions=["slide down"])
    pictures, flow = scenes.render(torch.tensor([[0, 9]]))
    assert pictures.shape == (1, 3, 2, size, size) and flow.shape == (1, 2, 2, size // 4, size // 4)
    assert 0.02 < float(-flow[0, 1, 1].min()) / size < 0.12


@pytest.mark.parametrize(("call", "need"), [
    (lambda source: SceneSource(30), "multiple of 16"),
    (lambda source: SceneSource(64, words=("fly",)), "pan left"),
    (lambda source: scenes_of(source, ["fly"]), "slide left"),
    (lambda source: Dice([torch.Generator()]).roll(count=1000), "COUNT"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_with_the_known_words(source, call, need):
    with pytest.raises(ConfigError, match=need):
        call(source)


def test_objects_have_words():
    assert set(OBJECT_WORDS) < set(WORDS) and len(set(WORDS)) == len(WORDS) >= 20
