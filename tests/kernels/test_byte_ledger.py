"""What one block moves through memory, by ledger on the meta device: bytes that are no GEMM's, launches, peak.

The unit c is one pass over one activation tensor: tokens x width x 2 bytes.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from byte_ledger import Ledger, meta_ledger, stored_bytes

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


eager = load(ROOT / "benchmarks" / "kernels_common.py")


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_an_addition_reads_two_tensors_and_writes_one():
    x, y = meta(10, 20), meta(10, 20)
    ledger = meta_ledger(lambda: x + y)
    assert (ledger.bytes, ledger.launches, ledger.peak) == (3 * 400, 1, 400)


def test_expanded_rows_views_and_repeated_arguments_are_not_paid_twice():
    x, row = meta(10, 20), meta(20)
    assert stored_bytes(row.expand(10, 20)) == 40
    assert meta_ledger(lambda: x * row).bytes == 400 + 400 + 40
    assert meta_ledger(lambda: x * x).bytes == 800
    ledger = meta_ledger(lambda: x.transpose(0, 1).reshape(4, 50)[1:].flatten())
    assert (ledger.bytes, ledger.launches) == (800, 1), "one copy, made by reshape"
    ledger = meta_ledger(lambda: x.view(20, 10).unflatten(0, (2, 10))[1].chunk(2))
    assert (ledger.bytes, ledger.launches) == (0, 0)


def test_gemms_and_pointwise_convolutions_are_launches_without_bytes():
    x, weight = meta(10, 20), meta(30, 20)
    image, point, depth = meta(2, 20, 6, 6), meta(30, 20, 1, 1), meta(20, 1, 3, 3)
    for call in (
        lambda: torch.nn.functional.linear(x, weight), lambda: torch.nn.functional.linear(x, weight, meta(30)),
        lambda: torch.nn.functional.conv2d(image, point),
    ):  # fmt: skip
        ledger = meta_ledger(call)
        assert (ledger.bytes, ledger.launches) == (0, 1)
    ledger = meta_ledger(lambda: torch.nn.functional.conv2d(image, depth, padding=1, groups=20))
    assert ledger.bytes == 2 * 2880 + 360


def test_a_product_in_place_reads_what_it_writes_and_a_copy_does_not():
    x, y = meta(10, 20), meta(10, 20)
    assert meta_ledger(lambda: x.mul_(y)).bytes == 1200
    assert meta_ledger(lambda: x.copy_(y)).bytes == 800


def test_peak_falls_when_a_tensor_dies_and_counts_what_is_held():
    x = meta(10, 20)

    def call():
        first = x + 1
        second = first + 1
        del first
        return second + 1

    ledger = meta_ledger(call, x)
    assert ledger.peak == 3 * 400 and ledger.live <= 2 * 400


def test_an_undeclared_operator_of_the_pack_is_refused():
    from pack.kernels.gate_norm_modulate import gate_norm_modulate_operator  # noqa: F401

    x = meta(1, 2, 4, 32)
    with pytest.raises(KeyError), torch.no_grad(), Ledger():
        torch.ops.motionblocks.gate_norm_modulate(x, x, *[None] * 6, None, 1e-6)
