"""The helpers of the kernel tests catch what they are there for: tried on toy kernels."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_checks import addresses_checked, assert_as_good_as_torch, counted_bytes, poisoned, relative_error, strided


@triton.jit
def _copy_kernel(x, out, n, stride, SKIP: tl.constexpr, PAST: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at.to(tl.int64) * stride, mask=at < n + PAST, other=0.0)
    tl.store(out + at, value, mask=at < n - SKIP)


@triton.jit
def _row_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    repeated = tl.load(x + (at[:, None] * 0 + at[None, :] * 0))
    tl.store(out + at, tl.sum(repeated, axis=1))


def copy(x, skip=0, past=0):
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _copy_kernel[(triton.cdiv(x.numel(), 32),)](x, out, x.numel(), x.stride(0), skip, past, 32)
    return out


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.float16, 2), (torch.bfloat16, 2)])
def test_bytes_of_a_copy_are_counted_exactly(dtype, size):
    with counted_bytes() as counted:
        copy(torch.ones(100, dtype=dtype))
    assert (counted.loaded, counted.stored, counted.launches, counted.programs) == (100 * size, 100 * size, 1, 4)
    assert counted.total == 200 * size


def test_an_address_repeated_inside_one_tile_counts_once():
    with counted_bytes() as counted:
        _row_kernel[(1,)](torch.ones(1), torch.empty(16), 16)
    assert (counted.loaded, counted.stored) == (4, 64)


def test_nothing_is_counted_outside_the_block():
    with counted_bytes() as counted:
        pass
    copy(torch.ones(10))
    assert counted.total == counted.launches == 0


def test_a_skipped_lane_shows_as_nan():
    x = torch.randn(100)
    with poisoned():
        whole, short = copy(x), copy(x, skip=1)
    assert torch.equal(whole, x) and short[-1].isnan()
    with pytest.raises(AssertionError, match="1 of 100 values are not finite"):
        assert_as_good_as_torch(short, x, x.double())


def test_every_allocator_is_poisoned_and_released_again():
    x = torch.ones(2, 3)
    makers = (
        lambda: torch.empty(4), lambda: torch.empty_like(x), lambda: x.new_empty(5), lambda: x.new_empty((2, 2)),
        lambda: torch.empty_strided((2, 2), (2, 1)), lambda: torch.empty(3, dtype=torch.bfloat16),
    )  # fmt: skip
    with poisoned():
        assert all(make().isnan().all() for make in makers)
        assert torch.empty(3, dtype=torch.int32).eq(2**31 - 1).all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4, 6), (1, 1), (0, 4)])
def test_strided_keeps_values_and_has_odd_strides_and_nan_gaps(shape):
    x = torch.randn(shape)
    view = strided(x)
    assert torch.equal(view, x) and view.stride(-1) == 1 and not view.requires_grad
    assert len(shape) < 2 or (view.stride(-2) // 2) % 2 == 1
    assert torch.as_strided(view, (1,), (1,), 0).isnan().all()


def test_a_lane_outside_its_tensors_is_caught():
    x = torch.randn(100)
    copy(x[:62].clone())
    with pytest.raises(Exception, match="2 lanes of a load lie outside every tensor"), addresses_checked():
        copy(x[:62].clone(), past=2)


def test_error_twice_as_large_as_that_of_torch_is_refused():
    truth = torch.randn(1000, dtype=torch.float64)
    plain = truth.to(torch.bfloat16)
    assert_as_good_as_torch(plain, plain, truth)
    worse = (truth + 3 * relative_error(plain, truth) * truth).to(torch.bfloat16)
    with pytest.raises(AssertionError, match="allowed"):
        assert_as_good_as_torch(worse, plain, truth)
    with pytest.raises(AssertionError, match="float32 instead of"):
        assert_as_good_as_torch(plain.float(), plain, truth)
