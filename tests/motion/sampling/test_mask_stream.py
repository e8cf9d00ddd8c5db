"""Masks beside a video: where they are due, the Euler steps between, and what steers from where on."""

import pytest
import torch
from pack.motion.sampling.mask_stream import MaskStream, mask_steps

SIGMAS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # ten steps: masks at the first eight
SHAPE = (1, 3, 4, 2, 2)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FIRST, KNOWN, NOISE = randn(1, 3, 1, 2, 2), torch.tensor([[0.25]]), randn(*SHAPE, seed=1)


def stream(sigmas=SIGMAS):
    return MaskStream(FIRST, KNOWN, sigmas, NOISE, lambda latents: latents.mean((1, 3, 4)).unsqueeze(-1))


@pytest.mark.parametrize(("steps", "found"), [(50, range(0, 40, 5)), (30, range(0, 24, 3)), (20, range(0, 16, 2)),
                                              (10, range(8)), (4, range(3)), (1, [0])])  # fmt: skip
def test_masks_are_made_at_the_first_eight_of_ten_places(steps, found):
    assert mask_steps(steps) == tuple(found)


def test_masks_are_due_once_a_step_and_take_euler_steps_of_their_own():
    masks, x = stream(), torch.cat((FIRST, NOISE[:, :, 1:]), dim=2)
    for step, sigma in enumerate(SIGMAS[:-1]):
        assert masks.is_due(sigma) == (step < 8)
        if step >= 8:
            continue
        torch.testing.assert_close(masks.latents, x)
        estimate = randn(*SHAPE, seed=20 + step)
        masks.take(estimate)
        assert not masks.is_due(sigma), "a second call of the step"
        clean = torch.cat((FIRST, estimate[:, :, 1:]), dim=2)
        found = masks.masks.scores
        assert found.shape == (1, 4, 1) and torch.equal(found[:, 0], KNOWN.double()), "frame 1 is known"
        torch.testing.assert_close(found[:, 1:], clean.mean((1, 3, 4)).unsqueeze(-1)[:, 1:])
        x = clean + SIGMAS[step + 1] / sigma * (x - clean)
    torch.testing.assert_close(masks.masks.scores, found)


def test_with_five_steps_to_one_of_the_masks_they_go_all_the_way():
    sigmas = [1 - step / 50 for step in range(51)]
    masks, due = stream(sigmas), []
    for step, sigma in enumerate(sigmas[:-1]):
        if masks.is_due(sigma):
            due.append(step)
            before = masks.latents
            masks.take(torch.zeros(SHAPE, dtype=torch.float64))
    assert due == list(range(0, 40, 5))
    torch.testing.assert_close(before[:, :, 1:], sigmas[35] * NOISE[:, :, 1:])


def test_a_run_that_begins_in_the_middle_begins_with_masks_that_have_not_moved():
    begun = stream([0.4, 0.2, 0.0]).latents
    torch.testing.assert_close(begun[:, :, 1:], (0.6 * FIRST + 0.4 * NOISE)[:, :, 1:])
    assert torch.equal(begun[:, :, :1], FIRST)


def test_what_steers_lies_where_the_network_answers():
    masks = stream()
    masks.take(torch.zeros(SHAPE, device="meta"))
    assert masks.masks.scores.device.type == masks.latents.device.type == "meta"
    assert masks.masks.of_first(torch.bfloat16).device.type == "meta"
