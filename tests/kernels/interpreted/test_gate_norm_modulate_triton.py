"""The interpreted kernels of gate_norm_modulate against float64 on whole tensors, and their operator under torch."""

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, strided
from pack.kernels import gate_norm_modulate as module
from pack.kernels.gate_norm_modulate import Rows, gate_norm_modulate, gate_norm_modulate_bytes

NAMES = ("gate", "shift", "scale")
SIZES = [(8, 1), (100, 15), (1152, 3), (64, 17)]  # d and n: with tail and without, below and above one program's walk


def truth_of(x, y=None, *, gate=None, shift=None, scale=None, bias=None):
    """The definition in float64; differentiable."""
    def row(rows):
        values = rows.values.double()
        return (values if rows.table is None else values + rows.table.double()).unsqueeze(2)

    v = x.double()
    if bias is not None:
        v = v + bias.double()
    if y is not None:
        v = v + y.double() * (1 if gate is None else row(gate))
    centred = v - v.mean(-1, keepdim=True)
    h = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    h = h * (1 if scale is None else 1 + row(scale)) + (0 if shift is None else row(shift))
    return v, h


def make(d=100, n=3, *, b=1, t=2, frames=None, dtype=torch.float32, odd=True):
    """Nine tensors in the order x, y, bias, then values and table of gate, shift, scale; odd: in odd places."""
    draw = torch.Generator().manual_seed(d + n)
    sizes = [(b, t, n, d)] * 2 + [(d,)] + [(b, frames or t, d), (d,)] * 3
    tensors = [torch.randn(size, generator=draw).to(dtype) for size in sizes]
    return [strided(tensor) for tensor in tensors] if odd else tensors


def words_of(tensors):
    """Keywords of a call from the list of `make`."""
    return {"bias": tensors[2], **{name: Rows(*tensors[3 + 2 * i : 5 + 2 * i]) for i, name in enumerate(NAMES)}}


def check(x, y=None, **words):
    """Run both backends and compare; what the Triton backend returned."""
    with poisoned():
        out = gate_norm_modulate(x, y, kernels="triton", **words)
    plain, truth = gate_norm_modulate(x, y, kernels="torch", **words), truth_of(x, y, **words)
    for ours, theirs, exact in zip(out, plain, truth):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_as_good_as_torch(ours, theirs, exact)
    return out


@pytest.mark.parametrize("d, n", SIZES)
def test_equals_the_definition(d, n):
    x, y, *_ = tensors = make(d, n)
    check(x, y, **words_of(tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_torch(dtype):
    x, y, *_ = tensors = make(100, 17, t=1, dtype=dtype)
    check(x, y, **words_of(tensors))


@pytest.mark.slow
@pytest.mark.parametrize("n", [63, 100, 250])
def test_long_frames_equal_the_definition(n):
    x, y, *_ = tensors = make(24, n, t=1)
    check(x, y, **words_of(tensors))


@pytest.mark.parametrize("d", [1, 2, 3, 31, 33])
def test_narrow_tokens_are_masked(d):
    x, y, *_ = tensors = make(d, 2)
    check(x, y, **words_of(tensors))


@pytest.mark.parametrize("left_out", ["gate", "bias", "shift", "scale", "shift, scale", "gate, bias", "tables"])
def test_each_optional_part_may_be_left_out(left_out):
    x, y, *_ = tensors = make(d=24)
    words = {name: part for name, part in words_of(tensors).items() if name not in left_out.split(", ")}
    if left_out == "tables":
        words = {name: Rows(part.values) if name in NAMES else part for name, part in words.items()}
    check(x, y, **words)


def test_without_residual_only_the_norm_is_written():
    x, _, *_ = tensors = make()
    words = {name: rows for name, rows in words_of(tensors).items() if name in ("shift", "scale")}
    assert check(x, **words)[0] is x


def test_bias_alone_is_a_residual():
    x, *_ = tensors = make()
    words = words_of(tensors)
    check(x, bias=words["bias"], shift=words["shift"])


@pytest.mark.parametrize("samples, frames", [(2, 1), (1, 2), (1, 1)])
def test_one_row_serves_all_samples_and_frames(samples, frames):
    x, y, *_ = tensors = make(24, 3, b=2, frames=frames)
    words = {name: part[:samples] if name == "bias" else Rows(part.values[:samples], part.table)
             for name, part in words_of(tensors).items() if name != "bias"}  # fmt: skip
    check(x, y, **words)


def test_types_may_be_mixed():
    x, y, *_ = tensors = make()
    words = words_of(tensors)
    words["gate"] = Rows(words["gate"].values.bfloat16(), words["gate"].table)
    assert check(x, y.half(), **words)[0].dtype == torch.float32


def test_channels_that_do_not_lie_side_by_side_are_copied():
    x, y, *_ = tensors = make(odd=False)
    x, y = (tensor.transpose(1, 3).contiguous().transpose(1, 3) for tensor in (x, y))
    check(x, y, **words_of(tensors))


@pytest.mark.parametrize("mean", [3.0, 1e4, 1e6])
def test_large_means_cost_no_more_digits_than_they_must(mean):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 3, 100, generator=draw) + mean
    one = Rows(torch.zeros(1, 1, 100))
    h = gate_norm_modulate(x, shift=one, scale=one, kernels="triton")[1]
    assert (h - truth_of(x, shift=one)[1]).abs().max() < 1e-5


@pytest.mark.parametrize("value", [0.0, 3.1, 12345.678])
def test_constant_tokens_give_the_shift(value):
    draw = torch.Generator().manual_seed(0)
    x, rows = torch.full((1, 1, 2, 100), value), Rows(torch.randn(1, 1, 100, generator=draw))
    h = gate_norm_modulate(x, shift=rows, scale=rows, kernels="triton")[1]
    assert torch.allclose(h, rows.values.unsqueeze(2).expand_as(x), atol=1e-6)


def test_float16_saturates_and_lets_nan_pass():
    x = torch.tensor([60000.0, -60000.0, float("nan"), 1.0], dtype=torch.float16).view(1, 1, 1, 4)
    x_new = gate_norm_modulate(x, x, kernels="triton")[0].flatten()
    assert x_new[:2].tolist() == [65504.0, -65504.0] and x_new[2].isnan() and x_new[3] == 2


def test_frames_beyond_two_to_the_31_elements_are_reached():
    far = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((1, 2, 1, 8), (0, 2**31 + 8, 8, 1))
    far.copy_(torch.randn(1, 2, 1, 8, generator=torch.Generator().manual_seed(0)))
    check(far, far, gate=Rows(torch.ones(1, 1, 8)))


@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (1, 0, 3, 8), (1, 2, 0, 8)])
def test_nothing_in_gives_nothing_out_and_no_gradient(shape):
    tensors = make(8, shape[2], b=shape[0], t=shape[1], odd=False, frames=shape[1])
    tensors = [tensor.requires_grad_() for tensor in tensors]
    x_new, h = gate_norm_modulate(*tensors[:2], **words_of(tensors), kernels="triton")
    assert x_new.shape == h.shape == shape
    (x_new.sum() + h.sum()).backward()
    assert all(tensor.grad.shape == tensor.shape and not tensor.grad.any() for tensor in tensors)


