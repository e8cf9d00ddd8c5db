"""The head probe: closed forms against the block maps they stand for, planted heads, sampled rows."""

import math

import pytest
import torch
from pack.motion.analysis.head_probe import band_masks, head_errors, head_masses, sampled_rows
from pack.motion.errors import ShapeError
from pack.motion.models.wan.rotary import turned, wan_rotary
from torch.utils._python_dispatch import TorchDispatchMode


def block_maps(frames, cells, block):
    """The maps as the released code builds them: a band of blocks, and it in the order of time."""
    size = frames * cells
    band = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        for j in range(size):
            band[i, j] = abs(i // block - j // block) < cells // block
    in_time = band.view(cells, frames, cells, frames).permute(1, 0, 3, 2).reshape(size, size)
    return band, in_time


@pytest.mark.parametrize("frames, cells, block", [(5, 16, 2), (3, 6, 1), (4, 30, 3), (3, 256, 128)])
def test_closed_forms_are_the_block_maps(frames, cells, block):
    found = band_masks(torch.arange(frames * cells), frames, cells)
    if cells < 200:
        assert all(torch.equal(one, other) for one, other in zip(found, block_maps(frames, cells, block)))
    assert all(mask.any(1).all() and not mask.all() for mask in found)


def test_masses_are_those_of_the_whole_attention_in_float64():
    torch.manual_seed(0)
    frames, cells, heads = 4, 8, 3
    query, key = torch.randn(2, 2, 32, 12, dtype=torch.float64).unbind(0)
    rows = sampled_rows(frames, cells, 3, seed=1)
    masks = band_masks(rows, frames, cells)
    found = head_masses(query, key, heads, rows, masks)
    for head in range(heads):
        part = slice(4 * head, 4 * head + 4)
        weight = (query[..., part] @ key[..., part].mT / 2).softmax(-1)[:, rows]
        for mask, value in zip(masks, found[:, head]):
            assert abs(float((weight * mask).sum(-1).mean()) - float(value)) < 1e-6


def planted(kind, frames, rows, columns, width=128):
    """q and k of one head that looks into its own frame, or along time: a bias on its rotary numbers, no content."""
    axes = (width - 4 * (width // 6), 2 * (width // 6), 2 * (width // 6))
    bias = torch.zeros(1, frames * rows * columns, width)
    if kind == "space":
        bias[..., : axes[0]] = 1.0
    else:
        bias[..., axes[0] :] = math.sqrt(axes[0] / (width - axes[0]))
    places = (torch.arange(count, dtype=torch.float32) for count in (frames, rows, columns))
    rotary = wan_rotary(*places, axes)
    return turned(3.0 * bias, rotary, 1), turned(bias, rotary, 1)


@pytest.mark.parametrize("per_frame", [0, 12])
@pytest.mark.parametrize("kind", ["space", "time"])
def test_planted_heads_are_told_apart_from_a_few_rows(kind, per_frame):
    rows = sampled_rows(5, 64, per_frame)
    space, time = head_masses(*planted(kind, 5, 8, 8), 1, rows, band_masks(rows, 5, 64))[:, 0].tolist()
    assert space > 1.3 * time if kind == "space" else time > 1.3 * space


def test_rows_are_equally_many_in_every_frame_and_hang_on_the_seed():
    rows = sampled_rows(5, 64, 12, seed=3)
    assert torch.equal(rows // 64, torch.arange(5).repeat_interleave(12)) and len(rows.unique()) == 60
    assert torch.equal(rows, sampled_rows(5, 64, 12, seed=3)) and not torch.equal(rows, sampled_rows(5, 64, 12, seed=4))
    assert len(sampled_rows(5, 64, 0)) == len(sampled_rows(5, 64, 64)) == 320


def test_two_frames_cannot_be_told_apart():
    with pytest.raises(ShapeError, match="2 latent frames; 3 are needed"):
        band_masks(torch.arange(32), 2, 16)


class Largest(TorchDispatchMode):
    """Keeps how many bytes the largest tensor has that is made while it is on."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor) and answer._base is None:
            self.made = max(self.made, answer.nbytes)
        return answer


@pytest.mark.parametrize("method", ["masses", "svg"])
def test_looking_takes_the_room_of_a_few_rows_of_one_head_however_many_there_are(method):
    frames, cells, heads, width = 5, 64, 16, 32
    query, key, value = (torch.randn(1, frames * cells, heads * width).to(torch.bfloat16) for _ in range(3))
    rows = sampled_rows(frames, cells, 0)
    masks = band_masks(rows, frames, cells)
    with Largest() as seen:
        if method == "masses":
            head_masses(query, key, heads, rows, masks)
        else:
            head_errors(query, key, value, heads, rows, masks)
    assert seen.made <= 4 * frames * cells * 64
