"""Gate, residual, norm and modulation against a naive float64 loop over tokens."""

import pytest
import torch
from pack.kernels.errors import ShapeError
from pack.kernels.gate_norm_modulate import Rows, gate_norm_modulate

B, T, N = 2, 3, 3


def row_of(rows, i, j):
    """Row of sample i and frame j in float64; a row for all frames serves each of them."""
    values = rows.values.double().expand(B, -1, -1)
    row = values[i, min(j, values.shape[1] - 1)]
    return row if rows.table is None else row + rows.table.double()


def naive(x, y=None, *, gate=None, shift=None, scale=None, bias=None, eps=1e-6):
    """Token by token, from the definition."""
    x_new, h = x.double().clone(), torch.zeros(x.shape, dtype=torch.float64)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                token = x[i, j, k].double()
                if bias is not None:
                    token = token + bias.double()
                if y is not None:
                    token = token + y[i, j, k].double() * (1 if gate is None else row_of(gate, i, j))
                x_new[i, j, k] = token
                normed = (token - token.mean()) / (token.var(unbiased=False) + eps).sqrt()
                scaled = normed * (1 if scale is None else 1 + row_of(scale, i, j))
                h[i, j, k] = scaled + (0 if shift is None else row_of(shift, i, j))
    return x_new, h


def make(d=8, frames=T, seed=0, dtype=torch.float32, tables=True):
    """x, y and the keywords of a call; rows for each of `frames` frames."""
    draw = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(B, T, N, d, generator=draw).to(dtype) for _ in range(2))
    rows = [
        Rows(torch.randn(B, frames, d, generator=draw).to(dtype),
             torch.randn(d, generator=draw).to(dtype) if tables else None)
        for _ in range(3)
    ]  # fmt: skip
    bias = torch.randn(d, generator=draw).to(dtype)
    return x, y, {"gate": rows[0], "shift": rows[1], "scale": rows[2], "bias": bias}