def gradients(tensors, backend, loss, keep=tuple(range(9))):
    """Gradients of the tensors named by `keep`; backend: "triton", "torch" or "truth"."""
    copies = [tensor.double() if backend == "truth" else strided(tensor) for tensor in tensors]
    leaves = [tensor.detach().requires_grad_(index in keep) for index, tensor in enumerate(copies)]
    words = words_of(leaves)
    with poisoned():
        out = truth_of(*leaves[:2], **words) if backend == "truth" else gate_norm_modulate(
            *leaves[:2], **words, kernels=backend)  # fmt: skip
        loss(*out).backward()
    return [leaf.grad for leaf in leaves]


def both(x_new, h):
    weight = torch.linspace(-1, 1, x_new.numel(), dtype=torch.float64).view(x_new.shape)
    return (x_new.double() * weight.flip(2)).sum() + (h.double() * weight).sum()


LOSSES = {"both": both, "only x_new": lambda x_new, h: x_new.double().square().sum(),
          "only h": lambda x_new, h: (h.double() * torch.linspace(-1, 1, h.shape[-1]).double()).sum()}  # fmt: skip


def check_gradients(tensors, loss=both, keep=tuple(range(9))):
    backends = [gradients(tensors, backend, loss, keep) for backend in ("triton", "torch", "truth")]
    for index, (ours, plain, exact) in enumerate(zip(*backends)):
        assert (ours is None) == (index not in keep)
        if index in keep:
            exact = torch.zeros_like(ours).double() if exact is None else exact
            plain = torch.zeros_like(ours) if plain is None else plain
            assert_as_good_as_torch(ours, plain, exact)


