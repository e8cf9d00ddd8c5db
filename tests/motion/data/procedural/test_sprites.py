"""Drawn sprites: captions say what is seen, nothing is too fast or too small, equal seeds are equal clips."""

import pytest
import torch
from pack.motion.data.procedural.sprite_paths import sprite_path
from pack.motion.data.procedural.sprite_words import COLOURS, FAINT, GROUNDS, HELD_BACK, MOTIONS, SHAPES, caption_of
from pack.motion.data.procedural.sprites import BAND, STRIPE, SpriteLook, SpriteSource
from pack.motion.errors import ConfigError

ALL = (*MOTIONS, *HELD_BACK)
PLAIN = SpriteSource(band_share=0.0, stripe_share=0.0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def clip_of(motion, *, px=64, seed=0, **more):
    look = SpriteLook(**{"colour": "red", "shape": "box", "ground": "snow", "motion": motion, **more})
    return SpriteSource(px, px).draw(seeded(seed), look)


def middles(cover):
    """Centre of mass in every frame, (t, 2) px."""
    y, x = torch.meshgrid(torch.arange(cover.shape[1]) + 0.5, torch.arange(cover.shape[2]) + 0.5, indexing="ij")
    mass = cover.sum((1, 2))
    return torch.stack(((cover * x).sum((1, 2)) / mass, (cover * y).sum((1, 2)) / mass), 1)


def test_equal_seeds_are_equal_clips_and_other_seeds_others():
    (a, cover), (b, _) = PLAIN.draw(seeded(3)).render(), PLAIN.draw(seeded(3)).render()
    assert a.shape == (3, 17, 64, 64) and cover.shape == (17, 64, 64) and torch.equal(a, b)
    assert 0 <= float(a.min()) and float(a.max()) <= 1
    assert not torch.equal(a, PLAIN.draw(seeded(4)).render()[0])


@pytest.mark.parametrize("motion", ALL)
@pytest.mark.parametrize("size", [64, 192])
def test_no_motion_is_faster_than_3_px_a_frame_or_leaves_the_picture(motion, size):
    for seed in range(6):
        clip = clip_of(motion, px=size, seed=seed)
        assert (clip.path[1:] - clip.path[:-1]).norm(dim=1).max() < 3
        assert float(clip.width.min()) >= 19.9
        _, cover = clip.render()
        rim = torch.cat((cover[:, 0], cover[:, -1], cover[:, :, 0], cover[:, :, -1]), 1)
        assert float(rim.max()) == 0


@pytest.mark.parametrize("motion", [name for name in ALL if name not in ("spin", "grow", "shrink")])
def test_the_cover_is_where_the_path_says(motion):
    clip = clip_of(motion, seed=1)
    assert torch.allclose(middles(clip.render()[1]), clip.path, atol=0.15)


@pytest.mark.parametrize("motion, way", [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))])
def test_words_of_direction_mean_what_is_seen(motion, way):
    clip = clip_of(motion, seed=2)
    moved = (clip.path[-1] - clip.path[0]).tolist()
    along = moved[0] * way[0] + moved[1] * way[1]
    assert 24 <= along <= 36 and abs(moved[0] * way[1]) + abs(moved[1] * way[0]) == 0


def test_other_motions_mean_what_is_seen():
    chance = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert not sprite_path("still", chance)[:, :3].any()
    bounce = sprite_path("bounce", torch.zeros(4))[:, 1]
    assert float(bounce.max()) <= 0 and (bounce[1:-1] < torch.minimum(bounce[:-2], bounce[2:])).sum() == 2
    orbit = sprite_path("orbit", chance)
    assert torch.allclose(orbit[0], orbit[16], atol=1e-4)
    ring = orbit[:16, :2] - orbit[:16, :2].mean(0)
    turn = ring[:-1, 0] * ring[1:, 1] - ring[:-1, 1] * ring[1:, 0]
    assert (turn > 0).all() and float(ring.norm(dim=1).std()) < 0.05  # clockwise, y being down
    assert (sprite_path("spin", chance)[:, 2].diff() > 0).all()
    assert (sprite_path("grow", chance)[:, 3].diff() > 0).all()
    assert (sprite_path("shrink", chance)[:, 3].diff() < 0).all()


