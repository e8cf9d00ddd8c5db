"""Reciprocal root mean square of tokens against its definition in float64."""

import pytest
import torch
from pack.kernels.errors import ShapeError
from pack.kernels.token_rstd import token_rstd


def naive(x, eps):
    return (x.double().square().mean(-1) + eps).rsqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8,), (5, 100), (2, 7, 1152), (2, 3, 5, 8)])
def test_equals_the_definition_in_float32(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = token_rstd(x, eps=1e-5)
    assert out.dtype == torch.float32 and out.shape == shape[:-1]
    assert torch.allclose(out.double(), naive(x, 1e-5), rtol=1e-6, atol=0)


def test_half_precision_does_not_overflow():
    x = torch.full((3, 1000), 60000.0, dtype=torch.float16)
    assert torch.allclose(token_rstd(x, eps=1e-5), torch.full((3,), 1 / 59968.0), rtol=1e-5)


def test_zero_token_gives_the_root_of_eps_and_no_gradient():
    x = torch.zeros(1, 8, requires_grad=True)
    out = token_rstd(x, eps=1e-4)
    out.sum().backward()
    assert torch.allclose(out, torch.tensor([100.0])) and torch.equal(x.grad, torch.zeros(1, 8))


def test_strided_slices_are_read_where_they_lie():
    packed = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(0))
    part = packed[:, ::2, 8:16]
    assert torch.allclose(token_rstd(part, eps=1e-5), token_rstd(part.clone(), eps=1e-5))


def test_float64_stays_float64():
    x = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(token_rstd(x, eps=1e-5), naive(x, 1e-5), rtol=1e-14, atol=0)


def test_gradients_match_float64():
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 3.0])
    (token_rstd(x, eps=1e-5) * weight).sum().backward()
    (naive(exact, 1e-5) * weight).sum().backward()
    assert torch.allclose(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)


def test_no_tokens_give_no_numbers():
    assert token_rstd(torch.ones(0, 8), eps=1e-5).shape == (0,)


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.ones(3, 0), torch.ones(3, 4, dtype=torch.int32)])
def test_what_has_no_mean_is_refused(x):
    with pytest.raises(ShapeError, match="is needed"):
        token_rstd(x, eps=1e-5)
