"""Temporal 1 + cos attention, compiled for every card: no spills, wide loads, tensor cores, shared memory that fits."""

import pytest
import triton.language as tl
from ahead_of_time import ARCHS, check_limits, compile_ahead
from pack.kernels._triton import temporal_cosine_attention as short
from pack.kernels._triton import temporal_cosine_attention_long as long
from pack.kernels._triton.temporal_cosine_attention_plan import BACKWARD, FORWARD, launch_options

TYPES = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}
FLOAT32 = ("cos", "sin", "inverses", "alongs")
STORED = ("q", "k", "v", "grad", "out", "dq", "dk", "dv")
ROWS = [(table is BACKWARD, arch or 86, dims, frames) for table in (FORWARD, BACKWARD) for arch, dims, frames in table]


def compiled(arch, dims, frames, dtype="bf16", backward=False):
    """Every kernel of one row of the table, compiled as its launcher would ask for it."""
    options = launch_options(arch, dims, frames, backward=backward, wide=dtype == "fp32")
    tile, heads, num_warps, num_stages = options.values()
    if frames:
        kernels = [short._quadratic_bwd_kernel if backward else short._quadratic_fwd_kernel]
    else:
        kernels = [long._linear_bwd_q_kernel, long._linear_bwd_kv_kernel] if backward else [long._linear_fwd_kernel]
    constants = {"T": tile, "CHUNK": tile, "D": dims, "HB": heads, "DOT": TYPES[dtype], "CLAMP": dtype == "fp16",
                 "BALANCED": dtype == "fp16"}  # fmt: skip
    for kernel in kernels:
        types = {name: f"*{dtype}" if name in STORED else "*fp32" if name in FLOAT32 else "i32"
                 for name in kernel.arg_names if name not in constants}  # fmt: skip
        divisible = [name for name, type_ in types.items() if type_[0] == "*" or "stride" in name or name == "dh"]
        used = {name: value for name, value in constants.items() if name in kernel.arg_names}
        yield compile_ahead(kernel, arch, types=types, constants=used, num_warps=num_warps, num_stages=num_stages,
                            divisible=divisible)  # fmt: skip


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("arch", ARCHS)
def test_sixteen_frames_of_the_models_heads_fit_every_card(arch, backward):
    for kernel in compiled(arch, 32, 16, backward=backward):
        check_limits(kernel, has_dots=True)
        assert kernel.wide_stores


@pytest.mark.parametrize("backward, arch, dims, frames", ROWS)
def test_every_row_of_the_table_fits_its_card_or_the_smallest(backward, arch, dims, frames):
    for kernel in compiled(arch, dims, frames, backward=backward):
        check_limits(kernel, has_dots=True)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("frames", [16, 0])
def test_other_types_fit(frames, backward, dtype):
    for kernel in compiled(90, 32, frames, dtype, backward):
        check_limits(kernel, has_dots=dtype == "fp16")
