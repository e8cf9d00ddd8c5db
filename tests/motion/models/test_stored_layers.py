"""Linears whose weights stay as they are stored: their numbers, what the backward pass keeps, types."""

import pytest
import torch
from pack.motion.models.stored_layers import StoredLinear

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def stored_layer(kind, scale=None, *, inside=12, outside=20):
    """(the layer, the weight it means in float64, the bias in float64)."""
    draw = torch.Generator().manual_seed(0)
    layer = StoredLinear(inside, outside).requires_grad_(False)
    layer.weight = torch.nn.Parameter(torch.randn(outside, inside, generator=draw).to(kind), requires_grad=False)
    layer.bias.copy_(torch.randn(outside, generator=draw))
    layer.weight_scale = None if scale is None else torch.tensor(scale)
    return layer, layer.weight.double() * (scale or 1.0), layer.bias.double()


@pytest.mark.parametrize("scale", [None, 0.013])
@pytest.mark.parametrize("kind", [*FP8, torch.bfloat16, torch.float32], ids=str)
def test_answer_and_gradient_are_those_of_the_weight_that_is_meant(kind, scale):
    layer, weight, bias = stored_layer(kind, scale)
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    exact = x.detach().double() @ weight.T + bias
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), 2 * exact @ weight, rtol=1e-5, atol=1e-4)
    assert layer.weight.dtype == kind and layer.weight.grad is None


@pytest.mark.parametrize("kind", FP8, ids=str)
def test_the_backward_pass_keeps_the_stored_numbers_and_no_wider_copy(kind):
    layer, kept = stored_layer(kind, 0.5)[0], []
    x = torch.randn(4, 12, requires_grad=True)

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    weights = [tensor for tensor in kept if tensor.ndim == 2 and tensor.shape[0] == 20]
    assert [tensor.data_ptr() for tensor in weights] == [layer.weight.data_ptr()] and weights[0].dtype == kind


def test_autocast_says_the_type_and_gradients_come_back_in_that_of_the_input():
    layer, weight, bias = stored_layer(torch.float8_e4m3fn, 0.25)
    x = torch.randn(6, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    expected = torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert torch.equal(out, expected)
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32 and x.grad.abs().max() > 0


def test_a_weight_of_the_type_in_use_is_torchs_own_product():
    layer, _, _ = stored_layer(torch.float32)
    x = torch.randn(2, 12)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
