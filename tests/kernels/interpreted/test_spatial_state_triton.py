"""States of spatial linear attention on Triton's interpreter: given and read, forward and backward, hostile inputs."""

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, strided
from pack.kernels import spatial_state
from pack.kernels.spatial_linear_attention import spatial_linear_attention
from pack.kernels.spatial_state import (
    SpatialState,
    read_spatial_state,
    read_spatial_state_bytes,
    spatial_linear_attention_with_state,
    spatial_linear_state,
    spatial_linear_state_bytes,
)

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def make(m, n, nh, dh, dtype=torch.float32, seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, n, nh, dh, generator=generator).to(dtype) for _ in range(count)]


def naive(q, k, v, eps=1e-15):
    """Every pair's weight relu(q)·relu(k), in float64."""
    weights = torch.einsum("mihd,mjhd->mhij", q.clamp(min=0), k.clamp(min=0))
    return torch.einsum("mhij,mjhd->mihd", weights / (weights.sum(-1, keepdim=True) + eps), v)


def both(q, k, v, other, kernels):
    """The attention and what other queries read of its state and of the state summed alone."""
    out, state = spatial_linear_attention_with_state(q, k, v, kernels=kernels)
    alone = spatial_linear_state(k, v, kernels=kernels)
    return out, read_spatial_state(other, state, kernels=kernels), read_spatial_state(other, alone, kernels=kernels)


def run(function, inputs, grads):
    leaves = [x.detach().requires_grad_() for x in inputs]
    outs = function(*leaves)
    total = sum((out * grad.to(out.dtype)).sum(dtype=torch.float64) for out, grad in zip(outs, grads))
    return *(out.detach() for out in outs), *torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("dtype, dh", [("float32", 20), ("float16", 20), ("bfloat16", 20), ("float16", 33)])
def test_as_good_as_torch_forward_and_backward(dtype, dh):
    """Gradients of k and v come by three ways; other queries are more than the tokens of the state."""
    q, k, v, *grads = (strided(x) for x in make(2, 40, 3, dh, TYPES[dtype], count=6))
    other = strided(make(2, 45, 3, dh, TYPES[dtype], seed=1)[0])
    grads = [grads[0], *make(2, 45, 3, dh, TYPES[dtype], seed=2)[:2]]
    with poisoned():
        ours = run(lambda *x: both(*x, "triton"), (q, k, v, other), grads)
    plain = run(lambda *x: both(*x, "torch"), (q, k, v, other), grads)
    exact = [x.double() for x in (q, k, v, other)]
    truth = run(lambda q, k, v, o: (naive(q, k, v), naive(o, k, v), naive(o, k, v)), exact, grads)
    for got, expected, value in zip(ours, plain, truth):
        assert_as_good_as_torch(got, expected, value)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("grad", [False, True])
def test_keeping_the_state_changes_no_bit_and_no_launch(dtype, grad):
    inputs = [x.requires_grad_(grad) for x in make(2, 30, 3, 32, TYPES[dtype])]
    with counted_bytes() as plain:
        expected = spatial_linear_attention(*inputs)
    with counted_bytes() as keeping:
        out, state = spatial_linear_attention_with_state(*inputs)
    assert torch.equal(out, expected) and keeping.launches == plain.launches == 1
    assert keeping.total == plain.total + (0 if grad else state.sums.nbytes)


def test_a_state_summed_alone_is_the_state_kept():
    q, k, v = make(2, 30, 3, 32)
    kept, alone = spatial_linear_attention_with_state(q, k, v)[1], spatial_linear_state(k, v)
    assert kept.scale == alone.scale == 1 / 32 and torch.allclose(kept.sums, alone.sums, atol=1e-6)


@pytest.mark.parametrize("eps", [0.3, 7.0])
def test_eps_counts_as_it_would_beside_sums_that_are_not_scaled(eps):
    q, k, v = make(1, 20, 2, 16)
    out = read_spatial_state(q, spatial_linear_state(k, v), eps=eps)
    assert torch.allclose(out.double(), naive(*(x.double() for x in (q, k, v)), eps), atol=1e-5)


def test_states_that_are_not_dense_are_taken():
    """One frame's state for all, as an expanded view."""
    q, k, v = make(3, 20, 2, 16)
    state = spatial_linear_state(k, v)
    first = SpatialState(state.sums[:1].expand_as(state.sums).requires_grad_(), state.scale)
    out = read_spatial_state(q, first)
    truth = naive(*(x.double() for x in (q, k[:1].expand_as(k), v[:1].expand_as(v))))
    assert torch.allclose(out.double(), truth, atol=1e-5)
    assert torch.isfinite(torch.autograd.grad(out.sum(), first.sums)[0]).all()


@pytest.mark.parametrize("shape", [(0, 5, 2, 16), (2, 0, 2, 16), (2, 5, 0, 16)])
def test_empty_tensors_give_empty_results_without_a_launch(shape):
    inputs = [torch.zeros(shape).requires_grad_() for _ in range(4)]
    with counted_bytes() as counted:
        outs = both(*inputs, "triton")
        sum(out.sum() for out in outs).backward()
    assert all(out.shape == shape for out in outs) and counted.launches == 0


def test_inputs_and_states_are_left_alone():
    q, k, v = make(1, 20, 2, 16, torch.bfloat16)
    state = spatial_linear_state(k, v)
    before = [x.clone() for x in (q, k, v, state.sums)]
    read_spatial_state(q, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v, state.sums)))


@pytest.mark.parametrize("m, n", [(2, 63), (1, 600)])
def test_declared_bytes_are_those_of_the_kernels(m, n):
    """The interpreter counts as a card of four processors; 600 tokens of one frame are shared by two programs."""
    q, k, v = make(m, n, 1, 16)
    with counted_bytes() as counted:
        state = spatial_linear_state(k, v)
    assert counted.total == spatial_linear_state_bytes(m, n, 1, 16, 4, processors=4)
    with counted_bytes() as counted:
        read_spatial_state(q, state)
    assert counted.total == read_spatial_state_bytes(m, n, 1, 16, 4, processors=4)


@pytest.mark.slow
def test_operators_pass_opcheck():
    q, k, v = (x.requires_grad_() for x in make(1, 20, 2, 16))
    sums = spatial_linear_state(k, v).sums.detach().requires_grad_()
    torch.library.opcheck(spatial_state._attention_operator.default, (q, k, v, 1e-15))
    torch.library.opcheck(spatial_state._state_operator.default, (k, v))
    torch.library.opcheck(spatial_state._read_operator.default, (q, sums, 1e-16))


@pytest.mark.slow
def test_compiled_graph_holds_the_operators_and_gives_the_same():
    inputs = [x.requires_grad_() for x in make(1, 20, 3, 16, count=4)]
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(*inputs, "auto"), both(*inputs, "auto")):
        assert torch.equal(got, expected)
