"""SiLU, depthwise 3x3 and gate against a naive float64 loop over pixels and taps."""

import pytest
import torch
import torch.nn.functional as F
from pack.kernels import glu_depthwise as operator
from pack.kernels.errors import ConfigError, ShapeError
from pack.kernels.glu_depthwise import glu_depthwise, glu_depthwise_bytes, glu_depthwise_torch


def naive(u, weight, bias, grid):
    """One pixel and one tap at a time, in float64."""
    u, weight = u.double(), weight.double()
    (m, _, channels), (h, w) = u.shape, grid
    a = (u / (1 + torch.exp(-u))).reshape(m, h, w, channels)
    z = torch.zeros(m, h, w, channels, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        z[:, i, j] = z[:, i, j] + a[:, i + di, j + dj] * weight[:, 0, 1 + di, 1 + dj]
    z = z if bias is None else z + bias.double()
    value, gate = z[..., : channels // 2], z[..., channels // 2 :]
    return (value * gate / (1 + torch.exp(-gate))).reshape(m, h * w, channels // 2)


def make(m, grid, c, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((m, grid[0] * grid[1], 2 * c), (2 * c, 1, 3, 3), (2 * c,))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 1), (2, 2), (7, 9)])
def test_equals_the_loop_over_taps(grid):
    u, weight, bias = make(2, grid, 3)
    assert torch.allclose(glu_depthwise(u, weight, bias, grid=grid).double(), naive(u, weight, bias, grid), atol=1e-5)


def test_equals_todays_convolution_on_pictures():
    u, weight, bias = make(3, (6, 5), 16)
    picture = u.transpose(1, 2).reshape(3, 32, 6, 5)
    value, gate = F.conv2d(F.silu(picture), weight, bias, padding=1, groups=32).chunk(2, dim=1)
    out = glu_depthwise(u, weight, bias, grid=(6, 5))
    assert torch.allclose(out, (value * F.silu(gate)).flatten(2).transpose(1, 2), atol=1e-5)


def test_bias_may_be_missing():
    u, weight, _ = make(1, (3, 4), 2)
    out = glu_depthwise(u, weight, None, grid=(3, 4))
    assert torch.allclose(out.double(), naive(u, weight, None, (3, 4)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_sums_in_float32(dtype):
    u, weight, bias = make(2, (6, 7), 8, dtype)
    truth = naive(u, weight, bias, (6, 7))
    out = glu_depthwise(u, weight, bias, grid=(6, 7))
    rounding = (truth.to(dtype).double() - truth).norm()
    assert out.dtype == dtype and (out.double() - truth).norm() <= 1.01 * rounding


def test_half_precision_is_widened_in_slices_of_frames(monkeypatch):
    u, weight, bias = make(5, (3, 2), 4, torch.bfloat16)
    whole = glu_depthwise(u, weight, bias, grid=(3, 2))
    monkeypatch.setitem(glu_depthwise.__globals__, "SLICE", 2 * 6 * 8)
    assert torch.equal(glu_depthwise(u, weight, bias, grid=(3, 2)), whole)


def test_float64_sums_in_float64():
    u, weight, bias = make(1, (4, 3), 2, torch.float64)
    assert torch.allclose(glu_depthwise(u, weight, bias, grid=(4, 3)), naive(u, weight, bias, (4, 3)), rtol=1e-13)


def test_float16_saturates_instead_of_overflowing():
    u, weight, bias = make(1, (2, 2), 2, torch.float16)
    out = glu_depthwise(u * 0 + 1000, weight * 0 + 10, bias, grid=(2, 2))
    assert (out == 65504).all()


def test_weights_of_another_type_are_taken_as_they_are():
    u, weight, bias = make(1, (3, 3), 2)
    out = glu_depthwise(u.bfloat16(), weight, bias, grid=(3, 3))
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.double(), naive(u.bfloat16(), weight, bias, (3, 3)), atol=0.1, rtol=0.01)


def test_autocast_does_not_narrow_the_sums():
    u, weight, bias = make(1, (3, 3), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = glu_depthwise(u, weight, bias, grid=(3, 3))
    assert torch.equal(inside, glu_depthwise(u, weight, bias, grid=(3, 3)))


def test_output_is_contiguous_for_any_strides_of_u():
    u, weight, bias = make(2, (4, 5), 4)
    planar = u.transpose(1, 2).contiguous().transpose(1, 2)
    out = glu_depthwise(planar, weight, bias, grid=(4, 5))
    assert out.is_contiguous() and torch.allclose(out, glu_depthwise(u, weight, bias, grid=(4, 5)), atol=1e-6)


def test_no_frames_give_no_frames():
    _, weight, bias = make(1, (2, 3), 4)
    assert glu_depthwise(torch.empty(0, 6, 8), weight, bias, grid=(2, 3)).shape == (0, 6, 4)


def test_gradients_match_float64():
    inputs = [x.requires_grad_() for x in make(2, (4, 5), 3)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    glu_depthwise(*inputs, grid=(4, 5)).square().sum().backward()
    naive(*exact, (4, 5)).square().sum().backward()
    for ours, truth in zip(inputs, exact):
        assert torch.allclose(ours.grad.double(), truth.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("change, words", [
    ({"grid": (3, 3)}, r"grid is \(3, 3\) for 6 tokens"),
    ({"grid": (0, 0)}, "must be"),
    ({"grid": (-2, -3)}, "must be"),
    ({"u": torch.zeros(1, 6, 7)}, "values and gates"),
    ({"u": torch.zeros(6, 8)}, "values and gates"),
    ({"u": torch.zeros(1, 6, 8, dtype=torch.int32)}, "floating-point"),
    ({"weight": torch.zeros(8, 3, 3)}, r"8 channels need \(8, 1, 3, 3\)"),
    ({"weight": torch.zeros(4, 1, 3, 3)}, "8 channels need"),
    ({"bias": torch.zeros(4)}, r"8 channels need \(8,\)"),
    ({"bias": torch.zeros(8, device="meta")}, "different devices"),
])  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(change, words):
    u, weight, bias = make(1, (2, 3), 4)
    given = {"u": u, "weight": weight, "bias": bias, "grid": (2, 3), **change}
    with pytest.raises(ShapeError, match=words):
        glu_depthwise(**given)


def test_triton_is_refused_for_float64():
    with pytest.raises(ConfigError, match="float64"):
        glu_depthwise(*make(1, (2, 3), 4, torch.float64), grid=(2, 3), kernels="triton")


def test_operator_runs_the_torch_form_where_triton_cannot(monkeypatch):
    monkeypatch.setattr(operator, "triton_problem", lambda device: "no card")
    inputs = [x.requires_grad_() for x in make(2, (3, 4), 3)]
    out, plain = operator._operator(*inputs, 3, 4), glu_depthwise_torch(*inputs, grid=(3, 4))
    assert torch.equal(out, plain)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    ours, usual = torch.autograd.grad(out, inputs, dout), torch.autograd.grad(plain, inputs, dout)
    for gradient, expected in zip(ours, usual):
        assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_shapes_are_known_without_memory():
    u, weight, bias = (x.to("meta").requires_grad_() for x in make(2, (3, 4), 3))
    out = glu_depthwise(u, weight, bias, grid=(3, 4), kernels="triton")
    assert out.shape == (2, 12, 3) and out.is_meta
    assert [x.shape for x in torch.autograd.grad(out.sum(), (u, weight, bias))] == [u.shape, weight.shape, bias.shape]


@pytest.mark.parametrize("grid, lines, length, blocks", [
    ((30, 48), 36, 48, 4),  # four blocks of eight rows: six rows are read twice
    ((48, 30), 36, 48, 4),
    ((8, 5), 8, 5, 1),
    ((1, 1), 1, 1, 1),
    ((1, 20), 24, 1, 3),  # columns: six steps instead of twenty-one
])  # fmt: skip
def test_declared_bytes_count_lines_that_two_programs_read(grid, lines, length, blocks):
    values = 2 * lines * length + 20 * blocks + grid[0] * grid[1]  # u, taps and bias, output
    assert glu_depthwise_bytes(4, grid, 16, 2) == 4 * 16 * 2 * values
