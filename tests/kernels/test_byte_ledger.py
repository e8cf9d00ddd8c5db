"""What one block moves through memory, by ledger on the meta device: bytes that are no GEMM's, launches, peak.

The unit c is one pass over one activation tensor: tokens x width x 2 bytes.
"""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    from kernels_ledger import CONFIGS, block_ledger, eager_ledger
    from ledger_common import Ledger, meta_ledger, stored_bytes
finally:
    sys.path.remove(BENCHMARKS)

pytestmark = pytest.mark.slow
LARGE, SMALL = "480x768 f8p2", "512x512 f32p1"


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


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_block_of_plain_weights_moves_at_most_32_units(name):
    told = block_ledger(name)
    assert told["c"] <= 32
    assert told["by operator"]["gate_norm_modulate"] <= 14.1 and told["by operator"]["glu_depthwise"] <= 7.6
    assert set(told["by operator"]) == {
        "gate_norm_modulate", "spatial_linear_attention", "temporal_cosine_attention", "glu_depthwise",
        "softmax_attention"}, "nothing but the operators moves tokens"  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_what_programs_load_beyond_their_share_stays_below_a_tenth(name):
    told = block_ledger(name)
    assert told["c"] <= told["c declared"] <= 1.1 * told["c"]


def test_a_small_block_takes_at_most_twenty_launches():
    told = block_ledger(SMALL)
    assert told["launches"] <= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", [LARGE, "1024x1024 f8p2"])
def test_a_large_block_never_holds_much_more_than_five_tensors(name):
    assert block_ledger(name)["peak c"] <= 5.05


def test_a_patched_cross_attention_is_called_and_costs_one_unit_more():
    plain = block_ledger(SMALL)
    patched = block_ledger(SMALL, called=lambda block: [block.attn2.to_out[0]])
    assert plain["c"] < patched["c"] <= 33 and patched["launches"] <= 20


def test_layers_that_may_only_be_called_still_save_two_thirds_of_the_eager_traffic():
    told = block_ledger(SMALL, called=lambda block: list(block.modules()))
    assert told["c"] <= 60


def test_the_released_block_moves_two_hundred_units_in_a_hundred_launches():
    told = eager_ledger(LARGE)
    assert 200 <= told["c"] <= 230 and 100 <= told["launches"] <= 120
    assert told["c"] / block_ledger(LARGE)["c"] > 6
