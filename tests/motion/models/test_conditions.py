"""What networks are told: rows are repeated and joined, numbers keep their types, other places make two calls."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from pack.motion.errors import ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.models.subject_masks import SubjectMasks
from pack.motion.sampling.denoiser import MotionDenoiser

PLACES = torch.tensor([[0.0, 0.5, 1.0, 1.5, 2.0], [0, 1, 2, 2, 2]])


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(rows=1, tokens=3, seed=0):
    """Every field filled."""
    return Conditions(
        numbers(rows, tokens, 4, seed=seed), torch.ones(rows, tokens), numbers(rows, 4, seed=seed + 1),
        torch.arange(rows) + 3, numbers(rows, 2, 5, 2, 2, seed=seed + 2),
        concat_latents=numbers(rows, 6, 5, 2, 2, seed=seed + 3), image_tokens=numbers(rows, 3, 4, seed=seed + 4),
    ).at_places(PLACES)  # fmt: skip


def test_one_row_stands_for_all_and_other_counts_are_named():
    told = whole().for_rows(3)
    assert [len(getattr(told, name)) for name in ("context", "attention_mask", "pooled", "motion_bucket_id")] == [3] * 4
    assert told.first_latent.shape == (3, 2, 1, 2, 2) and told.frame_indices.shape == (5,)
    assert told.concat_latents.shape == (3, 6, 5, 2, 2) and told.image_tokens.shape == (3, 3, 4)
    assert torch.equal(whole(2).for_rows(2).context, whole(2).context)
    named = ("motion_bucket_id", "first_latent", "concat_latents", "image_tokens")
    for field, name in (("pooled", "prompt"), *zip(named, named)):
        with pytest.raises(ShapeError, match=f"{name} has 2 rows, the latents 3"):
            replace(whole(), **{field: getattr(whole(2), field)}).for_rows(3)


def test_a_number_type_is_that_of_text_and_image_alone():
    told, half = whole(), whole().to("cpu", torch.bfloat16)
    kinds = {item.name: getattr(half, item.name).dtype for item in fields(half)
             if item.name not in ("curve", "masks")}  # fmt: skip
    changed = {"context", "pooled", "first_latent", "concat_latents", "image_tokens"}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == changed
    assert all(torch.equal(getattr(half, name), getattr(told, name)) for name in kinds.keys() - changed)
    assert all(part.device.type == "meta" for part in (*told.to("meta").curve, told.to("meta").detail_indices))
    scores = replace(told, masks=SubjectMasks(numbers(1, 2, 3))).to("meta", torch.bfloat16).masks.scores
    assert scores.device.type == "meta" and scores.dtype == torch.float64
    bare = Conditions(numbers(1, 2, 4)).to("cpu", torch.float16)
    assert bare.context.dtype == torch.float16 and bare.pooled is None


def test_joined_rows_are_those_of_one_and_then_the_other():
    one, other = (whole(2, seed=seed).for_rows(2) for seed in (0, 10))
    one = replace(one, frame_indices=PLACES, detail_indices=None, curve=None)  # a row's own places
    other = replace(other, frame_indices=PLACES, detail_indices=None, curve=None)
    assert one.fits_beside(replace(other, frame_indices=one.frame_indices))
    both = one.joined(other)
    for name in ("context", "attention_mask", "pooled", "motion_bucket_id", "first_latent", "concat_latents",
                 "image_tokens"):  # fmt: skip
        assert torch.equal(getattr(both, name), torch.cat((getattr(one, name), getattr(other, name))))
    assert torch.equal(both.frame_indices, torch.cat((PLACES, PLACES)))


@pytest.mark.parametrize("change", [
    {"context": numbers(1, 7, 4), "attention_mask": torch.ones(1, 7)}, {"pooled": None}, {"motion_bucket_id": None},
    {"frame_indices": PLACES[0] + 1}, {"curve": None}, {"image_tokens": None},
], ids=["length", "pooled", "bucket", "places", "curve", "image"])  # fmt: skip
def test_guidance_makes_two_calls_where_one_cannot_answer_both_and_tells_each_its_own(change):
    heard = []

    def network(latents, timestep, told):
        heard.append(told)
        return latents

    told = whole()
    for negative, calls in ((told.with_text_of(whole(seed=5)), 1), (replace(told, **change), 2)):
        heard.clear()
        MotionDenoiser(network, told, negative, guidance_scale=2.0)(numbers(1, 2, 5, 2, 2), torch.tensor([0.5]))
        assert len(heard) == calls
    for name, value in change.items():
        found = getattr(heard[1], name)
        assert found is None if value is None else torch.equal(found, value)


def test_with_text_of_another_prompt_everything_else_stays():
    told, other = whole(), Conditions(numbers(1, 2, 4, seed=9))
    mixed = told.with_text_of(other)
    assert mixed.context is other.context and mixed.attention_mask is None and mixed.pooled is None
    assert mixed.first_latent is told.first_latent and mixed.curve is told.curve
    with pytest.raises(FrozenInstanceError):
        told.pooled = None


@pytest.mark.parametrize("part, shape, words", [
    ("concat_latents", (1, 6, 2, 2), r"prompt: concat_latents are \(1, 6, 2, 2\); \(b, c, t, h, w\) is needed"),
    ("image_tokens", (3, 4), r"prompt: image_tokens are \(3, 4\); \(b, n, d\) is needed; encode the image again"),
], ids=["start video", "image tokens"])  # fmt: skip
def test_images_of_another_number_of_axes_are_refused(part, shape, words):
    assert whole().check("prompt")
    with pytest.raises(ShapeError, match=words):
        replace(whole(), **{part: numbers(*shape)}).check("prompt")
