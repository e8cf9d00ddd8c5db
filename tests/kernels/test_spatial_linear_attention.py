"""Spatial ReLU linear attention against a naive float64 loop over token pairs."""

import pytest
import torch
from pack.kernels.spatial_linear_attention import spatial_linear_attention


def naive(q, k, v, eps=1e-15):
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(v)
    for i in range(q.shape[1]):
        weight = (torch.relu(q[:, i : i + 1]) * torch.relu(k)).sum(-1, keepdim=True)  # (b, n, nh, 1)
        out[:, i] = (weight * v).sum(1) / (weight.sum(1) + eps)
    return out


def make(b, n, nh, dh, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, n, nh, dh, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("n", [1, 15, 63, 100])
def test_equals_the_pairwise_loop(n):
    q, k, v = make(2, n, 3, 16)
    assert torch.allclose(spatial_linear_attention(q, k, v).double(), naive(q, k, v), atol=1e-5)


def test_half_precision_storage_sums_in_float32():
    q, k, v = make(1, 400, 2, 8, dtype=torch.bfloat16)
    error = (spatial_linear_attention(q, k, v).double() - naive(q, k, v)).abs().max()
    rounding = (naive(q, k, v).bfloat16().double() - naive(q, k, v)).abs().max()
    assert error <= 2 * rounding + 1e-6


def test_large_sums_stay_finite_in_float16():
    q, k, v = make(1, 300, 1, 8, dtype=torch.float16)
    assert torch.isfinite(spatial_linear_attention(q * 200, k * 200, v * 200)).all()


def test_token_with_no_positive_match_gives_zero_not_nan():
    q, k, v = make(1, 4, 1, 4)
    out = spatial_linear_attention(-q.abs(), k, v)
    assert torch.equal(out, torch.zeros_like(out))


def test_permuted_tokens_give_permuted_outputs():
    q, k, v = make(1, 20, 2, 8)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = spatial_linear_attention(q[:, order], k[:, order], v[:, order])
    assert torch.allclose(moved, spatial_linear_attention(q, k, v)[:, order], atol=1e-5)


def test_gradients_match_float64():
    inputs = [x.requires_grad_() for x in make(1, 12, 2, 4)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    spatial_linear_attention(*inputs).square().sum().backward()
    naive(*exact).square().sum().backward()
    for ours, truth in zip(inputs, exact):
        assert torch.allclose(ours.grad.double(), truth.grad, atol=1e-4)
