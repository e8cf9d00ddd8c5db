"""The head map: both rules and what they say of heads without structure, thresholds, JSON, pictures, refusals."""

import json
import math

import pytest
import torch
from pack.motion.analysis.head_map import HeadMap, HeadWatch, draw_head_map
from pack.motion.analysis.head_probe import band_masks, head_errors
from pack.motion.errors import ConfigError


def made(space, time, **more):
    """A map of one look at one layer with these figures."""
    figures = (torch.tensor(part, dtype=torch.float64).view(1, 1, -1) for part in (space, time))
    return HeadMap(*figures, looks=((0.9998, 0),), frames=5, height=4, width=4, **more)


@pytest.mark.parametrize("rule, uniform", [("release", False), ("paper", True)])
def test_clear_heads_are_told_by_both_rules_which_part_over_heads_without_structure(rule, uniform):
    found = made([0.8, 0.2, 0.4], [0.2, 0.8, 0.4], rule=rule)
    assert found.temporal.tolist() == [[False, True, uniform]]


def test_at_equality_a_head_is_temporal_by_the_release_and_spatial_by_the_paper():
    release, paper = (made([0.5], [0.5], alpha=1.0, rule=rule) for rule in ("release", "paper"))
    assert release.temporal.all() and not paper.temporal.any()


def test_a_wanted_share_takes_the_heads_that_lean_most_to_time():
    found = made([0.5, 0.4, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4], target_fraction=0.5)
    assert found.temporal.tolist() == [[False, False, True, True]]
    assert made([0.9, 0.8], [0.1, 0.1], target_fraction=0.01).temporal.sum() == 1
    assert made([0.1, 0.1], [0.9, 0.8], target_fraction=0.99).temporal.sum() == 1


def test_the_method_svg_asks_which_of_two_errors_is_smaller():
    found = made([0.1, 0.3], [0.2, 0.1], method="svg", alpha=9.0)
    assert found.temporal.tolist() == [[False, True]] and float(found.log_ratio[0, 1]) == pytest.approx(math.log(3))


def test_looks_are_averaged_and_heads_that_change_are_counted():
    space = torch.tensor([[[0.6, 0.2]], [[0.2, 0.2]]], dtype=torch.float64)
    time = torch.tensor([[[0.2, 0.6]], [[0.5, 0.6]]], dtype=torch.float64)
    found = HeadMap(space, time, ((0.9, 0), (0.9, 1)), 5, 4, 4)
    assert found.temporal.tolist() == [[False, True]] and found.changing == 0.5
    assert "50.0% of heads change their type" in found.summary() and "2 looks" in found.summary()


def test_json_goes_there_and_back_and_another_threshold_needs_no_look():
    found = made([0.8, 0.2], [0.2, 0.3], base={"base": "abc"}, loras=3)
    again = HeadMap.from_json(found.to_json())
    assert torch.equal(again.space, found.space) and again.base == {"base": "abc"} and again.loras == 3
    assert again.fingerprint == found.fingerprint and again.looks == found.looks and "3 layers" in again.summary()
    assert json.loads(found.to_json())["temporal"] == [[0, 1]]
    other = again.changed(alpha=2.0)
    assert not other.temporal.any() and other.fingerprint != found.fingerprint


@pytest.mark.parametrize("text, said", [
    ("[]", "format_version is list"), ('{"format_version": 2}', "format_version is 2; this pack reads 1"),
    ('{"format_version": 1}', "'space'; classify the heads again"), ("nonsense", "classify the heads again"),
])  # fmt: skip
def test_texts_that_are_no_map_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        HeadMap.from_json(text)


@pytest.mark.parametrize("change, said", [
    ({"space": [[0.5]]}, "figures are"), ({"looks": []}, "for 0 looks"), ({"rule": "mine"}, "rules release, paper"),
    ({"alpha": 0.0}, "alpha is 0.0"), ({"target_fraction": 1.0}, "target_fraction is 1.0"),
    ({"space": [[[-0.5]]]}, "below 0"),
])  # fmt: skip
def test_a_map_with_impossible_numbers_is_refused_by_their_names(change, said):
    told = json.loads(made([0.5], [0.4]).to_json()) | change
    with pytest.raises(ConfigError, match=said):
        HeadMap.from_json(json.dumps(told))


def test_figures_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="NaN or infinite: the model gave no attention"):
        made([math.nan], [0.5])


@pytest.mark.parametrize("space, time, kind", [
    ([0.8, 0.7], [0.1, 0.1], "spatial"), ([0.1, 0.2], [0.8, 0.7], "temporal"),
])  # fmt: skip
def test_heads_all_of_one_type_are_refused_with_a_way_out(space, time, kind):
    with pytest.raises(ConfigError, match=f"all 2 heads are {kind} by rule release.*set target_fraction to 0.3"):
        made(space, time).check_both()
    made(space, time, target_fraction=0.3).check_both()


def test_the_watch_keeps_what_each_block_read_and_names_blocks_it_never_saw():
    torch.manual_seed(0)
    watch = HeadWatch(4, 8)
    query, key, value = torch.randn(3, 1, 32, 12).unbind(0)
    watch(1, query, key, value, 3)
    with pytest.raises(ConfigError, match=r"1 of 2 blocks was not seen \(block 0\)"):
        watch.figures(2)
    watch(0, query, key, value, 3)
    figures = watch.figures(2)
    assert figures.shape == (2, 2, 3) and torch.equal(figures[:, 0], figures[:, 1])


def test_errors_of_masked_attention_are_those_of_a_loop_in_float64():
    torch.manual_seed(0)
    frames, cells, heads = 3, 8, 2
    query, key, value = torch.randn(3, 2, 24, 8, dtype=torch.float64).unbind(0)
    rows = torch.arange(24)[::3]
    masks = band_masks(rows, frames, cells, frames_wide=2, with_first=True)
    assert all(mask[:, :cells].all() for mask in masks) and masks[0].sum() > band_masks(rows, frames, cells)[0].sum()
    found = head_errors(query, key, value, heads, rows, masks)
    for head in range(heads):
        part = slice(4 * head, 4 * head + 4)
        weight = (query[:, rows, part] @ key[..., part].mT / 2).softmax(-1)
        for mask, error in zip(masks, found[:, head]):
            kept = weight * mask
            masked = kept / kept.sum(-1, keepdim=True) @ value[..., part]
            wanted = (masked - weight @ value[..., part]).square().mean()
            assert abs(float(wanted) - float(error)) < 1e-6


def test_the_picture_shows_a_box_a_head_and_its_kind_by_colour():
    found = HeadMap(torch.tensor([[[0.8, 0.1]]]).double(), torch.tensor([[[0.1, 0.8]]]).double(), ((0.9, 0),), 5, 4, 4)
    picture = draw_head_map(found)[0]
    space, time = picture[64, 68], picture[64, 68 + 26]
    assert space[2] > space[0] and time[0] > time[2] and picture.shape[-1] == 3
