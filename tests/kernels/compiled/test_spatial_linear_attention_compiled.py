"""Spatial kernels compiled for cards that are not here, with the launch table that ships."""

import pytest
import torch
from ahead_of_time import ARCHS, check_limits, compile_ahead
from pack.kernels._triton import spatial_linear_attention as launchers

NAMES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
SCALARS = {"state": "*fp32", "n": "i32", "nh": "i32", "factor": "fp32", "eps": "fp32"}


def compiled(arch, dtype, dh, *, backward):
    """One kernel as the launcher would start it for a long frame of contiguous tokens."""
    options = launchers.launch_options(arch, dh, 1440, dtype.itemsize, backward=backward)
    inputs = ("grad", "q", "k", "v") if backward else ("q", "k", "v")
    outputs = ("grad_q", "grad_k", "grad_v") if backward else ("out",)
    types = {**dict.fromkeys(inputs + outputs, NAMES[dtype]), **SCALARS}
    types |= {f"{name}_stride_{axis}": "i32" for name in inputs for axis in "mnh"}
    constants = {**launchers._constants(dh, dtype), "HB": options["HB"], "BN": options["BN"]}
    if not backward:
        constants |= {"KEEP": True, "CLAMP": dtype == torch.float16}
    return compile_ahead(
        launchers._spatial_bwd_kernel if backward else launchers._spatial_fwd_kernel, arch, types=types,
        constants=constants, num_warps=options["num_warps"], num_stages=options["num_stages"],
    )  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_forward_fits_every_card(arch):
    done = compiled(arch, torch.bfloat16, 32, backward=False)
    check_limits(done, has_dots=True)
    assert not done.narrow_loads and done.async_loads and done.wide_stores and done.registers <= 128


@pytest.mark.parametrize("arch", ARCHS)
def test_backward_fits_every_card(arch):
    done = compiled(arch, torch.bfloat16, 32, backward=True)
    check_limits(done, has_dots=True)
    assert done.async_loads and done.wide_stores


@pytest.mark.parametrize("backward", [False, True])
def test_float16_fits(backward):
    check_limits(compiled(120, torch.float16, 32, backward=backward), has_dots=True)


@pytest.mark.parametrize("backward", [False, True])
def test_float32_fits_without_tensor_cores(backward):
    done = compiled(90, torch.float32, 32, backward=backward)
    check_limits(done, has_dots=False)
    assert done.mma == 0, "float32 products would lose digits in tensor cores"


@pytest.mark.parametrize("dh, backward", [(16, False), (16, True), (64, False)])
def test_other_head_sizes_fit(dh, backward):
    check_limits(compiled(90, torch.bfloat16, dh, backward=backward), has_dots=True)
