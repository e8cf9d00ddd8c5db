"""Temporal 1 + cos attention against a naive float64 loop written from Eq. 8-9."""

import math

import pytest
import torch
from pack.kernels.temporal_cosine_attention import choose_form, rotary_angles, temporal_cosine_attention


def rotate(vector, position, theta=10000.0):
    """Rotate one vector's interleaved pairs, one pair at a time."""
    out = vector.clone()
    dh = vector.shape[-1]
    for i in range(dh // 2):
        angle = position * theta ** (-2 * i / dh)
        x, y = vector[..., 2 * i], vector[..., 2 * i + 1]
        out[..., 2 * i] = x * math.cos(angle) - y * math.sin(angle)
        out[..., 2 * i + 1] = y * math.cos(angle) + x * math.sin(angle)
    return out


def naive(q, k, v, shift=0):
    q, k, v = (x.double() for x in (q, k, v))
    frames = q.shape[1]
    q = torch.stack([rotate(q[:, i] / q[:, i].norm(dim=-1, keepdim=True), i + shift) for i in range(frames)], 1)
    k = torch.stack([rotate(k[:, i] / k[:, i].norm(dim=-1, keepdim=True), i + shift) for i in range(frames)], 1)
    out = torch.zeros_like(v)
    for i in range(frames):
        weight = 1 + (q[:, i : i + 1] * k).sum(-1, keepdim=True)
        out[:, i] = (weight * v).sum(1) / weight.sum(1)
    return out


def make(b, t, s=2, nh=2, dh=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, t, s, nh, dh, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("form", ["linear", "direct", "auto"])
@pytest.mark.parametrize("frames", [2, 16, 33, 80])
def test_each_form_equals_the_pairwise_loop(form, frames):
    q, k, v = make(3, frames)
    assert (temporal_cosine_attention(q, k, v, form=form).double() - naive(q, k, v)).abs().max() < 2e-6


@pytest.mark.parametrize("frames", [1, 16, 33, 80])
def test_linear_equals_direct(frames):
    q, k, v = (x.double() for x in make(2, frames))
    linear = temporal_cosine_attention(q, k, v, form="linear")
    assert torch.allclose(linear, temporal_cosine_attention(q, k, v, form="direct"), atol=1e-7, rtol=0)


def test_one_frame_returns_its_own_value():
    q, k, v = make(2, 1)
    assert torch.equal(temporal_cosine_attention(q, k, v), v)


def test_shifting_all_frame_indices_changes_nothing():
    q, k, v = (x.double() for x in make(2, 16))
    moved = temporal_cosine_attention(q, k, v, positions=torch.arange(16) + 1000)
    assert torch.allclose(moved, temporal_cosine_attention(q, k, v), atol=1e-6)


def test_stretched_frame_indices_do_change_the_result():
    q, k, v = make(2, 16)
    stretched = temporal_cosine_attention(q, k, v, positions=torch.arange(16) * 3)
    assert (stretched - temporal_cosine_attention(q, k, v)).abs().max() > 1e-2


def test_sites_do_not_mix():
    q, k, v = make(2, 6, s=5)
    alone = temporal_cosine_attention(*(x[:, :, 3:4] for x in (q, k, v)))
    assert torch.allclose(temporal_cosine_attention(q, k, v)[:, :, 3:4], alone, atol=1e-6)


def test_result_is_contiguous():
    assert temporal_cosine_attention(*make(2, 4, s=3)).is_contiguous()


def test_positions_may_differ_per_row():
    q, k, v = make(2, 5)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 2, 4, 7, 9]])
    both = temporal_cosine_attention(q, k, v, positions=positions)
    second = temporal_cosine_attention(q[1:], k[1:], v[1:], positions=positions[1])
    assert torch.allclose(both[1:], second, atol=1e-6)


def test_rotary_table_starts_with_the_published_numbers():
    cosine = rotary_angles(torch.tensor([1]), 32).cos()[0, :2]
    assert torch.allclose(cosine, torch.tensor([0.540302, 0.846009]).double(), atol=1e-6)


def test_opposite_vectors_do_not_divide_by_zero():
    q = torch.ones(1, 3, 1, 1, 2)
    out = temporal_cosine_attention(q, -q, torch.ones_like(q), positions=torch.zeros(3))
    assert torch.isfinite(out).all()


def test_break_even_is_at_one_frame_more_than_the_head_size():
    assert choose_form(33, 32) == "direct"
    assert choose_form(34, 32) == "linear"


def test_gradients_match_float64():
    inputs = [x.requires_grad_() for x in make(2, 7, dh=8)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    temporal_cosine_attention(*inputs, form="linear").square().sum().backward()
    naive(*exact).square().sum().backward()
    for ours, truth in zip(inputs, exact):
        assert torch.allclose(ours.grad.double(), truth.grad, atol=1e-4)
