"""The note of a word that did not find what it is about: a sky, a subject with room around it."""

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.metrics.what_moves import nothing_to_act_on, sky_cells

GRID = 32
WIDE, TALL = (3, 80, 160), (3, 160, 80)


def meadow(shape: tuple[int, int, int] = (3, 128, 128), horizon: float = 0.5) -> torch.Tensor:
    """A smooth sky over coarse grain: (3, h, w)."""
    _, h, w = shape
    rows = torch.arange(h).view(-1, 1) / h
    grain = torch.rand((1, h, w), generator=torch.Generator().manual_seed(0))
    return torch.where(rows < horizon, 0.6 + 0.2 * rows, grain).expand(shape).clone()


def moving(top: float, bottom: float, left: float, right: float) -> torch.Tensor:
    """A flow (2 frames) to the right inside a part of the working square, as shares of its side."""
    flow = torch.zeros(2, 2, GRID, GRID)
    rows, columns = (slice(round(a * GRID), round(b * GRID)) for a, b in ((top, bottom), (left, right)))
    flow[1, 0, rows, columns] = -5.0
    return flow


SKY, GROUND = moving(0, 0.5, 0, 1), moving(0.5, 1, 0, 1)


def test_clouds_that_move_a_sky_say_nothing():
    assert nothing_to_act_on(["clouds"], meadow(), SKY) is None


@pytest.mark.parametrize(("photo", "flow", "share"), [
    (meadow(), GROUND, "100%"), (meadow(), moving(0.25, 1, 0, 1), "71%"), (meadow(horizon=0.0), SKY, "100%"),
    (meadow().flip(1), GROUND, "100%"),
])  # fmt: skip
def test_clouds_that_move_something_else_say_how_much_of_them_does(photo, flow, share):
    note = nothing_to_act_on(["clouds"], photo, flow)
    assert note.startswith("'clouds' found little sky") and share in note and "region" in note


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_only_what_lies_on_the_photo_counts_not_its_mirrored_surroundings(shape):
    """The working square repeats a wide photo's sky above it and its ground below: neither is the photo."""
    around = torch.full((GRID, GRID), 1.0)
    first = GRID // 4
    inside = slice(first, GRID - first)
    around[(inside, slice(None)) if shape == WIDE else (slice(None), inside)] = 0
    outside = torch.stack((torch.zeros(2, GRID, GRID), torch.stack((around, around)) * 9))
    assert nothing_to_act_on(["clouds"], meadow(shape), outside) is None, "nothing of it is seen"
    assert nothing_to_act_on(["slide left"], meadow(shape), outside) is None
    assert nothing_to_act_on(["clouds"], meadow(shape), SKY + outside / 9) is None


@pytest.mark.parametrize("flow", [moving(0.3, 0.7, 0.3, 0.7), moving(0.3, 0.7, 0, 0.5)])
@pytest.mark.parametrize("word", ["slide left", "bounce", "orbit", "swing"])
def test_an_object_with_room_around_it_or_one_that_only_touches_the_border_says_nothing(word, flow):
    assert nothing_to_act_on([word], meadow(), flow) is None


@pytest.mark.parametrize(("flow", "edges"), [
    (moving(0.2, 0.8, 0, 0.4), "the left edge"), (moving(0.6, 1, 0.2, 0.8), "the bottom edge"),
    (moving(0, 0.6, 0.4, 1), "the top and the right edge"),
])  # fmt: skip
def test_an_object_that_reaches_the_border_names_the_edges(flow, edges):
    note = nothing_to_act_on(["bounce"], meadow(), flow)
    assert f"what 'bounce' moves reaches {edges} of the photo" in note and "region" in note


def test_the_border_is_that_of_the_photo_not_of_the_working_square():
    flow = moving(0.5, 0.75, 0.2, 0.8)  # a wide photo ends at 0.75
    assert "the bottom edge" in nothing_to_act_on(["swing"], meadow(WIDE), flow)
    assert nothing_to_act_on(["swing"], meadow(), flow) is None


@pytest.mark.parametrize("words", [
    [], ["pan left"], ["sway"], ["waterfall"], ["rain"], ["pan left", "clouds"], ["slide left", "clouds"],
])  # fmt: skip
def test_words_that_move_everything_or_cannot_be_told_apart_say_nothing(words):
    assert nothing_to_act_on(words, meadow(), GROUND) is None


def test_weather_beside_a_word_does_not_hide_its_note():
    assert "little sky" in nothing_to_act_on(["clouds", "rain"], meadow(), GROUND)


def test_a_still_clip_says_nothing():
    assert nothing_to_act_on(["clouds"], meadow(), torch.zeros(2, 2, GRID, GRID)) is None


@pytest.mark.parametrize("shape", [(3, 1, 400), (3, 400, 1), (3, 1, 1), (3, 7, 5)])
def test_photos_of_any_shape_are_judged(shape):
    for word in ("clouds", "slide left"):
        note = nothing_to_act_on([word], torch.full(shape, 0.5), moving(0, 1, 0, 1))
        assert note is None if word == "clouds" else "edge" in note


def test_sky_hangs_together_with_the_top():
    smooth = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]]).bool()
    assert sky_cells(smooth).tolist() == [[True, True, False, False], [True, False, False, False],
                                          [False, True, False, False], [False] * 4]


@pytest.mark.parametrize(("photo", "flow"), [
    (torch.zeros(1, 8, 8), SKY), (torch.zeros(3, 8, 8), SKY[None]), (torch.zeros(3, 8, 8), torch.zeros(2, 2, 8, 9)),
])  # fmt: skip
def test_what_is_no_photo_or_no_flow_is_refused(photo, flow):
    with pytest.raises(ShapeError, match="one row of flow_of"):
        nothing_to_act_on(["clouds"], photo, flow)
