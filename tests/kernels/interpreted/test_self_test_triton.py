"""The verdict at load with real kernels: all of them run and agree, in every number type they are made for."""

import pytest
import torch
from pack.kernels.self_test import OPERATORS, kernel_problem, resolve_kernels, try_operator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_agrees_with_torch(name, dtype):
    assert try_operator(name, torch.device("cpu"), dtype) is None


def test_named_triton_is_kept():
    kernel_problem.cache_clear()
    assert resolve_kernels("triton", "cpu", torch.float32, OPERATORS) == "triton"
    assert resolve_kernels("auto", "cpu", torch.float32, OPERATORS) == "auto"
    assert resolve_kernels("auto", "cpu", torch.float64, OPERATORS) == "torch"
    kernel_problem.cache_clear()
