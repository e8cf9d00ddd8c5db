"""What layers of the Wan VAE keep between chunks: the frames they reach back to, and no more memory than those."""

import weakref

import torch
from pack.motion.models.wan.vae_blocks import Past, causal, causal_conv
from torch import nn


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).reshape(1, 1, -1, 1, 1)


def test_frames_come_behind_those_before_them_and_zeros_behind_nothing():
    past, layer, other = Past(), nn.Identity(), nn.Identity()
    assert past.before(layer, numbered(1), 2).flatten().tolist() == [0, 0, 1]
    assert past.before(layer, numbered(2), 2).flatten().tolist() == [0, 1, 2]
    assert past.before(layer, numbered(3, 4, 5), 2).flatten().tolist() == [1, 2, 3, 4, 5]
    assert past.before(layer, numbered(6), 2).flatten().tolist() == [4, 5, 6]
    assert past.before(other, numbered(7), 2).flatten().tolist() == [0, 0, 7]


def test_what_is_kept_does_not_hold_the_chunk_in_memory():
    past, layer, freed = Past(), nn.Identity(), []
    joined = past.before(layer, numbered(1, 2, 3, 4), 2)
    weakref.finalize(joined.untyped_storage(), freed.append, "joined")
    del joined
    assert freed == ["joined"]
    assert past.before(layer, numbered(5), 2).flatten().tolist() == [3, 4, 5]


def test_causal_is_a_sum_over_the_frame_and_the_two_before():
    torch.manual_seed(0)
    conv = causal_conv(2, 3).double()
    frames = torch.randn(1, 2, 4, 3, 5, dtype=torch.float64)
    made = causal(conv, frames, Past())
    weight, bias = conv.weight.detach(), conv.bias.detach()
    need = torch.zeros(3, 4, 3, 5, dtype=torch.float64) + bias[:, None, None, None]
    for t in range(4):
        for step, y, x in [(s, y, x) for s in range(3) for y in range(3) for x in range(5)]:
            for down, right in [(d, r) for d in range(3) for r in range(3)]:
                row, column, before = y + down - 1, x + right - 1, t + step - 2
                if 0 <= row < 3 and 0 <= column < 5 and before >= 0:
                    need[:, t, y, x] += weight[:, :, step, down, right] @ frames[0, :, before, row, column]
    assert (made[0] - need).abs().max() <= 1e-13
