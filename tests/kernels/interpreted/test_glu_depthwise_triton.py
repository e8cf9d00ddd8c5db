"""The Triton backend of glu_depthwise in the interpreter, against float64 loops over taps; lines marched either way."""

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, strided
from pack.kernels import glu_depthwise as operator
from pack.kernels._triton import glu_depthwise as launchers
from pack.kernels.errors import ShapeError
from pack.kernels.glu_depthwise import glu_depthwise, glu_depthwise_bytes, glu_depthwise_torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def small_tiles(monkeypatch):
    """Two lines a block and 16 channels a tile: a small frame has edges of all kinds, and the test is quick."""
    real = launchers.launch_options
    monkeypatch.setattr(launchers, "launch_options", lambda *key: {**real(*key), "BLOCK": 2, "TILE": 16})


def naive(u, weight, bias, grid):
    """Taps one at a time over a zero-padded frame, in float64."""
    u, weight = u.double(), weight.double()
    (m, _, channels), (h, w) = u.shape, grid
    padded = torch.zeros(m, h + 2, w + 2, channels, dtype=torch.float64)
    padded[:, 1:-1, 1:-1] = (u / (1 + torch.exp(-u))).reshape(m, h, w, channels)
    z = torch.zeros(m, h, w, channels, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            z = z + padded[:, i : i + h, j : j + w] * weight[:, 0, i, j]
    z = z if bias is None else z + bias.double()
    value, gate = z[..., : channels // 2], z[..., channels // 2 :]
    return (value * gate / (1 + torch.exp(-gate))).reshape(m, h * w, channels // 2)


def make(m, grid, c, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((m, grid[0] * grid[1], 2 * c), (2 * c, 1, 3, 3), (2 * c,), (m, grid[0] * grid[1], c))
    u, weight, bias, dout = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return strided(u), weight, bias, strided(dout)


def gradients(function, inputs, dout):
    inputs = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*inputs), inputs, dout)


def check_forward(m, grid, c, dtype, bias=True):
    u, weight, offset, _ = make(m, grid, c, dtype)
    offset = offset if bias else None
    with poisoned():
        out = glu_depthwise(u, weight, offset, grid=grid, kernels="triton")
    plain = glu_depthwise_torch(u, weight, offset, grid=grid)
    assert_as_good_as_torch(out, plain, naive(u, weight, offset, grid))


def check_backward(m, grid, c, dtype):
    *inputs, dout = make(m, grid, c, dtype)
    with poisoned():
        ours = gradients(lambda *x: glu_depthwise(*x, grid=grid, kernels="triton"), inputs, dout)
    plain = gradients(lambda *x: glu_depthwise_torch(*x, grid=grid), inputs, dout)
    truth = gradients(lambda *x: naive(*x, grid), [x.double() for x in inputs], dout.double())
    for gradient, usual, exact in zip(ours, plain, truth):
        assert_as_good_as_torch(gradient, usual, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_matches_the_loop_with_tiles_that_stick_out(small_tiles, dtype):
    check_forward(1, (3, 2), 18, dtype)


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (5, 1)])
def test_output_matches_the_loop_on_odd_grids(small_tiles, grid):
    check_forward(1, grid, 3, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_match_the_loop(small_tiles, dtype):
    check_backward(1, (3, 2), 3, dtype)


def test_launchers_match_the_loop_with_tiles_that_stick_out(small_tiles):
    """No autograd, so that a process that runs this test alone is quick."""
    *inputs, dout = make(1, (1, 2), 18, torch.bfloat16)
    truth = gradients(lambda *x: naive(*x, (1, 2)), [x.double() for x in inputs], dout.double())
    plain = gradients(lambda *x: glu_depthwise_torch(*x, grid=(1, 2)), inputs, dout)
    with poisoned():
        du = launchers.glu_depthwise_input_gradient_triton(dout, *inputs, grid=(1, 2))
        sums = launchers.glu_depthwise_weight_gradient_triton(dout, *inputs, grid=(1, 2))
    for gradient, usual, exact in zip((du, *sums), plain, truth):
        assert_as_good_as_torch(gradient.to(usual.dtype), usual, exact)


@pytest.mark.parametrize("grid", [(1, 1), (1, 3)])
def test_gradients_match_the_loop_on_odd_grids(small_tiles, grid):
    check_backward(2, grid, 2, torch.float32)


def test_output_matches_the_loop_with_the_tiles_of_a_card():
    check_forward(1, (9, 1), 70, torch.bfloat16)


@pytest.mark.slow
def test_gradients_match_the_loop_with_the_tiles_of_a_card():
    check_backward(2, (5, 3), 70, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(1, 15), (9, 7), (10, 10), (25, 10), (1, 1399)])
def test_output_matches_the_loop_on_larger_grids(grid):
    check_forward(1, grid, 5, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_match_the_loop_on_a_larger_grid(dtype):
    check_backward(1, (10, 10), 5, dtype)


def test_bias_may_be_missing(small_tiles):
    check_forward(1, (2, 1), 4, torch.float32, bias=False)
    u, weight, _, dout = make(1, (2, 1), 4)
    ours = gradients(lambda *x: glu_depthwise(*x, None, grid=(2, 1), kernels="triton"), (u, weight), dout)
    plain = gradients(lambda *x: glu_depthwise_torch(*x, None, grid=(2, 1)), (u, weight), dout)
    for gradient, usual in zip(ours, plain):
        assert torch.allclose(gradient, usual, atol=1e-5)


def test_float16_saturates_instead_of_overflowing(small_tiles):
    u, weight, bias, _ = make(1, (1, 2), 2, torch.float16)
    out = glu_depthwise(u * 0 + 1000, weight * 0 + 10, bias, grid=(1, 2), kernels="triton")
    assert (out == 65504).all()


def test_weights_gradient_sums_over_more_frames_than_programs(small_tiles, monkeypatch):
    monkeypatch.setattr(launchers, "PARTIAL_ROWS", 2)
    check_backward(5, (1, 1), 2, torch.float32)


def test_two_runs_are_equal_bit_for_bit(small_tiles):
    *inputs, dout = make(2, (1, 2), 4)
    first, second = (
        gradients(lambda *x: glu_depthwise(*x, grid=(1, 2), kernels="triton"), inputs, dout) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_frames_do_not_mix(small_tiles):
    u, weight, bias, _ = make(2, (1, 2), 4)
    both = glu_depthwise(u, weight, bias, grid=(1, 2), kernels="triton")
    alone = glu_depthwise(u[1:], weight, bias, grid=(1, 2), kernels="triton")
    assert torch.equal(both[1:], alone)


def test_no_frames_give_nothing_and_zero_gradients():
    _, weight, bias, _ = make(1, (2, 2), 3)
    inputs = torch.empty(0, 4, 6), weight, bias
    out = glu_depthwise(*inputs, grid=(2, 2), kernels="triton")
    assert out.shape == (0, 4, 3)
    du, dweight, dbias = gradients(lambda *x: glu_depthwise(*x, grid=(2, 2), kernels="triton"), inputs, out)
    assert du.shape == (0, 4, 6) and not dweight.any() and not dbias.any()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_wanted_gradients_are_computed(small_tiles, wanted):
    *inputs, dout = make(1, (1, 1), 2)
    given = [x.requires_grad_(index in wanted) for index, x in enumerate(x.detach() for x in inputs)]
    with counted_bytes() as counted:
        glu_depthwise(*given, grid=(1, 1), kernels="triton").backward(dout)
    assert counted.launches == 1 + (0 in wanted) + (1 in wanted or 2 in wanted)
    exact = gradients(lambda *x: glu_depthwise_torch(*x, grid=(1, 1)), inputs, dout)
    for index, x in enumerate(given):
        assert x.grad is None if index not in wanted else torch.allclose(x.grad, exact[index], atol=1e-5)


def test_gradient_of_a_sum_arrives_as_one_repeated_number(small_tiles):
    u, weight, bias, _ = make(1, (2, 2), 2)
    ours, plain = u.clone().requires_grad_(), u.clone().requires_grad_()
    glu_depthwise(ours, weight, bias, grid=(2, 2), kernels="triton").sum().backward()
    glu_depthwise_torch(plain, weight, bias, grid=(2, 2)).sum().backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-5)


def test_weights_may_be_strided_and_of_another_type(small_tiles):
    u, weight, bias, _ = make(1, (2, 2), 2, torch.bfloat16)
    odd = weight.float().transpose(2, 3).contiguous().transpose(2, 3)
    out = glu_depthwise(u, odd, bias.float().repeat_interleave(2)[::2], grid=(2, 2), kernels="triton")
    assert torch.equal(out, glu_depthwise(u, weight, bias, grid=(2, 2), kernels="triton"))


@pytest.mark.parametrize("grid, strides", [((2, 1), (2**31 + 2**10, 8, 1)), ((3, 1), (8, 2**30 + 2**10, 1))])
def test_offsets_beyond_two_billion_elements_are_reached(small_tiles, grid, strides):
    u, weight, bias, _ = make(2 if grid == (2, 1) else 1, grid, 4, torch.float16)
    far = torch.empty(2**31 + 2**13, dtype=torch.float16).as_strided(u.shape, strides)
    far.copy_(u)
    dout = torch.ones(*u.shape[:2], 4, dtype=torch.float16)
    out = glu_depthwise(far, weight, bias, grid=grid, kernels="triton")
    assert torch.allclose(out, glu_depthwise_torch(u, weight, bias, grid=grid), rtol=2e-3)
    ours = gradients(lambda *x: glu_depthwise(*x, grid=grid, kernels="triton"), (far, weight, bias), dout)
    plain = gradients(lambda *x: glu_depthwise_torch(*x, grid=grid), (u, weight, bias), dout)
    for gradient, usual in zip(ours, plain):
        assert torch.allclose(gradient, usual, rtol=2e-3, atol=2e-3)


def test_grid_beyond_the_card_is_refused():
    u = torch.zeros(1, 1, 2).expand(2**31, 1, 2)
    with pytest.raises(ShapeError, match="a grid holds 2147483647"):
        glu_depthwise(u, torch.zeros(2, 1, 3, 3), None, grid=(1, 1), kernels="triton")


@pytest.mark.parametrize("grid, biased", [((9, 2), True), ((1, 9), True), ((2, 2), False)])
def test_declared_bytes_are_those_that_kernels_move(grid, biased):
    u, weight, bias, _ = make(1, grid, 3)
    with counted_bytes() as counted:
        glu_depthwise(u, weight, bias if biased else None, grid=grid, kernels="triton")
    assert counted.total == glu_depthwise_bytes(1, grid, 3, 4, biased=biased) and counted.launches == 1


@pytest.mark.slow
def test_operators_keep_their_promises_to_torch(small_tiles):
    u, weight, bias, dout = make(1, (1, 1), 2)
    u, dout = u.contiguous(), dout.contiguous()
    inputs = [x.requires_grad_() for x in (u, weight, bias)]
    torch.library.opcheck(operator._operator, (*inputs, 1, 1))
    plain = [x.detach() for x in inputs]
    torch.library.opcheck(operator._input_gradient_operator, (dout, *plain, 1, 1))
    torch.library.opcheck(operator._weight_gradient_operator, (dout, *plain, 1, 1))


@pytest.mark.slow
def test_whole_graph_is_compiled_around_the_operator(small_tiles):
    u, weight, bias, _ = make(1, (2, 2), 2)

    def call(u):
        return glu_depthwise(u * 2, weight, bias, grid=(2, 2), kernels="triton") + 1

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    ours, plain = (u.clone().requires_grad_() for _ in range(2))
    out = compiled(ours)
    assert torch.allclose(out, call(plain), atol=1e-6)
    out.sum().backward()
    call(plain).sum().backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-5)
