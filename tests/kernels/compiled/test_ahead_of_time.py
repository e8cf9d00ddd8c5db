"""The compile gates catch what they are there for: tried on toy kernels, for a card that is not here."""

import dataclasses

import pytest
import triton
import triton.language as tl
from ahead_of_time import ARCHS, LIMITS, check_limits, compile_ahead


@triton.jit
def _copy_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n, other=0.0), mask=at < n)


@triton.jit
def _rows_kernel(x, out, stride, BLOCK: tl.constexpr):
    rows, columns = tl.arange(0, 16), tl.arange(0, BLOCK)
    tile = tl.load(x + rows[:, None] * stride + columns[None, :]).to(tl.float32)
    tl.store(out + rows, tl.sum(tile, axis=1))


@triton.jit
def _product_kernel(a, b, out, D: tl.constexpr, PRECISION: tl.constexpr):
    at = tl.arange(0, D)[:, None] * D + tl.arange(0, D)[None, :]
    product = tl.dot(tl.load(a + at), tl.load(b + at), input_precision=PRECISION)
    tl.store(out + at, product.to(out.dtype.element_ty))


@triton.jit
def _hoarding_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(out + at, value - tl.sum(value, axis=0))


COPY = {"types": {"x": "*bf16", "out": "*bf16", "n": "i32"}, "constants": {"BLOCK": 1024}}


def product(arch, dtype, precision, d=64, num_warps=4):
    return compile_ahead(_product_kernel, arch, types={"a": dtype, "b": dtype, "out": dtype},
                         constants={"D": d, "PRECISION": precision}, num_warps=num_warps)  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_a_copy_compiles_for_every_arch_with_wide_loads_and_no_tensor_cores(arch):
    compiled = compile_ahead(_copy_kernel, arch, divisible=("x", "out", "n"), **COPY)
    assert compiled.wide_loads >= 1 and compiled.wide_stores >= 1 and compiled.mma == compiled.spills == 0
    check_limits(compiled, has_dots=False)
    with pytest.raises(AssertionError, match="no tensor-core instructions"):
        check_limits(compiled, has_dots=True)


def test_pointers_that_may_be_odd_give_narrow_loads_and_are_caught():
    compiled = compile_ahead(_copy_kernel, 90, divisible=(), **COPY)
    assert compiled.narrow_loads >= 8 and compiled.wide_loads == compiled.async_loads == 0
    with pytest.raises(AssertionError, match="no 128-bit or asynchronous loads"):
        check_limits(compiled, has_dots=False)


def test_strides_count_as_divisible_unless_said_otherwise():
    given = {"types": {"x": "*bf16", "out": "*fp32", "stride": "i32"}, "constants": {"BLOCK": 64}}
    assert compile_ahead(_rows_kernel, 80, **given).wide_loads
    assert not compile_ahead(_rows_kernel, 80, divisible=("x", "out"), **given).wide_loads


@pytest.mark.parametrize("arch, dtype", [(80, "*bf16"), (90, "*fp16"), (100, "*bf16"), (120, "*fp16")])
def test_products_of_half_types_reach_the_tensor_cores(arch, dtype):
    assert product(arch, dtype, "ieee").mma > 0


def test_exact_float32_products_have_no_tensor_core_instruction():
    assert product(90, "*fp32", "ieee", d=32).mma == 0


def test_a_spilling_kernel_is_caught():
    compiled = compile_ahead(_hoarding_kernel, 80, types={"x": "*fp32", "out": "*fp32"}, constants={"BLOCK": 16_384},
                             num_warps=1)  # fmt: skip
    assert compiled.spills > 0
    with pytest.raises(AssertionError, match="spills"):
        check_limits(compiled, has_dots=False)


def test_too_much_shared_memory_and_too_few_warps_are_caught():
    good = compile_ahead(_copy_kernel, 89, divisible=("x", "out", "n"), **COPY)
    for arch in ARCHS:
        with pytest.raises(AssertionError, match="bytes of shared memory, .* fit"):
            check_limits(dataclasses.replace(good, arch=arch, shared=LIMITS[arch].block_shared + 1), has_dots=False)
    with pytest.raises(AssertionError, match="4 resident warps, 8 wanted"):
        check_limits(dataclasses.replace(good, shared=60_000), has_dots=False)


def test_forgotten_and_unknown_arguments_are_named():
    with pytest.raises(AssertionError, match=r"unknown \['m'\], missing \['n'\]"):
        compile_ahead(_copy_kernel, 80, types={"x": "*bf16", "out": "*bf16", "m": "i32"}, constants={"BLOCK": 64})


def test_one_session_compiles_a_kernel_once():
    first = compile_ahead(_copy_kernel, 90, divisible=("x", "out", "n"), **COPY)
    assert compile_ahead(_copy_kernel, 90, divisible=("n", "x", "out"), **COPY) is first
