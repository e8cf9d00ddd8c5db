"""What is said of a stack: what its weights come to, and whether any text is left."""

import pytest
import torch
from lora_toys import mixed_lora
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.notes import (
    acts_at_all,
    largest_sum,
    levels_note,
    motion_entries,
    replaces_text,
    sum_note,
    trained_levels,
)
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ShapeError
from training_toys import tiny_dit, tiny_spec

SIZE = {"num_frames": 4, "grid": (2, 2)}


@pytest.fixture(scope="module")
def dit():
    return tiny_dit(tiny_spec(qk_norm=True))


@pytest.fixture(scope="module")
def miva(dit):
    return MIVA(dit, MIVAConfig(rank=2))


@pytest.mark.parametrize(("total", "said"), [(0.75, False), (1.0, False), (1.25, False), (0.7, True), (1.3, True)])
def test_sums_from_075_to_125_pass_without_a_word(total, said):
    note = sum_note(total)
    assert bool(note) == said and (not said or f"come to {total:g}; 1 is most stable" in note)


def test_the_largest_sum_is_that_of_any_step_frame_and_token(dit, miva):
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 2, 2)
    halves = AdapterStack((StackEntry(miva, mask=left), StackEntry(miva, mask=1 - left)))
    assert largest_sum(halves, **SIZE) == pytest.approx(1)
    assert largest_sum(AdapterStack((*halves.entries, StackEntry(miva, 0.5, mask=left))), **SIZE) == pytest.approx(1.5)
    late = AdapterStack((StackEntry(miva, 2.0, "0:0, 1:1", "0:0, 1:1"),), shift=3.0)
    assert largest_sum(late, **SIZE) == pytest.approx(2 * 7 / 8)
    assert largest_sum(AdapterStack((StackEntry(mixed_lora(dit), 3.0), StackEntry(miva))), **SIZE) == pytest.approx(1)
    with pytest.raises(ShapeError, match="mask has 3 frames"):
        largest_sum(AdapterStack((StackEntry(miva, mask=torch.ones(3, 2, 2)),)), **SIZE)


def test_a_loras_strength_is_no_weight_of_motion(dit, miva):
    lora, motion = StackEntry(mixed_lora(dit)), StackEntry(miva)
    assert motion_entries((lora, motion)) == (motion,)


def test_text_is_gone_where_its_weights_come_to_1_everywhere_and_always_in_the_papers_form(dit, miva):
    whole, half = StackEntry(miva), StackEntry(miva, 0.5)
    curved, masked = StackEntry(miva, 1.0, "0:1, 1:1"), StackEntry(miva, mask=torch.ones(1, 2, 2))
    without = StackEntry(MIVA(dit, MIVAConfig(rank=2, parts=("cfa",))))
    gone = {(whole,): True, (half, half): True, (half,): False, (curved,): False, (masked,): False, (without,): False,
            (StackEntry(mixed_lora(dit)),): False}  # fmt: skip
    assert {entries: replaces_text(AdapterStack(entries)) for entries in gone} == gone
    assert replaces_text(AdapterStack((half,), form="paper"))
    assert not replaces_text(AdapterStack((without,), form="paper"))


@pytest.mark.parametrize(("levels", "said"), [
    ((0.0, 1.0), ""), ((0.875, 1.0), "3 of 4 steps lie outside"), ((0.0, 0.875), "1 of 4"), ((0.76, 0.97), "2 of 4"),
])  # fmt: skip
def test_steps_outside_the_trained_noise_levels_are_counted_with_some_slack(miva, levels, said):
    note = levels_note(StackEntry(miva), "wave_high", levels, (1.0, 0.78, 0.75, 0.5), 5.0)
    assert said in note and bool(note) == bool(said)
    if note:
        assert note.startswith(f"wave_high was trained at noise levels {levels[0]:g} to {levels[1]:g}, and ")


def test_steps_at_which_an_adapter_does_nothing_are_not_counted(miva):
    early = StackEntry(miva, step_curve="0:1, 0.1:0")
    assert levels_note(early, "wave", (0.875, 1.0), (1.0, 0.5, 0.25), 1.0) == ""
    assert "2 of 3" in levels_note(StackEntry(miva), "wave", (0.875, 1.0), (1.0, 0.5, 0.25), 1.0)
    assert levels_note(StackEntry(miva, 0.0), "wave", (0.875, 1.0), (0.5,), 1.0) == ""


def test_the_noise_levels_of_a_file_are_those_of_its_training():
    assert trained_levels({"training": '{"sigma_min": 0.875, "rank": 2}'}) == (0.875, 1.0)
    for odd in ({}, {"training": "{"}, {"training": "[]"}, {"training": '{"sigma_min": "much"}'}):
        assert trained_levels(odd) == (0.0, 1.0)


@pytest.mark.parametrize(("weight", "steps", "frames", "acts"), [
    (1.0, "", "", True), (0.0, "", "", False), (1.0, "0", "", False), (1.0, "", "0:0, 1:0", False),
    (-1.0, "0:0, 1:0.1", "0:0, 1:1", True),
])  # fmt: skip
def test_an_adapter_acts_where_weight_and_curves_leave_something_of_it(miva, weight, steps, frames, acts):
    assert acts_at_all(StackEntry(miva, weight, steps, frames)) == acts
