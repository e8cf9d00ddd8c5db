"""glu_depthwise compiled to machine code: no spills, wide loads, and the quick SiLU only where it is allowed."""

import pytest
import torch
from ahead_of_time import ARCHS, check_limits, compile_ahead
from pack.kernels._triton import glu_depthwise as launchers
from pack.kernels._triton.glu_depthwise_plan import launch_options

KERNELS = {
    "forward": launchers._glu_depthwise_fwd_kernel,
    "input": launchers._glu_depthwise_du_kernel,
    "weights": launchers._glu_depthwise_weights_kernel,
}
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
POINTERS = ("dout", "u", "weight", "bias", "out", "du")


def compiled(kind, arch, stored, **constants):
    kernel = KERNELS[kind]
    options = launch_options(kind, TYPES[stored], arch)
    num_warps = options.pop("num_warps")
    constants = {
        "TAP_ACROSS": 3, "TAP_ALONG": 1, "HAS_BIAS": True, "FAST": stored == "bf16", "CLAMP": stored == "fp16",
        **options, **constants,
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {name: f"*{stored}" if name in POINTERS else "*fp32" if name == "partial" else "i32"
             for name in kernel.arg_names if name not in constants}  # fmt: skip
    divisible = [name for name in types if types[name].startswith("*") or "stride" in name or name == "c"]
    return compile_ahead(kernel, arch, types=types, constants=constants, num_warps=num_warps, divisible=divisible)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", KERNELS)
def test_kernel_for_bfloat16_fits_the_card(kind, arch):
    check_limits(compiled(kind, arch, "bf16"), has_dots=False)


@pytest.mark.parametrize("stored", ("fp16", "fp32"))
@pytest.mark.parametrize("kind", KERNELS)
def test_kernel_for_other_types_fits_the_card(kind, stored):
    check_limits(compiled(kind, 90, stored), has_dots=False)


def test_forward_loads_sixteen_bytes_a_lane():
    result = compiled("forward", 90, "bf16")
    pairs = launch_options("forward", torch.bfloat16, 90)["BLOCK"] // 2 + 1
    assert result.wide_loads + result.async_loads >= pairs


def test_only_bfloat16_takes_the_approximate_tanh():
    assert "MUFU.TANH" in compiled("forward", 90, "bf16").sass
    assert "MUFU.TANH" not in compiled("forward", 90, "fp16").sass


def test_approximate_tanh_costs_less_than_half_the_rounding_of_bfloat16():
    """tanh.approx.f32 errs by 2^-11 of its result at most; here every value errs by that, with one sign."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(1, 8, 20, 20, generator=generator, dtype=torch.float64)
    taps = torch.randn(8, 1, 3, 3, generator=generator, dtype=torch.float64) / 3

    def silu(x, error):
        return 0.5 * x * (1 + torch.tanh(x / 2) * (1 + error))

    def middle(error):
        value, gate = torch.nn.functional.conv2d(silu(u, error), taps, padding=1, groups=8).chunk(2, dim=1)
        return value * silu(gate, error)

    truth = middle(0)
    rounding = (truth.bfloat16().double() - truth).norm()
    assert 0 < (middle(2**-11) - truth).norm() < 0.5 * rounding
    assert (middle(2**-11) - truth).norm() > (truth.half().double() - truth).norm()  # why float16 does without
