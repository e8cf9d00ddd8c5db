"""gate_norm_modulate and token_rstd compiled for every card: no spills, wide loads and stores, no detours of tiles."""

import pytest
from ahead_of_time import ARCHS, check_limits, compile_ahead
from pack.kernels._triton.gate_norm_modulate import (
    _gate_norm_modulate_bwd_kernel,
    _gate_norm_modulate_fwd_kernel,
    columns,
    launch_options,
)
from pack.kernels._triton.token_rstd import _token_rstd_bwd_kernel, _token_rstd_fwd_kernel
from pack.kernels._triton.token_rstd import launch_options as rstd_options
from pack.kernels.backend_choice import WIDEST_TOKEN

TOKENS = 46080
FLOAT32 = ("partial", "out", "rstd", "grad")  # whatever the tokens are stored in


def compiled(kernel, arch, d, options, absent=(), dtype="bf16", **constants):
    """One kernel as its launcher would ask for it at width d; absent: names of tensors that are None."""
    head, tail = columns(d)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    constants = {**constants, **options, "D": d, "D0": head, "D1": tail, **{name: None for name in absent}}
    types = {}
    for name in kernel.arg_names:
        if name in ("m", "n", "t") or "stride" in name:
            types[name] = "i32"
        elif name not in constants:
            types[name] = "fp32" if name == "eps" else "*fp32" if name in FLOAT32 else f"*{dtype}"
    return compile_ahead(kernel, arch, types=types, constants=constants, num_warps=warps, num_stages=stages)


def forward(arch, d, absent=("bias",), dtype="bf16"):
    options = launch_options(arch, d, TOKENS)
    return compiled(_gate_norm_modulate_fwd_kernel, arch, d, options, absent, dtype, CLAMP=dtype == "fp16")


def backward(arch, d, absent=("bias",), dtype="bf16", slots=3):
    options, slot = launch_options(arch, d, TOKENS, "backward"), {"SHIFT_SLOT": 1, "SCALE_SLOT": 2, "BIAS_SLOT": -1}
    if "bias" not in absent:
        slot["BIAS_SLOT"] = slots - 1
    return compiled(_gate_norm_modulate_bwd_kernel, arch, d, options, absent, dtype, SLOTS=slots, **slot)


@pytest.mark.parametrize("arch", ARCHS)
def test_forward_of_the_models_width_fits_every_card(arch):
    kernel = forward(arch, 1152)
    check_limits(kernel, has_dots=False, least_warps=24)
    assert kernel.wide_stores
    assert kernel.shared <= 64, "a tile goes through shared memory; only the warps' sums should"


@pytest.mark.parametrize("arch", ARCHS)
def test_backward_of_the_models_width_fits_every_card(arch):
    kernel = backward(arch, 1152)
    check_limits(kernel, has_dots=False, least_warps=16)
    assert kernel.wide_stores


@pytest.mark.parametrize("build", [forward, backward])
@pytest.mark.parametrize("d", [320, WIDEST_TOKEN])
def test_other_widths_fit_the_smallest_card(d, build):
    check_limits(build(86, d), has_dots=False, least_warps=8)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("build", [forward, backward])
def test_other_types_and_a_bias_fit(build, dtype):
    more = {"slots": 4} if build is backward else {}
    check_limits(build(90, 1152, absent=(), dtype=dtype, **more), has_dots=False, least_warps=12)


@pytest.mark.parametrize("arch", [80, 120])
@pytest.mark.parametrize("kernel", [_token_rstd_fwd_kernel, _token_rstd_bwd_kernel])
def test_token_rstd_fits(kernel, arch):
    check_limits(compiled(kernel, arch, 2240, rstd_options(arch, 2240, TOKENS)), has_dots=False, least_warps=24)
