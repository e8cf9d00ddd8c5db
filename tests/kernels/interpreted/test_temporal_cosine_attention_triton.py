"""Triton backend of temporal 1 + cos attention, interpreted, against a float64 sum over pairs of frames."""

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, relative_error, strided
from pack.kernels._triton import temporal_cosine_attention_plan
from pack.kernels.errors import ShapeError
from pack.kernels.temporal_cosine_attention import (
    rotary_table,
    temporal_cosine_attention,
    temporal_cosine_attention_bytes,
)

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def naive(q, k, v, positions):
    """Eq. 8-9 in float64: pairs of dims are complex numbers, rotated by multiplication."""
    rate = 10000.0 ** (-torch.arange(0, q.shape[-1], 2, dtype=torch.float64) / q.shape[-1])
    angle = (positions.double().unsqueeze(-1) * rate).reshape(-1, q.shape[1], 1, 1, q.shape[-1] // 2)
    turned = []
    for x in (q.double(), k.double()):
        unit = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        spun = torch.view_as_complex(unit.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
        turned.append(torch.view_as_real(spun).flatten(-2))
    weight = 1 + torch.einsum("bishd,bjshd->bijsh", *turned)
    return torch.einsum("bijsh,bjshd->bishd", weight, v.double()) / weight.sum(2).unsqueeze(-1).clamp_min(1e-6)


def make(b, t, s, nh, dh, dtype="fp32", count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, t, s, nh, dh, generator=generator).to(TYPES[dtype]) for _ in range(count)]


def with_gradients(call, inputs, grad):
    """Result of call(q, k, v), then the gradients of the three."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = call(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def assert_correct(inputs, grad, positions, algorithm="auto", factor=2.0):
    """Result and gradients of the Triton backend against float64, on hostile memory."""

    def ours(q, k, v, kernels="triton"):
        return temporal_cosine_attention(q, k, v, algorithm=algorithm, positions=positions, kernels=kernels)

    truth = with_gradients(lambda q, k, v: naive(q, k, v, positions), [x.double() for x in inputs], grad)
    plain = with_gradients(lambda q, k, v: ours(q, k, v, "torch"), inputs, grad)
    with poisoned():
        got = with_gradients(ours, [strided(x) for x in inputs], strided(grad))
    for out, reference, exact in zip(got, plain, truth):
        assert out.is_contiguous()
        assert_as_good_as_torch(out, reference, exact, factor=factor)


@pytest.mark.parametrize(
    "t, s, nh, dh, dtype",
    [
        (2, 3, 5, 32, "fp32"), (13, 1, 3, 24, "fp16"), (16, 3, 5, 32, "bf16"), (16, 1, 2, 32, "fp16"),
        (33, 1, 2, 32, "fp32"), (64, 3, 1, 16, "bf16"), (65, 1, 3, 32, "fp32"), (130, 1, 2, 48, "bf16"),
        (70, 1, 5, 6, "fp16"), (7, 1, 1, 112, "bf16"), (40, 1, 1, 128, "fp16"),
    ],
)  # fmt: skip
def test_result_and_gradients_are_as_good_as_torch(t, s, nh, dh, dtype):
    *inputs, grad = make(1, t, s, nh, dh, dtype, count=4)
    assert_correct(inputs, grad, torch.arange(t))


@pytest.mark.parametrize("t", [5, 66])
def test_positions_may_differ_per_row_and_be_stretched(t):
    *inputs, grad = make(2, t, 1, 2, 8, count=4)
    assert_correct(inputs, grad, torch.stack((torch.arange(t) * 3.5, torch.arange(t) - 40)))


def test_linear_form_holds_for_few_frames():
    *inputs, grad = make(1, 9, 1, 3, 8, count=4)
    assert_correct(inputs, grad, torch.arange(9), algorithm="linear")


def test_table_made_once_gives_the_same_bits():
    q, k, v = make(2, 5, 1, 2, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 2, 4, 7, 9]])
    table = rotary_table(positions, 8)
    expected = temporal_cosine_attention(q, k, v, positions=positions, kernels="triton")
    assert torch.equal(temporal_cosine_attention(q, k, v, positions=table, kernels="triton"), expected)


def test_one_frame_returns_its_own_value():
    q, k, v = make(2, 1, 3, 2, 8)
    assert temporal_cosine_attention(q, k, v, kernels="triton") is v


@pytest.mark.parametrize("shape", [(0, 5, 3, 2, 8), (2, 5, 0, 2, 8), (2, 70, 3, 0, 8)])
def test_nothing_to_mix_gives_an_empty_result_and_gradients(shape):
    with counted_bytes() as counted:
        got = with_gradients(
            lambda q, k, v: temporal_cosine_attention(q, k, v, kernels="triton"), make(*shape), torch.ones(shape)
        )
    assert all(x.shape == shape for x in got) and counted.launches == 0
    assert temporal_cosine_attention_bytes(*shape) == 0


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_only_what_asks_for_a_gradient_gets_one(missing, linear):
    inputs = make(1, 4, 1, 2, 8)
    algorithm = "linear" if linear else "direct"
    expected = with_gradients(
        lambda q, k, v: temporal_cosine_attention(q, k, v, algorithm=algorithm, kernels="torch"), inputs, inputs[0]
    )
    for index, x in enumerate(inputs):
        x.requires_grad_(index != missing)
    temporal_cosine_attention(*inputs, algorithm=algorithm, kernels="triton").backward(inputs[0].detach())
    for index, x in enumerate(inputs):
        assert x.grad is None if index == missing else torch.allclose(x.grad, expected[1 + index], atol=1e-5)


def test_vectors_of_no_length_get_the_weight_one():
    *inputs, grad = make(1, 6, 1, 2, 8, count=4)
    inputs[0][:, 2], inputs[1][:, 4] = 0, 0
    truth = with_gradients(lambda q, k, v: naive(q, k, v, torch.arange(6)), [x.double() for x in inputs], grad)
    got = with_gradients(lambda q, k, v: temporal_cosine_attention(q, k, v, kernels="triton"), inputs, grad)
    assert relative_error(got[0], truth[0]) < 1e-6 and relative_error(got[3], truth[3]) < 1e-6
    others = [0, 1, 3, 5]
    for ours, exact in zip(got[1:3], truth[1:3]):  # those of the empty vectors are 1e12 times a direction
        assert torch.isfinite(ours).all() and relative_error(ours[:, others], exact[:, others]) < 1e-6


@pytest.mark.parametrize("t", [4, 66])
@pytest.mark.parametrize("scale", [1e-5, 2e4])
def test_float16_neither_overflows_nor_vanishes(t, scale):
    *inputs, grad = make(1, t, 1, 1, 8, "fp32", count=4)
    values = [(x * size).clamp(-65504, 65504).half() for x, size in zip(inputs, (1, 1, scale))]
    assert_correct(values, grad.half(), torch.arange(t))
    values = [x.half() for x in inputs]
    assert_correct(values, (grad * min(scale, 1e3)).half(), torch.arange(t), factor=2.5)


def test_float16_results_stay_finite_at_the_largest_value():
    q, k, v = make(1, 5, 1, 2, 8, "fp16")
    out = temporal_cosine_attention(q, k, torch.full_like(v, 65504), kernels="triton")
    assert torch.equal(out, torch.full_like(v, 65504))


def test_opposite_vectors_do_not_divide_by_zero():
    for t in (3, 66):
        q = torch.ones(1, t, 1, 1, 2)
        got = with_gradients(
            lambda q, k, v, t=t: temporal_cosine_attention(q, k, v, positions=torch.zeros(t), kernels="triton"),
            (q, -q, q), q,
        )  # fmt: skip
        assert all(torch.isfinite(x).all() for x in got)


def test_mixed_types_are_summed_in_float32():
    (q, _, _), (_, k, _), (_, _, v) = make(1, 6, 1, 2, 8), make(1, 6, 1, 2, 8, "fp16"), make(1, 6, 1, 2, 8, "bf16")
    got, plain = (temporal_cosine_attention(q, k, v, kernels=kernels) for kernels in ("triton", "torch"))
    assert_as_good_as_torch(got, plain, naive(q, k, v, torch.arange(6)))


def test_a_broken_site_and_head_spoil_nothing_else():
    q, k, v = make(1, 6, 3, 5, 8)
    expected = temporal_cosine_attention(q, k, v, kernels="triton")
    k[0, 2, 1, 3] = float("nan")
    got = temporal_cosine_attention(q, k, v, kernels="triton")
    touched = torch.zeros_like(got, dtype=torch.bool)
    touched[:, :, 1, 3] = True
    assert torch.equal(got[~touched], expected[~touched]) and got[touched].isnan().all()


@pytest.mark.parametrize("t", [6, 70])
def test_results_are_bitwise_repeatable(t):
    *inputs, grad = make(1, t, 1, 5, 8, count=4)
    first, second = (
        with_gradients(lambda q, k, v: temporal_cosine_attention(q, k, v, kernels="triton"), inputs, grad)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_heads_split_over_programs_give_the_same_bits(monkeypatch):
    *inputs, grad = make(1, 5, 2, 19, 8, count=4)

    def run():
        with counted_bytes() as counted:
            got = with_gradients(lambda q, k, v: temporal_cosine_attention(q, k, v, kernels="triton"), inputs, grad)
        return got, counted.programs

    whole, few = run()
    monkeypatch.setattr(temporal_cosine_attention_plan, "interpreting", lambda: False)
    monkeypatch.setattr(temporal_cosine_attention_plan, "WANTED", 6)
    split, many = run()
    assert (few, many) == (4, 12)  # two sites, forward and backward; five tiles of heads go 2 + 2 + 1
    assert all(torch.equal(a, b) for a, b in zip(whole, split))


@pytest.mark.parametrize("t, algorithm, dtype", [(5, "auto", "bf16"), (66, "auto", "fp32"), (5, "linear", "bf16")])
def test_declared_bytes_are_those_loaded_and_stored(t, algorithm, dtype):
    shape = (1, t, 2, 5, 6)
    *inputs, grad = make(*shape, dtype, count=4)
    itemsize, wider = inputs[0].element_size(), 4 - inputs[0].element_size()  # the interpreter stores float32
    inputs = [x.requires_grad_() for x in inputs]
    with counted_bytes() as counted:
        out = temporal_cosine_attention(*inputs, algorithm=algorithm, kernels="triton")
    declared = temporal_cosine_attention_bytes(*shape, itemsize=itemsize, algorithm=algorithm)
    assert counted.total == declared + wider * out.numel() and counted.launches == 1
    with counted_bytes() as counted:
        out.backward(grad)
    declared = temporal_cosine_attention_bytes(*shape, itemsize=itemsize, algorithm=algorithm, backward=True)
    assert counted.total == declared + 3 * wider * out.numel()
    assert counted.launches == (1 if (t, algorithm) == (5, "auto") else 2)


@pytest.mark.parametrize("axis", ["b", "t", "s", "nh"])
@pytest.mark.parametrize("algorithm", ["direct", "linear"])
def test_addresses_beyond_two_to_the_31_are_reached(axis, algorithm):
    at = ("b", "t", "s", "nh").index(axis)
    shape = [1, 2, 1, 1, 4]
    shape[at] = 3
    *small, grad = make(*shape, "bf16", count=4)
    strides = [32, 16, 8, 4, 1]
    strides[at] = 2**30  # the third lies 2^31 away, which 32 bits cannot hold
    memory = torch.empty(2**31 + 256, dtype=torch.bfloat16)
    *large, large_grad = (memory.as_strided(shape, strides, 64 * index) for index in range(4))
    for view, x in zip((*large, large_grad), (*small, grad)):
        view.copy_(x)

    def run(q, k, v):
        return temporal_cosine_attention(q, k, v, algorithm=algorithm, kernels="triton")

    for got, expected in zip(with_gradients(run, large, large_grad), with_gradients(run, small, grad)):
        assert torch.equal(got, expected)


def test_too_wide_heads_take_torch_and_are_refused_when_triton_is_named():
    q, k, v = make(1, 3, 1, 1, 130)
    with counted_bytes() as counted:
        temporal_cosine_attention(q, k, v)
    assert counted.launches == 0
    with pytest.raises(ShapeError, match="130 dims.*holds 128"):
        temporal_cosine_attention(q, k, v, kernels="triton")


def test_more_programs_than_a_grid_holds_are_refused():
    x = torch.zeros(1, dtype=torch.bfloat16).expand(2**16, 2, 2**15, 1, 2)
    with pytest.raises(ShapeError, match="2147483648 programs are needed"):
        temporal_cosine_attention(x, x, x, kernels="triton")


@pytest.mark.parametrize("algorithm", ["auto", pytest.param("linear", marks=pytest.mark.slow)])
def test_operators_keep_the_rules_of_torch(algorithm):
    *inputs, grad = make(1, 3, 1, 2, 4, count=4)
    table = rotary_table(torch.arange(3), 4)
    operators = torch.ops.motionblocks
    torch.library.opcheck(
        operators.temporal_cosine_attention.default, (*(x.requires_grad_() for x in inputs), *table, algorithm)
    )
    torch.library.opcheck(
        operators.temporal_cosine_attention_backward.default, (grad, *(x.detach() for x in inputs), *table, algorithm)
    )


@pytest.mark.slow
def test_compiled_model_calls_the_operator_without_a_break():
    inputs = make(1, 4, 1, 2, 8)

    def call(q, k, v):
        return temporal_cosine_attention(q * 2, k, v, kernels="triton") + 1

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected = with_gradients(call, inputs, inputs[0])
    for got, exact in zip(with_gradients(compiled, inputs, inputs[0]), expected):
        assert torch.equal(got, exact)
