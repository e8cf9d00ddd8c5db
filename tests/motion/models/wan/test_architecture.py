"""Wan as a row: its memory against bytes counted on the meta device, its spec, its targets."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.models.conditions import Conditions
from pack.motion.models.step_memory import HOST_UNIT
from pack.motion.models.wan.architecture import WAN
from pack.motion.models.wan.config import IMAGE_TOKENS, IMAGE_WIDTH, PUBLISHED, WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec

BENCHMARKS = str(Path(__file__).resolve().parents[4] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    from kernels_ledger import softmax_operator
    from ledger_common import Ledger
finally:
    sys.path.remove(BENCHMARKS)


def counted(config, size, dtype):
    """Bytes alive at the widest moment of one call."""
    library, attention = softmax_operator()
    model = WanDiT(config, attention=attention, dtype=dtype, device="meta")

    def empty(*shape):
        return torch.empty(shape, dtype=dtype, device="meta")

    told = {"concat_latents": empty(1, 20, *size)} if config.concat_channels else {}
    told |= {"image_tokens": empty(1, IMAGE_TOKENS, IMAGE_WIDTH)} if config.image_tokens else {}
    ledger = Ledger()
    with torch.no_grad(), ledger:
        model(empty(1, 16, *size), torch.zeros(1, device="meta"), Conditions(empty(1, 512, 4096), **told))
    return ledger.peak


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True], ids=["norms of many operations", "norms of one"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("title, narrow", [("T2V 1.3B", 1), ("T2V 14B", 1), ("I2V 14B", 1), ("I2V 14B", 8)])
def test_a_call_takes_what_is_estimated_within_a_tenth(monkeypatch, title, narrow, dtype, fused):
    config = replace(PUBLISHED[title], num_layers=2)  # blocks do not add up: each is done before the next
    config = replace(config, hidden_width=config.hidden_width // narrow)  # so that the attention is the widest moment
    if fused:
        monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda x, *_, **__: torch.empty_like(x))
    for size in ((21, 60, 104), (1, 60, 104)):
        estimate = WAN.memory.step_bytes(config, (1, 16, *size), itemsize=dtype.itemsize, fused_norms=fused)
        assert 1.0 <= estimate / counted(config, size, dtype) <= 1.1


def test_factor_is_the_estimate_of_a_large_clip_in_the_hosts_unit():
    for config in PUBLISHED.values():
        cells = 64 * 90 * 160
        expected = WAN.memory.step_bytes(config, (1, 16, 64, 90, 160)) / (cells * 2 * HOST_UNIT)
        assert WAN.memory.factor(config) == pytest.approx(expected, rel=0.01)
    assert WAN.memory.step_bytes(WanConfig(), (1, 16, 0, 60, 104)) == 0


def test_the_spec_has_the_space_of_its_vae_and_refuses_channels_of_none():
    assert WanSpec().space.kind == "wan21" and WanSpec().space.latent_frames(WAN.training.num_frames) == 5
    with pytest.raises(ConfigError, match="4 latent channels and patch 2: no VAE .* known are 16 channels and patch 2"):
        WanSpec(WanConfig(in_channels=4))