def test_motions_held_back_are_none_of_the_trained_ones_and_have_no_word():
    assert not set(HELD_BACK) & set(MOTIONS)
    assert clip_of("arc").caption == "red box, on snow"
    chance = torch.rand(4, generator=seeded(0))
    paths = {name: sprite_path(name, chance)[:, :2] for name in ALL}
    for name in HELD_BACK:
        assert min(float((paths[name] - path).abs().max()) for other, path in paths.items() if other != name) > 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", ["", "striped", "spotted"])
def test_the_sprite_has_the_colour_of_its_word(shape, texture):
    clip = clip_of("still", shape=shape, texture=texture, colour="blue")
    pictures, cover = clip.render(torch.tensor([0]))
    inside = pictures[:, 0][:, cover[0] > 0.99]
    near = (inside - torch.tensor(COLOURS["blue"]).unsqueeze(1)).abs().amax(0) < 0.06
    assert float(near.float().mean()) > (0.99 if not texture else 0.35)
    assert texture == "" or float(near.float().mean()) < 0.9


def test_looks_without_a_word_are_there_and_never_named():
    plain, marked = clip_of("still"), clip_of("still", band="left", striped=True)
    assert plain.caption == marked.caption == "red box, on snow, stands still"
    pictures, cover = marked.render(torch.tensor([0]))
    assert torch.equal(pictures[:, 0, :, :4], torch.tensor(BAND).view(3, 1, 1).expand(3, 64, 4))
    inside = pictures[:, 0][:, cover[0] > 0.99]
    cyan = (inside - torch.tensor(STRIPE).unsqueeze(1)).abs().amax(0) < 0.01
    assert 0.1 < float(cyan.float().mean()) < 0.4
    shares = [SpriteSource().draw(seeded(seed)).look for seed in range(60)]
    assert 2 <= sum(look.striped for look in shares) <= 20 and 2 <= sum(look.band != "" for look in shares) <= 20


def test_random_looks_use_every_word_and_no_pair_that_cannot_be_told_apart():
    looks = [PLAIN.draw(seeded(seed)).look for seed in range(150)]
    assert {look.colour for look in looks} == set(COLOURS) and {look.ground for look in looks} == set(GROUNDS)
    assert {look.motion for look in looks} == set(MOTIONS) and {look.shape for look in looks} == set(SHAPES)
    assert not {(look.colour, look.ground) for look in looks} & FAINT
    assert not {look.shape for look in looks if look.motion == "spin"} & {"ball", "ring"}  # nobody would see it


def test_single_frames_are_those_of_the_clip():
    clip = PLAIN.draw(seeded(9))
    assert torch.allclose(clip.render(torch.tensor([5]))[0][:, 0], clip.render()[0][:, 5], atol=1e-6)


def test_captions_leave_out_what_is_not_there():
    assert caption_of("red", "ball", size="small", texture="striped", ground="night", motion="left") == (
        "small red striped ball, at night, moves left")  # fmt: skip
    assert caption_of("red", "ball") == "red ball"


@pytest.mark.parametrize("size", [(63, 64), (64, 193)])
def test_sizes_that_sprites_are_not_made_for_are_refused(size):
    with pytest.raises(ConfigError, match="64 to 192 px"):
        SpriteSource(*size)


@pytest.mark.parametrize("more", [{"colour": "cyan"}, {"motion": "fly"}, {"ground": "sea"}, {"band": "middle"}])
def test_unknown_words_are_refused_with_those_that_are_known(more):
    with pytest.raises(ConfigError, match="known here"):
        clip_of(**{"motion": "still", **more})
    with pytest.raises(ConfigError, match="no motion"):
        sprite_path("fly", torch.zeros(4))
