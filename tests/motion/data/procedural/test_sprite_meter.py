"""The meter of sprites passes on clips whose truth is known, and sees where something else is shown."""

import pytest
import torch
from pack.motion.data.procedural.sprite_meter import see_sprite
from pack.motion.data.procedural.sprite_words import COLOURS, FAINT, GROUNDS, SHAPES
from pack.motion.data.procedural.sprites import SpriteLook, SpriteSource
from pack.motion.errors import ShapeError


def clip_of(seed=0, **look):
    whole = {"colour": "red", "shape": "box", "ground": "snow", "motion": "still", **look}
    return SpriteSource().draw(torch.Generator().manual_seed(seed), SpriteLook(**whole))


@pytest.mark.parametrize("ground", GROUNDS)
def test_ground_and_colour_of_drawn_clips_are_told_right(ground):
    for seed, colour in enumerate(COLOURS):
        if (colour, ground) not in FAINT:
            seen = see_sprite(clip_of(seed, colour=colour, ground=ground).render(torch.tensor([0, 8]))[0])
            assert (seen.ground, seen.colour) == (ground, colour)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_drawn_clips_are_told_right(shape):
    for seed, size in enumerate(("small", "", "large")):
        clip = clip_of(seed, shape=shape, size=size, ground="sand", colour="blue", motion="left")
        assert see_sprite(clip.render(torch.tensor([0, 8, 16]))[0]).shape == shape


@pytest.mark.parametrize("motion", ["left", "up", "bounce", "orbit", "still"])
def test_the_path_of_drawn_clips_is_told_to_a_pixel(motion):
    clip = clip_of(3, motion=motion, ground="grass", colour="yellow")
    seen = see_sprite(clip.render()[0])
    assert float((seen.path - clip.path).norm(dim=1).max()) < 0.8
    assert torch.allclose(seen.moved, clip.path[-1] - clip.path[0], atol=0.7)


def test_growing_is_seen_in_the_area():
    area = see_sprite(clip_of(motion="grow").render()[0]).area
    assert float(area[-1] / area[0]) > 1.8


def test_a_picture_without_a_sprite_has_none():
    seen = see_sprite(torch.full((3, 2, 64, 64), 0.9))
    assert seen.colour == seen.shape == "" and not seen.area.any() and seen.path.isnan().all()
    with pytest.raises(ShapeError, match="3, t, h, w"):
        see_sprite(torch.zeros(2, 3, 64, 64))