@pytest.mark.parametrize("d, n, frames", [(100, 3, 2), (64, 17, 1), (1152, 1, 1)])
def test_gradients_equal_the_definition(d, n, frames):
    check_gradients(make(d, n, frames=frames))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_half_precision_are_as_good_as_torch(dtype):
    check_gradients(make(24, 17, t=1, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("n", [63])
def test_gradients_of_long_frames_equal_the_definition(n):
    check_gradients(make(24, n, t=1))


@pytest.mark.parametrize("keep", [(0,), (1, 4), (2, 7), (3, 6, 8)])
def test_gradients_may_be_wanted_of_some_tensors_only(keep):
    check_gradients(make(12, 2), keep=keep)


@pytest.mark.parametrize("loss", ["only x_new", "only h"])
def test_one_result_may_be_left_unused(loss):
    wanted = (0, 1, 2, 3, 4) if loss == "only x_new" else tuple(range(9))
    check_gradients(make(12, 2), LOSSES[loss], wanted)


def test_gradients_of_calls_with_parts_left_out():
    x, y, bias, gate, _, _, _, scale, _ = tensors = make(12, 2)
    calls = [
        {"y": y}, {"y": y, "bias": bias}, {"bias": bias}, {"y": y, "gate": Rows(gate)}, {"scale": Rows(scale)},
        {"y": y, "scale": Rows(scale)},
    ]  # fmt: skip
    for call in calls:
        found = []
        for backend in ("triton", "truth"):
            x.grad, leaf = None, x.detach().clone().requires_grad_()
            for tensor in tensors:
                tensor.requires_grad_().grad = None
            words = {"kernels": backend} if backend == "triton" else {}
            out = (gate_norm_modulate if words else truth_of)(leaf, **call, **words)
            total = out[0].double().square().sum() * ("y" in call or "bias" in call)
            if "scale" in call:
                total = total + (out[1].double() * torch.arange(12)).sum()
            total.backward()
            found.append([leaf.grad] + [tensor.grad for tensor in tensors])
        for ours, exact in zip(*found):
            assert (ours is None) == (exact is None), call.keys()
            assert ours is None or torch.allclose(ours.double(), exact.double(), atol=1e-4, rtol=1e-5), call.keys()


def test_equal_inputs_give_equal_bits():
    tensors = make(24, 17, t=1)
    first, second = (gradients(tensors, "triton", both) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_declared_bytes_are_those_the_kernel_moves():
    x, y, *_ = tensors = make(24, 17, t=1, odd=False)
    words = words_of(tensors)
    with counted_bytes() as counted:
        gate_norm_modulate(x, y, **words, kernels="triton")
    assert counted.total == gate_norm_modulate_bytes(1, 1, 17, 24, itemsize=4, bias=True) and counted.launches == 1
    with counted_bytes() as counted:
        gate_norm_modulate(x, shift=words["shift"], scale=words["scale"], kernels="triton")
    assert counted.total == gate_norm_modulate_bytes(1, 1, 17, 24, itemsize=4, y=False, gate=False)
    with counted_bytes() as counted:
        gate_norm_modulate(x, y, gate=Rows(words["gate"].values), kernels="triton")
    assert counted.total == gate_norm_modulate_bytes(1, 1, 17, 24, itemsize=4, norm=False, tables=False)


def test_wide_tokens_take_torch():
    x = torch.randn(1, 1, 1, module.WIDEST_TOKEN + 1)
    with counted_bytes() as counted:
        gate_norm_modulate(x, x, kernels="triton")
    assert counted.launches == 0


def test_shapes_on_the_meta_device_are_those_of_the_results():
    tensors = [tensor.to("meta") for tensor in make(odd=False, dtype=torch.bfloat16)]
    x_new, h = gate_norm_modulate(*tensors[:2], **words_of(tensors), kernels="triton")
    assert x_new.shape == h.shape == tensors[0].shape and x_new.dtype == h.dtype == torch.bfloat16


@pytest.mark.slow
def test_operators_pass_the_checks_of_torch():
    x, y, bias, *rows = [tensor.requires_grad_() for tensor in make(12, 2, odd=False)]
    torch.library.opcheck(module.gate_norm_modulate_operator.default, (x, y, *rows, bias, 1e-6))
    torch.library.opcheck(module.gate_norm_modulate_operator.default, (x, None, None, None, *rows[2:], None, 1e-6))
    torch.library.opcheck(module.gate_norm_modulate_operator.default, (x, y, *rows[:2], *[None] * 5, 1e-6))
    x, y, bias, *rows = make(12, 2, odd=False)
    gate, scale = rows[:2], rows[4:]
    arguments = (x, y, x, y, *gate, True, *scale, bias, 1e-6, True)
    torch.library.opcheck(module.gate_norm_modulate_backward_operator.default, arguments)


@pytest.mark.slow
def test_compiled_graph_holds_the_operator_whole():
    tensors = make(12, 2, odd=False)

    def call(x, y, bias, *rows):
        return gate_norm_modulate(x, y, **words_of([x, y, bias, *rows]), kernels="triton")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(*tensors), call(*tensors)):
        assert torch.equal(ours, theirs)


def test_backward_kernel_equals_the_formulas():
    x, y, bias, gate, gate_table, _, _, scale, scale_table = make(31, 2)
    arguments = (y, x, x, y, gate, gate_table, True, scale, scale_table, bias, 1e-6, True)
    for ours, theirs in zip(module._backward(*arguments), module._backward_torch(*arguments)):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_torch_formulas_of_the_operator_equal_the_kernels(monkeypatch):
    tensors = make(24, 3)
    ours = gradients(tensors, "triton", both)
    monkeypatch.setattr(module, "triton_problem", lambda device: "no card")
    with counted_bytes() as counted:
        theirs = gradients(tensors, "triton", both)
    assert counted.launches == 0
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)
