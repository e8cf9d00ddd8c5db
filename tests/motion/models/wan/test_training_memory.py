"""Bytes of a training step of true shape, counted on the meta device: goals, estimate, what blocks_on_cpu saves."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pack.motion.models.wan.architecture import WAN
from pack.motion.models.wan.config import PUBLISHED

BENCHMARKS = str(Path(__file__).resolve().parents[4] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    from wan_memory_common import Step, base_of, step_ledger
finally:
    sys.path.remove(BENCHMARKS)

pytestmark = pytest.mark.slow
GB = 10**9
SHAPE = (1, 16, 5, 60, 104)  # 17 frames of 832x480 px


@pytest.mark.parametrize(
    "step, goal", [(Step("T2V 1.3B"), 10.4), (Step("T2V 14B", "fp8", blocks_on_cpu=20), 24.0)],
    ids=["1.3B", "14B fp8"],
)  # fmt: skip
def test_a_step_on_17_frames_fits_the_cards_it_is_meant_for(step, goal):
    ledger = step_ledger(step)
    assert 1.2 * ledger.held < ledger.peak <= goal * GB


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("title", ["T2V 1.3B", "T2V 14B", "I2V 14B"])
def test_a_step_takes_what_is_estimated_within_a_tenth(title, checkpointing):
    for layers in (2, 4):
        ledger = step_ledger(Step(title, layers=layers, checkpointing=checkpointing))
        config = replace(PUBLISHED[title], num_layers=layers)
        estimate = WAN.memory.training_bytes(config, SHAPE, checkpointing=checkpointing)
        assert 0.9 <= estimate / (ledger.peak - ledger.held) <= 1.1


@pytest.mark.parametrize("base", ["bf16", "fp8"])
def test_blocks_on_the_cpu_take_the_place_of_one_and_no_wide_copy_of_a_base_is_made(base):
    own = sum(value.nbytes for value in base_of(Step("T2V 14B", base, layers=1)).blocks[0].parameters())
    none, some, every = (step_ledger(Step("T2V 14B", base, layers=4, blocks_on_cpu=count)) for count in (0, 2, 4))
    assert none.held - some.held == pytest.approx(2 * own, rel=1e-3)
    assert none.held - every.held == pytest.approx(4 * own, rel=1e-3)
    assert 0 < (every.peak - every.held) - (none.peak - none.held) <= 1.05 * own  # one block at a time
    widest = max(size for name, size in every.at_peak if name not in ("given", "base"))
    assert widest <= 13824 * 5120 * 4  # of a weight that is being dequantised, in float32