def assert_near(ours, truth, tolerance=1e-5):
    assert (ours.double() - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.parametrize("frames", [T, 1])
@pytest.mark.parametrize("d", [8, 100, 1152])
def test_equals_the_token_loop(d, frames):
    x, y, words = make(d, frames)
    for ours, truth in zip(gate_norm_modulate(x, y, **words), naive(x, y, **words)):
        assert_near(ours, truth)


@pytest.mark.parametrize("left_out", ["gate", "bias", "shift", "scale", "tables"])
def test_each_optional_part_may_be_left_out(left_out):
    x, y, words = make(tables=left_out != "tables")
    words.pop(left_out, None)
    for ours, truth in zip(gate_norm_modulate(x, y, **words), naive(x, y, **words)):
        assert_near(ours, truth)


def test_without_shift_and_scale_only_the_residual_is_made():
    x, y, words = make()
    x_new, h = gate_norm_modulate(x, y, gate=words["gate"])
    assert h is None
    assert_near(x_new, naive(x, y, gate=words["gate"])[0])


def test_without_residual_the_input_itself_comes_back():
    x, _, words = make()
    x_new, h = gate_norm_modulate(x, shift=words["shift"], scale=words["scale"])
    assert x_new is x
    assert_near(h, naive(x, shift=words["shift"], scale=words["scale"])[1])


def test_bias_alone_is_a_residual():
    x, _, words = make()
    x_new, h = gate_norm_modulate(x, bias=words["bias"])
    assert h is None and torch.equal(x_new, x + words["bias"])


def test_inputs_are_never_written_into():
    for dtype in (torch.float32, torch.bfloat16):
        x, y, words = make(dtype=dtype)
        tensors = [x, y, words["bias"], *words["gate"], *words["shift"], *words["scale"]]
        before = [tensor.clone() for tensor in tensors]
        with torch.no_grad():
            gate_norm_modulate(x, y, **words)
            gate_norm_modulate(x, shift=words["shift"], scale=words["scale"])
        assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, y, words = make(100, dtype=dtype)
    for ours, truth in zip(gate_norm_modulate(x, y, **words), naive(x, y, **words)):
        assert ours.dtype == dtype
        assert torch.equal(ours, truth.to(dtype)) or (ours != truth.to(dtype)).float().mean() < 1e-3


def test_norm_sees_the_sum_before_it_is_rounded():
    x = torch.full((1, 1, 1, 64), 256.0, dtype=torch.bfloat16)
    y = torch.linspace(-0.5, 0.5, 64).bfloat16().view(1, 1, 1, 64)  # lost when 256 + y is rounded
    zero = Rows(torch.zeros(1, 1, 64))
    x_new, h = gate_norm_modulate(x, y, shift=zero, scale=zero)
    assert torch.equal(x_new, x)
    assert h.float().std() > 0.9


def test_float16_saturates_instead_of_overflowing():
    x = torch.full((1, 1, 1, 8), 60000.0, dtype=torch.float16)
    assert torch.equal(gate_norm_modulate(x, x)[0], torch.full_like(x, 65504.0))


def test_constant_tokens_give_the_shift():
    x = torch.full((1, 1, 2, 100), 3.0)
    shift, scale = Rows(torch.randn(1, 1, 100)), Rows(torch.randn(1, 1, 100))
    assert torch.equal(gate_norm_modulate(x, shift=shift, scale=scale)[1], shift.values.unsqueeze(2).expand_as(x))


def test_float64_stays_float64():
    x, y, words = make(dtype=torch.float64)
    for ours, truth in zip(gate_norm_modulate(x, y, **words), naive(x, y, **words)):
        assert ours.dtype == torch.float64
        assert_near(ours, truth, 1e-14)


def leaves_of(x, y, words, dtype):
    """The tensors of a call as leaves of a graph, in one list, and the call's keywords made of them."""
    leaves = [x, y, words["bias"], *words["gate"], *words["shift"], *words["scale"]]
    leaves = [leaf.detach().to(dtype, copy=True).requires_grad_() for leaf in leaves]
    rows = {name: Rows(*leaves[3 + 2 * i : 5 + 2 * i]) for i, name in enumerate(("gate", "shift", "scale"))}
    return leaves, {"bias": leaves[2], **rows}


def whole(x, y, *, gate, shift, scale, bias):
    """The definition on whole tensors, for gradients of the truth."""
    gate, shift, scale = ((rows.values + rows.table).unsqueeze(2) for rows in (gate, shift, scale))
    x = x + bias + gate * y
    centred = x - x.mean(-1, keepdim=True)
    return x, centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift


@pytest.mark.parametrize("frames", [T, 1])
def test_gradients_reach_everything_and_match_float64(frames):
    gradients = []
    for function, dtype in ((gate_norm_modulate, torch.float32), (whole, torch.float64)):
        leaves, words = leaves_of(*make(frames=frames), dtype)
        x_new, h = function(*leaves[:2], **words)
        (x_new.square().sum() + (h * torch.arange(8)).sum()).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, truth in zip(*gradients):
        assert_near(ours, truth)


@pytest.mark.parametrize("shape", [(0, T, N, 8), (B, T, 0, 8)])
def test_nothing_in_gives_nothing_out(shape):
    rows = Rows(torch.ones(shape[0], T, 8))
    x_new, h = gate_norm_modulate(torch.ones(shape), torch.ones(shape), gate=rows, shift=rows, scale=rows)
    assert x_new.shape == h.shape == shape


@pytest.mark.parametrize("change, message", [
    ({"y": torch.ones(B, T, N, 4)}, r"y is \(2, 3, 3, 4\), x \(2, 3, 3, 8\)"),
    ({"y": None}, "gate was given without y"),
    ({"gate": Rows(torch.ones(B, 2, 8))}, r"gate is \(2, 2, 8\); \(2, 3 or 1, 8\) is needed"),
    ({"shift": Rows(torch.ones(3, T, 8))}, r"shift is \(3, 3, 8\)"),
    ({"scale": Rows(torch.ones(B, T, 1, 8))}, r"scale is \(2, 3, 1, 8\)"),
    ({"scale": torch.ones(B, T, 8)}, r"scale is a Tensor; give Rows"),
    ({"gate": Rows(torch.ones(B, T, 8), torch.ones(7))}, r"gate's table is \(7,\); \(8,\) is needed"),
    ({"bias": torch.ones(1)}, r"bias is \(1,\); \(8,\) is needed"),
    ({"x": torch.ones(B, T, 8)}, r"x is \(2, 3, 8\)"),
    ({"x": torch.ones(B, T, N, 8, dtype=torch.int32)}, "torch.int32; floating point"),
    ({"y": torch.ones(B, T, N, 8, device="meta")}, "different devices.*meta"),
    ({"shift": Rows(torch.ones(B, T, 8, device="meta"))}, "different devices.*shift's values"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_size(change, message):
    x, y, words = make()
    with pytest.raises(ShapeError, match=message):
        gate_norm_modulate(**{"x": x, "y": y, **words, **change})
