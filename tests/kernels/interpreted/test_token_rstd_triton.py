"""The interpreted kernels of token_rstd against the definition in float64."""

import pytest
import torch
from kernel_checks import assert_as_good_as_torch, counted_bytes, poisoned, strided
from pack.kernels import token_rstd as module
from pack.kernels.token_rstd import token_rstd, token_rstd_bytes

EPS = 1e-5


def draw(*shape, dtype=torch.float32):
    return strided(torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype))


def truth_of(x):
    return (x.double().square().mean(-1) + EPS).rsqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8,), (17, 100), (2, 15, 24), (2, 3, 2, 64), (1, 3, 1152)])
def test_equals_the_definition(shape, dtype):
    x = draw(*shape, dtype=dtype)
    with poisoned():
        out = token_rstd(x, eps=EPS, kernels="triton")
    assert_as_good_as_torch(out, token_rstd(x, eps=EPS, kernels="torch"), truth_of(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 100), (2, 9, 24), (1, 2, 1152)])
def test_gradients_equal_the_definition(shape, dtype):
    found = {}
    for backend in ("triton", "torch", "truth"):
        x = draw(*shape, dtype=dtype)
        x = (x.double() if backend == "truth" else x).requires_grad_()
        with poisoned():
            out = truth_of(x) if backend == "truth" else token_rstd(x, eps=EPS, kernels=backend)
            (out.double() * torch.linspace(-1, 1, out.numel()).double().view(out.shape)).sum().backward()
        found[backend] = x.grad
    assert_as_good_as_torch(found["triton"], found["torch"], found["truth"])


def test_zero_token_gives_the_root_of_eps_and_no_gradient():
    x = torch.zeros(1, 8, requires_grad=True)
    out = token_rstd(x, eps=1e-4, kernels="triton")
    out.sum().backward()
    assert torch.allclose(out, torch.tensor([100.0])) and torch.equal(x.grad, torch.zeros(1, 8))


def test_tokens_beyond_two_to_the_31_elements_are_reached():
    far = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((1, 2, 8), (0, 2**31 + 8, 1))
    far.copy_(torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(token_rstd(far, eps=EPS, kernels="triton").double(), truth_of(far), rtol=1e-6)


def test_declared_bytes_are_those_the_kernel_moves():
    with counted_bytes() as counted:
        token_rstd(draw(2, 9, 24), eps=EPS, kernels="triton")
    assert counted.total == token_rstd_bytes(18, 24, itemsize=4) and counted.launches == 1


def test_no_tokens_start_no_kernel():
    with counted_bytes() as counted:
        assert token_rstd(torch.ones(2, 0, 8), eps=EPS, kernels="triton").shape == (2, 0)
    assert counted.launches == 0


@pytest.mark.slow
def test_operators_pass_the_checks_of_torch():
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    torch.library.opcheck(module.token_rstd_operator.default, (x.clone().requires_grad_(), EPS))
    torch.library.opcheck(module.token_rstd_backward_operator.default, (torch.ones(3), x, torch.ones(3)))
