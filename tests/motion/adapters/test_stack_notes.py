"""What is said of a stack: what its weights come to, and whether any text is left."""

import pytest
import torch
from lora_toys import mixed_lora
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.notes import largest_sum, motion_entries, replaces_text, sum_note
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
