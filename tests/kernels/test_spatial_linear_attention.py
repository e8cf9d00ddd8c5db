"""Spatial ReLU linear attention against a naive float64 loop over token pairs."""

import pytest
import torch
from pack.kernels import spatial_linear_attention as operator
from pack.kernels.errors import ConfigError, ShapeError
from pack.kernels.spatial_linear_attention import spatial_linear_attention, spatial_linear_attention_bytes


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


def test_gradients_of_the_torch_form_pass_gradcheck():
    inputs = [x.double().requires_grad_() for x in make(1, 5, 2, 3)]
    assert torch.autograd.gradcheck(spatial_linear_attention, inputs)


def test_formulas_of_the_backward_equal_autograd_in_float64():
    q, k, v = (x.double() for x in make(2, 12, 2, 4))
    grad = make(2, 12, 2, 4, seed=1)[0].double()
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(naive(*leaves), leaves, grad)
    for ours, truth in zip(operator._backward_torch(grad, q, k, v, operator.state_torch(k, v), 1e-15), expected):
        assert torch.allclose(ours, truth, atol=1e-12)


def test_operators_without_a_card_give_what_the_torch_form_gives(monkeypatch):
    monkeypatch.setattr(operator, "triton_problem", lambda device: "the device is a CPU")
    inputs = [x.requires_grad_() for x in make(2, 30, 3, 8)]
    grad = make(2, 30, 3, 8, seed=1)[0]
    out, state = operator._operator(*inputs, 1e-15, True)
    expected = spatial_linear_attention(*inputs, kernels="torch")
    assert torch.equal(out, expected) and state.shape == (2, 3, 9, 8)
    for ours, autograd in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        assert torch.allclose(ours, autograd, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_result_is_contiguous_and_inputs_are_left_alone(dtype):
    inputs = make(2, 6, 3, 4, dtype=dtype)
    before = [x.clone() for x in inputs]
    out = spatial_linear_attention(*inputs)
    assert out.is_contiguous() and out.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


@pytest.mark.parametrize("n, nh", [(1, 3), (3, 1), (1, 1)])
def test_sizes_of_one_do_not_write_into_the_inputs(n, nh):
    inputs = make(2, n, nh, 4)
    before = [x.clone() for x in inputs]
    spatial_linear_attention(*inputs, kernels="torch")
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


def test_meta_tensors_show_the_shapes_of_results_and_gradients():
    q, k, v = (torch.empty(2, 5, 3, 4, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    out = spatial_linear_attention(q, k, v, kernels="triton")
    out.sum().backward()
    assert out.is_meta and out.shape == v.grad.shape == (2, 5, 3, 4) and out.dtype == q.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(0, 5, 2, 4), (2, 0, 2, 4), (2, 5, 0, 4), (2, 5, 2, 0)])
def test_empty_tensors_give_empty_results(shape):
    assert spatial_linear_attention(*(torch.zeros(shape) for _ in range(3))).shape == shape


@pytest.mark.parametrize("shapes", [((1, 4, 2, 8), (1, 5, 2, 8), (1, 5, 2, 8)), ((4, 2, 8),) * 3,
                                    ((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 1, 8))])  # fmt: skip
def test_shapes_that_differ_are_refused_with_all_three(shapes):
    with pytest.raises(ShapeError, match="have shapes .* one shape .m, n, nh, dh. is needed"):
        spatial_linear_attention(*(torch.zeros(shape) for shape in shapes))


def test_devices_that_differ_are_refused():
    q, k, v = make(1, 4, 2, 8)
    with pytest.raises(ShapeError, match="different devices"):
        spatial_linear_attention(q, k.to("meta"), v)


def test_triton_by_name_is_refused_where_it_cannot_run():
    with pytest.raises(ConfigError, match="float64"):
        spatial_linear_attention(*(x.double() for x in make(1, 4, 2, 8)), kernels="triton")


def test_declared_bytes_of_a_block_are_four_tensors():
    tensor = 32 * 1440 * 36 * 32 * 2
    assert spatial_linear_attention_bytes(32, 1440, 36, 32) == 4 * tensor
    assert 7 * tensor < spatial_linear_attention_bytes(32, 1440, 36, 32, backward=True) < 7.05 * tensor
