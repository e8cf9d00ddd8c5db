"""States of spatial linear attention against a float64 loop over token pairs: given, read, scaled, differentiated."""

import pytest
import torch
from pack.kernels import spatial_state
from pack.kernels.errors import ShapeError
from pack.kernels.spatial_linear_attention import spatial_linear_attention
from pack.kernels.spatial_state import (
    SpatialState,
    read_spatial_state,
    spatial_linear_attention_with_state,
    spatial_linear_state,
)


def naive(q, k, v, eps=1e-15):
    """Queries of one set of tokens meet keys of another, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(q)
    for i in range(q.shape[1]):
        weight = (torch.relu(q[:, i : i + 1]) * torch.relu(k)).sum(-1, keepdim=True)  # (m, n, nh, 1)
        out[:, i] = (weight * v).sum(1) / (weight.sum(1) + eps)
    return out


def make(m, n, nh, dh, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, n, nh, dh, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_keeping_the_state_changes_no_bit_of_the_answer(dtype, grad):
    inputs = [x.requires_grad_(grad) for x in make(2, 20, 3, 8, dtype=dtype)]
    out, state = spatial_linear_attention_with_state(*inputs)
    assert torch.equal(out, spatial_linear_attention(*inputs)) and out.dtype == dtype
    torch.testing.assert_close(state.sums, spatial_linear_state(*inputs[1:]).sums)  # products of other shapes
    assert state.sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("n, scale", [(1, 1.0), (2, 0.5), (20, 1 / 32), (32, 1 / 32), (33, 1 / 64)])
def test_a_state_is_the_sum_over_tokens_times_the_power_of_two_at_or_below_one_over_n(n, scale):
    _, k, v = make(2, n, 3, 8, dtype=torch.float64)
    state = spatial_linear_state(k, v)
    sums = torch.zeros(2, 3, 9, 8, dtype=torch.float64)
    for j in range(n):
        sums[:, :, :8] += torch.relu(k[:, j]).unsqueeze(-1) * v[:, j].unsqueeze(-2)
        sums[:, :, 8] += torch.relu(k[:, j])
    assert state.scale == scale and torch.allclose(state.sums, scale * sums, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 40])
def test_other_queries_however_many_read_a_state_as_the_pairwise_loop_does(n):
    q, (_, k, v) = make(2, n, 3, 8, seed=1)[0], make(2, 20, 3, 8)
    out = read_spatial_state(q, spatial_linear_state(k, v))
    assert torch.allclose(out.double(), naive(q, k, v), atol=1e-5) and out.is_contiguous()


@pytest.mark.parametrize("eps", [1e-15, 0.3, 7.0])
def test_eps_counts_as_it_would_beside_sums_that_are_not_scaled(eps):
    q, k, v = make(1, 20, 2, 8, dtype=torch.float64)
    out, state = spatial_linear_attention_with_state(q, k, v, eps=eps)
    for read in (out, read_spatial_state(q, state, eps=eps)):
        assert torch.allclose(read, naive(q, k, v, eps), atol=1e-12)


def test_states_may_be_picked_shifted_and_added():
    """Frame 1 and the frame before as one set of keys: their states' sum."""
    q, k, v = make(4, 6, 2, 8, dtype=torch.float64)
    state = spatial_linear_state(k, v)
    before = torch.tensor([0, 0, 1, 2])
    both = state._replace(sums=state.sums[:1] + state.sums[before])
    keys, values = (torch.cat((x[:1].expand_as(x), x[before]), dim=1) for x in (k, v))
    assert torch.allclose(read_spatial_state(q, both), naive(q, keys, values), atol=1e-12)


def test_a_query_that_matches_nothing_reads_zero_not_nan():
    q, k, v = make(1, 4, 1, 4)
    out = read_spatial_state(-q.abs(), spatial_linear_state(k, v))
    assert torch.equal(out, torch.zeros_like(out))


def test_gradients_through_answer_and_state_pass_gradcheck():
    inputs = [x.double().requires_grad_() for x in make(2, 4, 1, 3)]

    def both(q, k, v):
        out, state = spatial_linear_attention_with_state(q, k, v)
        return out, state.sums, read_spatial_state(out, state)

    assert torch.autograd.gradcheck(both, inputs)


def test_operators_without_a_card_give_what_the_torch_form_gives(monkeypatch):
    """Their formulas for gradients against autograd's."""
    monkeypatch.setattr(spatial_state, "triton_problem", lambda device: "the device is a CPU")
    monkeypatch.setattr("pack.kernels.spatial_linear_attention.triton_problem", lambda device: "the device is a CPU")
    inputs = [x.requires_grad_() for x in make(2, 10, 3, 8)]
    grad = make(2, 10, 3, 8, seed=1)[0]

    def by_operators(q, k, v):
        out, sums = spatial_state._attention_operator(q, k, v, 1e-15)
        both = sums + spatial_state._state_operator(k, v)
        return out, both, spatial_state._read_operator(v, both, 1e-15 / 16)

    def plain(q, k, v):
        out, state = spatial_linear_attention_with_state(q, k, v, kernels="torch")
        both = state._replace(sums=2 * state.sums)
        return out, both.sums, read_spatial_state(v, both, kernels="torch")

    ours, theirs = by_operators(*inputs), plain(*inputs)
    for got, expected in zip(ours, theirs):
        assert torch.allclose(got, expected, atol=1e-6)
    for wanted in ((0,), (1,), (2,), (0, 1, 2)):
        losses = [sum((run[i] ** 2).sum() + (run[i].sum() * grad).sum() for i in wanted) for run in (ours, theirs)]
        grads = [torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True) for loss in losses]
        for got, expected in zip(*grads):
            assert (got is None) == (expected is None)
            assert got is None or torch.allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_meta_tensors_show_the_shapes_of_results_and_gradients():
    q, k, v = (torch.empty(2, 5, 3, 4, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    out, state = spatial_linear_attention_with_state(q, k, v, kernels="triton")
    read = read_spatial_state(out, spatial_linear_state(k, v, kernels="triton"), kernels="triton")
    (read.sum() + state.sums.sum()).backward()
    assert out.shape == read.shape == q.grad.shape == v.grad.shape and read.dtype == torch.bfloat16
    assert state.sums.shape == (2, 3, 5, 4) and state.sums.dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 5, 2, 4), (2, 0, 2, 4), (2, 5, 0, 4)])
def test_empty_tensors_give_empty_results(shape):
    inputs = [torch.zeros(shape) for _ in range(3)]
    out, state = spatial_linear_attention_with_state(*inputs)
    assert read_spatial_state(inputs[0], state).shape == out.shape == shape


@pytest.mark.parametrize("sums", [(1, 2, 9, 8), (2, 2, 8, 8), (2, 3, 9, 8)])
def test_a_state_of_other_frames_or_heads_is_refused(sums):
    with pytest.raises(ShapeError, match=r"queries are .2, 4, 2, 8. and the state is .* .2, 2, 9, 8. is needed"):
        read_spatial_state(torch.zeros(2, 4, 2, 8), SpatialState(torch.zeros(sums), 1.0))


def test_keys_and_values_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match="k and v have shapes .* one shape .m, n, nh, dh. is needed"):
        spatial_linear_state(torch.zeros(1, 4, 2, 8), torch.zeros(1, 5, 2, 8))
