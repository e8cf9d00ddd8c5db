"""Temporal 1 + cos attention against a naive float64 loop written from Eq. 8-9."""

import math

import pytest
import torch
from pack.kernels.errors import ConfigError, ShapeError
from pack.kernels.temporal_cosine_attention import (
    RotaryTable,
    choose_algorithm,
    rotary_angles,
    rotary_table,
    temporal_cosine_attention,
    temporal_cosine_attention_bytes,
)


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


@pytest.mark.parametrize("algorithm", ["linear", "direct", "auto"])
@pytest.mark.parametrize("frames", [2, 16, 33, 80])
def test_each_algorithm_equals_the_pairwise_loop(algorithm, frames):
    q, k, v = make(3, frames)
    assert (temporal_cosine_attention(q, k, v, algorithm=algorithm).double() - naive(q, k, v)).abs().max() < 2e-6


@pytest.mark.parametrize("frames", [1, 16, 33, 80])
def test_linear_equals_direct(frames):
    q, k, v = (x.double() for x in make(2, frames))
    linear = temporal_cosine_attention(q, k, v, algorithm="linear")
    assert torch.allclose(linear, temporal_cosine_attention(q, k, v, algorithm="direct"), atol=1e-7, rtol=0)


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
    assert choose_algorithm(33, 32) == "direct"
    assert choose_algorithm(34, 32) == "linear"


def test_gradients_match_float64():
    inputs = [x.requires_grad_() for x in make(2, 7, dh=8)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    temporal_cosine_attention(*inputs, algorithm="linear").square().sum().backward()
    naive(*exact).square().sum().backward()
    for ours, truth in zip(inputs, exact):
        assert torch.allclose(ours.grad.double(), truth.grad, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["linear", "direct"])
def test_half_precision_storage_sums_in_float32(dtype, algorithm):
    q, k, v = (x.to(dtype) for x in make(2, 16))
    truth = naive(q, k, v)
    error = (temporal_cosine_attention(q, k, v, algorithm=algorithm).double() - truth).norm()
    assert error <= 1.1 * (truth.to(dtype).double() - truth).norm()


def test_float16_results_stay_finite_at_the_largest_value():
    q, k, v = (x.half() for x in make(1, 16))
    assert torch.equal(temporal_cosine_attention(q, k, torch.full_like(v, 65504)), torch.full_like(v, 65504))


def test_table_made_once_gives_the_same_bits():
    q, k, v = make(2, 5)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 2, 4, 7, 9]])
    expected = temporal_cosine_attention(q, k, v, positions=positions)
    assert torch.equal(temporal_cosine_attention(q, k, v, positions=rotary_table(positions, 32)), expected)


def test_layout_of_the_inputs_does_not_matter():
    q, k, v = make(2, 6, s=3)
    expected = temporal_cosine_attention(q, k, v)
    packed = torch.cat((q, k, v), dim=-1)
    assert torch.equal(temporal_cosine_attention(*packed.split(32, dim=-1)), expected)
    moved = (x.permute(4, 2, 3, 1, 0).contiguous().permute(4, 3, 1, 2, 0) for x in (q, k, v))
    assert torch.allclose(temporal_cosine_attention(*moved), expected, atol=1e-6)


def test_inputs_are_not_written_into():
    inputs = make(1, 4)
    before = [x.clone() for x in inputs]
    temporal_cosine_attention(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before))


@pytest.mark.parametrize("shape", [(0, 5, 3, 2, 8), (2, 5, 0, 2, 8), (2, 40, 3, 0, 8)])
def test_nothing_to_mix_gives_an_empty_result(shape):
    assert temporal_cosine_attention(*(torch.ones(shape) for _ in "qkv")).shape == shape


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(1, 4, 2, 2, 8)] * 2 + [(1, 4, 2, 2, 6)], "must be one"),
        ([(1, 4, 2, 8)] * 3, "must be one"),
        ([(1, 4, 2, 2, 7)] * 3, "heads of 7 dims.*an even dh"),
        ([(1, 0, 2, 2, 8)] * 3, "0 frames"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ShapeError, match=message):
        temporal_cosine_attention(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize("positions", [torch.arange(5), torch.zeros(3, 4), torch.zeros(1, 2, 4), torch.tensor(1)])
def test_positions_that_do_not_fit_are_refused(positions):
    with pytest.raises(ShapeError, match="positions are"):
        temporal_cosine_attention(*make(2, 4), positions=positions)


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"the table cos is \(1, 5, 16\)"):
        temporal_cosine_attention(*make(2, 4), positions=rotary_table(torch.arange(5), 32))
    cos, sin = rotary_table(torch.arange(4), 32)
    with pytest.raises(ShapeError, match="the table sin is .* on meta"):
        temporal_cosine_attention(*make(2, 4), positions=RotaryTable(cos, sin.to("meta")))


def test_tensors_on_two_devices_are_refused():
    q, k, v = make(1, 4)
    with pytest.raises(ShapeError, match="different devices"):
        temporal_cosine_attention(q, k.to("meta"), v)


def test_unknown_forms_and_kernels_are_refused():
    with pytest.raises(ConfigError, match="auto, linear, direct"):
        temporal_cosine_attention(*make(1, 4), algorithm="fast")
    with pytest.raises(ConfigError, match="auto, torch, triton"):
        temporal_cosine_attention(*make(1, 1), kernels="fast")


@pytest.mark.parametrize("algorithm", ["direct", "linear"])
def test_operator_traced_for_a_card_runs_on_a_cpu_too(algorithm):
    inputs = [x.double().requires_grad_() for x in make(2, 7, dh=8)]
    with torch.no_grad():
        inputs[0][0, 2] = 0
    table = rotary_table(torch.stack((torch.arange(7), torch.arange(7) * 2)), 8, dtype=torch.float64)
    grad = make(2, 7, dh=8, seed=1)[0].double()
    expected = temporal_cosine_attention(*inputs, algorithm=algorithm, positions=table)
    got = torch.ops.motionblocks.temporal_cosine_attention(*inputs, *table, algorithm)
    assert torch.equal(got, expected)
    pairs = zip(*(torch.autograd.grad(out, inputs, grad) for out in (got, expected)))
    for ours, exact in pairs:
        assert torch.allclose(ours, exact, rtol=1e-12, atol=1e-12)


def test_memory_of_the_triton_form_can_be_counted_without_a_card():
    q, k, v = (torch.empty(2, 16, 9, 4, 32, device="meta", dtype=torch.bfloat16) for _ in "qkv")
    out = temporal_cosine_attention(q, k, v, kernels="triton")
    assert out.is_meta and out.shape == v.shape and out.dtype == v.dtype and out.is_contiguous()


def test_declared_bytes_are_little_more_than_the_tensors():
    tensor = 2 * 16 * 1440 * 36 * 32 * 2
    assert 4 * tensor < temporal_cosine_attention_bytes(2, 16, 1440, 36, 32) < 4.1 * tensor
    assert 7 * tensor < temporal_cosine_attention_bytes(2, 16, 1440, 36, 32, backward=True) < 7.1 * tensor
    assert temporal_cosine_attention_bytes(2, 1, 1440, 36, 32) == 0
