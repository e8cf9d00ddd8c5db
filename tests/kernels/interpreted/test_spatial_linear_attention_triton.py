"""Spatial ReLU linear attention on Triton's interpreter: forward, backward, hostile inputs, declared traffic."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, strided
from pack.kernels import spatial_linear_attention as operator
from pack.kernels._triton import spatial_linear_attention as launchers
from pack.kernels.errors import ConfigError, ShapeError
from pack.kernels.spatial_linear_attention import spatial_linear_attention, spatial_linear_attention_bytes


@triton.jit
def _split_kernel(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    high, low, back = launchers._split(tl.load(x + at), tl.float16)
    tl.store(out + at, (high.to(tl.float32) + low.to(tl.float32)) * back)


TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def make(m, n, nh, dh, dtype=torch.float32, seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, n, nh, dh, generator=generator).to(dtype) for _ in range(count)]


def naive(q, k, v, eps=1e-15):
    """Every pair's weight relu(q)·relu(k), in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    weights = torch.einsum("mihd,mjhd->mhij", q.clamp(min=0), k.clamp(min=0))
    return torch.einsum("mhij,mjhd->mihd", weights / (weights.sum(-1, keepdim=True) + eps), v)


def run(function, inputs, grad):
    """Output and gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))


def check(q, k, v, grad):
    """The Triton backend against the torch backend and the truth, forward and backward, outputs poisoned before."""
    with poisoned():
        ours = run(lambda *x: spatial_linear_attention(*x, kernels="triton"), (q, k, v), grad)
    plain = run(lambda *x: spatial_linear_attention(*x, kernels="torch"), (q, k, v), grad)
    truth = run(naive, [x.double() for x in (q, k, v)], grad)
    for got, expected, exact in zip(ours, plain, truth):
        assert got.is_contiguous()
        assert_as_good_as_torch(got, expected, exact)


@pytest.mark.parametrize("dtype", TYPES)
def test_as_good_as_torch_forward_and_backward(dtype):
    """Three heads make a group with a gap; head size 20 is padded; strides are odd and gaps hold NaN."""
    check(*(strided(x) for x in make(2, 63, 3, 20, TYPES[dtype], count=4)))


@pytest.mark.parametrize("n", [15, 100, 250])
def test_every_length_is_whole(n):
    check(*make(1, n, 2, 32, torch.float16, seed=n, count=4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_long_frame_is_as_good_as_torch(dtype):
    check(*make(1, 1399, 2, 32, TYPES[dtype], count=4))


@pytest.mark.parametrize("dh", [1, 7, 16, 33, 64])
def test_every_head_size_is_padded(dh):
    check(*make(1, 20, 2, dh, torch.float16, seed=dh, count=4))


@pytest.mark.parametrize("dtype", TYPES)
def test_one_token_returns_its_own_value(dtype):
    q, k, v = (x.abs() for x in make(2, 1, 3, 16, TYPES[dtype]))
    out = spatial_linear_attention(q, k, v, kernels="triton")
    assert torch.allclose(out.float(), v.float(), rtol=1e-6)


def test_forward_without_gradients_equals_forward_with():
    q, k, v = make(2, 30, 3, 32, torch.bfloat16)
    plain = spatial_linear_attention(q, k, v)
    assert torch.equal(plain, spatial_linear_attention(q.requires_grad_(), k, v).detach())
    assert torch.equal(plain, spatial_linear_attention(q, k, v).detach())


def test_packed_projection_is_read_in_place():
    packed = torch.randn(2, 40, 3 * 2 * 16, dtype=torch.float16)
    q, k, v = packed.view(2, 40, 3, 2, 16).unbind(2)
    copies = (x.contiguous() for x in (q, k, v))
    assert torch.equal(spatial_linear_attention(q, k, v), spatial_linear_attention(*copies))


def test_rows_that_are_not_dense_are_copied():
    q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in make(1, 20, 2, 16, count=3))
    assert q.stride(-1) != 1
    assert_as_good_as_torch(
        spatial_linear_attention(q, k, v, kernels="triton"),
        spatial_linear_attention(q, k, v, kernels="torch"), naive(q, k, v),
    )  # fmt: skip


def test_expanded_gradient_is_taken():
    inputs = [x.requires_grad_() for x in make(1, 20, 2, 16)]
    ours = torch.autograd.grad(spatial_linear_attention(*inputs, kernels="triton").sum(), inputs)
    plain = torch.autograd.grad(spatial_linear_attention(*inputs, kernels="torch").sum(), inputs)
    for got, expected in zip(ours, plain):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_some_inputs_may_want_no_gradient(wanted):
    inputs = make(1, 20, 2, 16)
    for index in wanted:
        inputs[index].requires_grad_()
    leaves = [inputs[index] for index in wanted]
    ours = torch.autograd.grad(spatial_linear_attention(*inputs, kernels="triton").square().sum(), leaves)
    plain = torch.autograd.grad(spatial_linear_attention(*inputs, kernels="torch").square().sum(), leaves)
    for got, expected in zip(ours, plain):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5, 2, 16), (2, 0, 2, 16), (2, 5, 0, 16), (2, 5, 2, 0)])
def test_empty_tensors_give_empty_results_without_a_launch(shape):
    inputs = [torch.zeros(shape).requires_grad_() for _ in range(3)]
    with counted_bytes() as counted:
        assert spatial_linear_attention(*(x.detach() for x in inputs), kernels="triton").shape == shape
        out = spatial_linear_attention(*inputs, kernels="triton")
        out.sum().backward()
    assert out.shape == inputs[0].grad.shape == shape and counted.launches == 0


def test_token_with_no_positive_match_gives_zero_and_finite_gradients():
    q, k, v, grad = make(1, 20, 2, 16, count=4)
    out, *grads = run(lambda *x: spatial_linear_attention(*x, kernels="triton"), (-q.abs(), k, v), grad)
    assert torch.equal(out, torch.zeros_like(out)) and all(torch.isfinite(x).all() for x in grads)


@pytest.mark.parametrize("size", [1e-4, 200.0, 60000.0])
def test_float16_of_any_size_stays_finite_and_right(size):
    q, k, v, grad = make(1, 60, 2, 32, torch.float16, count=4)
    q, k, v = (x.clamp(-1, 1) * size for x in (q, k, v))
    out = spatial_linear_attention(q, k, v, kernels="triton")
    assert_as_good_as_torch(out, spatial_linear_attention(q, k, v, kernels="torch"), naive(q, k, v))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1.0, 3e9])
def test_two_float16_tiles_hold_a_state_of_any_size_to_float32(size):
    x, out = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) * size, torch.empty(16, 16)
    _split_kernel[(1,)](x, out, 16)
    assert (out - x).abs().max() <= 2.0**-20 * x.abs().max()


def test_not_a_number_is_not_swallowed():
    q, k, v = make(1, 20, 1, 16)
    q[0, 3, 0, 2] = float("nan")
    out = spatial_linear_attention(q, k, v, kernels="triton")
    assert out[0, 3].isnan().all() and torch.isfinite(out[0, 4:]).all()


def test_results_are_bitwise_repeatable():
    q, k, v, grad = make(1, 100, 3, 32, torch.bfloat16, count=4)
    first, second = (run(lambda *x: spatial_linear_attention(*x, kernels="triton"), (q, k, v), grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_inputs_are_left_alone():
    inputs = make(1, 20, 2, 16, torch.bfloat16, count=4)
    before = [x.clone() for x in inputs]
    run(lambda *x: spatial_linear_attention(*x, kernels="triton"), inputs[:3], inputs[3])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


def test_mixed_number_types_are_widened():
    q, k, v = (x.to(dtype) for x, dtype in zip(make(1, 20, 2, 16), (torch.bfloat16, torch.float16, torch.float16)))
    truth = naive(q, k, v)
    assert_as_good_as_torch(spatial_linear_attention(q, k, v), truth.half(), truth)


def test_addresses_beyond_two_billion_elements_are_reached():
    buffer = torch.empty(2**31 + 4096, dtype=torch.float16)  # untouched, so it costs no memory
    q, k, v = (buffer.as_strided((2, 20, 2, 16), (2**31, 32, 16, 1), 1024 * i) for i in range(3))
    for view, value in zip((q, k, v), make(2, 20, 2, 16, torch.float16)):
        view.copy_(value)
    out = spatial_linear_attention(q, k, v, kernels="triton")
    assert torch.equal(out, spatial_linear_attention(*make(2, 20, 2, 16, torch.float16), kernels="triton"))


def test_tokens_may_lie_far_apart():
    buffer = torch.empty(2**31 + 2**28, dtype=torch.float16)
    q, k, v = (buffer.as_strided((1, 16, 2, 16), (1, 2**31 // 15, 16, 1), 64 * i) for i in range(3))
    for view, value in zip((q, k, v), make(1, 16, 2, 16, torch.float16)):
        view.copy_(value)
    out = spatial_linear_attention(q, k, v, kernels="triton")
    assert torch.equal(out, spatial_linear_attention(*make(1, 16, 2, 16, torch.float16), kernels="triton"))


def test_grid_beyond_the_card_is_refused_before_anything_is_allocated():
    x = torch.zeros(1, 1, 1, 16).expand(2**31, 1, 1, 16)
    with pytest.raises(ShapeError, match="a grid holds 2147483647"):
        spatial_linear_attention(x, x, x, kernels="triton")


def test_head_too_wide_for_the_kernels_goes_to_torch_or_is_refused():
    q, k, v = make(1, 10, 1, 160)
    assert torch.equal(spatial_linear_attention(q, k, v), spatial_linear_attention(q, k, v, kernels="torch"))
    with pytest.raises(ShapeError, match="160 features; the Triton backend takes 128"):
        spatial_linear_attention(q, k, v, kernels="triton")
    with pytest.raises(ConfigError, match="float64"):
        spatial_linear_attention(*(x.double() for x in (q, k, v)), kernels="triton")


def test_long_sequences_take_three_launches(monkeypatch):
    monkeypatch.setattr(launchers, "LONGEST", 50)
    inputs = make(1, 63, 2, 32, count=4)
    with counted_bytes() as counted:
        check(*inputs)
    assert counted.launches > 2
    monkeypatch.undo()
    with counted_bytes() as counted:
        check(*inputs)
    assert counted.launches == 2


def test_wide_heads_take_three_launches_in_training_only():
    q, k, v = make(1, 30, 1, 64)
    with counted_bytes() as counted:
        spatial_linear_attention(q, k, v)
    assert counted.launches == 1
    check(*make(1, 30, 1, 112, count=4))


@pytest.mark.parametrize("m, n, nh, dh, few", [
    (32, 1440, 36, 32, False),  # 576 programs for 132 multiprocessors
    (2, 1440, 36, 32, True),  # 36 programs
    (2, 256, 36, 32, False),  # too short to be cut
    (64, 4097, 36, 32, True),  # longer than a program should be
    (64, 1024, 20, 112, True),  # wider than its registers
])  # fmt: skip
def test_three_launches_are_for_few_programs_long_sequences_and_wide_heads(m, n, nh, dh, few):
    heads = launchers.launch_options(90, dh, n)["HB"]
    assert launchers.takes_three_phases(m, n, nh, dh, heads, 132) is few


def test_without_a_card_only_length_and_width_decide():
    assert not launchers.takes_three_phases(1, 4096, 1, 32, 1, 0)
    assert launchers.takes_three_phases(1, 20, 1, 64, 1, 0, backward=True)


def test_unknown_card_takes_the_nearest_older_row_and_short_sequences_small_tiles():
    assert launchers.launch_options(103, 32, 1440) == launchers.launch_options(100, 32, 1440)
    assert launchers.launch_options(75, 32, 1440) == {"HB": 2, "BN": 32, "num_warps": 4, "num_stages": 2}
    assert launchers.launch_options(90, 32, 20)["BN"] == 32
    assert [launchers.launch_options(90, dh, 1440)["HB"] for dh in (16, 20, 32, 64, 112)] == [4, 2, 2, 1, 1]


def test_declared_bytes_are_those_of_the_kernels():
    shape = 2, 63, 3, 20
    q, k, v, grad = make(*shape, count=4)
    with counted_bytes() as counted:
        spatial_linear_attention(q, k, v)
    assert counted.total == spatial_linear_attention_bytes(*shape, 4)
    with counted_bytes() as counted:
        _, state = launchers.attend(q, k, v, eps=1e-15, keep=True)
    assert counted.total == spatial_linear_attention_bytes(*shape, 4, keep=True)
    with counted_bytes() as counted:
        launchers.spatial_linear_attention_backward_triton(grad, q, k, v, state)
    assert counted.total == spatial_linear_attention_bytes(*shape, 4, backward=True)


@pytest.mark.slow
def test_operators_pass_opcheck():
    q, k, v, grad = make(1, 20, 2, 16, count=4)
    state = launchers.attend(q, k, v, eps=1e-15, keep=True)[1]
    torch.library.opcheck(operator.backward_operator.default, (grad, q, k, v, state, 1e-15))
    schema_and_fake = "test_schema", "test_faketensor"
    torch.library.opcheck(operator._operator.default, (q, k, v, 1e-15, False), test_utils=schema_and_fake)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(operator._operator.default, (*leaves, 1e-15, True))


@pytest.mark.slow
def test_compiled_graph_holds_the_operator_and_gives_the_same():
    inputs = [x.requires_grad_() for x in make(1, 20, 3, 16)]
    compiled = torch.compile(spatial_linear_attention, fullgraph=True, backend="aot_eager")
    eager = spatial_linear_attention(*inputs)
    out = compiled(*inputs)
    assert torch.equal(out, eager)
    for got, expected in zip(torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(eager.sum(), inputs)):
        assert torch.equal(got, expected)
