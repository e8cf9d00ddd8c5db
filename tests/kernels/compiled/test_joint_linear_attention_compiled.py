"""Kernels of the long linear attention compiled for cards that are not here, with the launch table that ships."""

import pytest
import torch
from ahead_of_time import LIMITS, check_limits, compile_ahead
from pack.kernels._triton import joint_linear_attention as launchers
from pack.kernels._triton import joint_linear_attention_kernels as kernels

NAMES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
COUNTS = ("n", "heads", "tiles", "chunk", "splits", "blocks", "frames", "height", "width")
KERNELS = {  # tensors in the storage type; the rest of the pointers are float32
    "state": (kernels._state_kernel, ("x", "y"), ()),
    "output": (kernels._output_kernel, ("q", "out"), ()),
    "queries": (kernels._gradient_kernel, ("x", "y", "dx", "dy"), ("x", "y", "dx")),
    "keys": (kernels._gradient_kernel, ("x", "y", "dx", "dy"), ("x", "y", "dx")),
}
NUMBERS = ("factor", "eps")


def compiled(name, arch, dtype, dh=112, *, full=True):
    """One kernel as the launcher starts it for a long sequence; full: with rotation, norms and row weights."""
    kernel, stored, strided = KERNELS[name]
    table = launchers.launch_options(arch, dh, 75_600, dtype)
    options = dict(table[name if name in table else "gradient"])
    strides = [f"{tensor}_{axis}" for tensor in strided or stored for axis in ("batch", "token", "head")]
    launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
    low = dtype == torch.float16
    forms = {"QUERY": name == "queries", "VALUES": name == "keys" and not (low and dh > 32)}
    constants = {
        **launchers.constants_of(dh, dtype, scaled=full, rotated=full), **options, "LOW_Y": low, "WEIGHTED": full,
        "LOW_STATE": low or name == "output", "CLAMP": low, "DIVIDE": True, **forms,
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = {key: "*fp32" for key in kernel.arg_names if key not in constants}
    types |= dict.fromkeys(stored, NAMES[dtype]) | ({"weight": NAMES[dtype]})
    types |= {key: "i32" for key in (*COUNTS, *strides)} | {key: "fp32" for key in NUMBERS if key in types}
    pointers = [key for key, value in types.items() if value.startswith("*")]
    return compile_ahead(
        kernel, arch, types=types, constants=constants, divisible=(*pointers, *strides), **launch
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, arch",
    [(name, arch) for arch in (86, 90) for name in KERNELS] + [("output", 120), ("keys", 120)],
)
def test_wide_rotated_heads_fit(name, arch):
    done = compiled(name, arch, torch.bfloat16)
    check_limits(done, has_dots=True)
    assert done.shared <= LIMITS[86].block_shared


@pytest.mark.parametrize("name", ["state", "output"])
def test_narrow_plain_heads_fit_twice(name):
    check_limits(compiled(name, 100, torch.bfloat16, 32, full=False), has_dots=True, least_warps=16)


def test_float16_fits():
    check_limits(compiled("queries", 89, torch.float16), has_dots=True)


def test_float32_fits_without_tensor_cores():
    done = compiled("keys", 80, torch.float32)
    check_limits(done, has_dots=False)
    assert done.mma == 0, "float32 products would lose digits in tensor cores"
