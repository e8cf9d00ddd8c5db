"""The estimate of a call's memory against live bytes counted on the meta device, and its properties."""

import sys
from pathlib import Path

import pytest
import torch
from pack.motion.models.architectures import ARCHITECTURES
from pack.motion.models.linear_video.config import LinearVideoDiTConfig
from pack.motion.models.sana_video.config import SanaVideoConfig
from pack.motion.models.step_memory import HOST_UNIT

TOOLS = str(Path(__file__).resolve().parents[3] / "tools")
BENCHMARKS = str(Path(__file__).resolve().parents[3] / "benchmarks")
sys.path.append(TOOLS)
try:
    import memory_factors
    from memory_factors import NETWORKS, peak_bytes
finally:
    sys.path.remove(TOOLS)
    sys.path[:] = [entry for entry in sys.path if entry != BENCHMARKS]

CLIP = (1, 16, 21, 60, 104)  # 81 frames of 832x480 px through the Wan 2.1 VAE


@pytest.fixture(autouse=True)
def counted_once(monkeypatch):
    """Seconds matter here; one count may miss a tensor, which only moves the upper bound."""
    monkeypatch.setattr(memory_factors, "RUNS", 1)


def step_bytes(config, shape, **more):
    return ARCHITECTURES.of(config).memory.step_bytes(config, shape, **more)


def memory_factor(config, kernels):
    return ARCHITECTURES.of(config).memory.factor(config, kernels)


def compared(name, size, kernels, dtype, **more):
    config = NETWORKS[name][0]
    shape = (1, config.in_channels, *size)
    estimate = step_bytes(config, shape, itemsize=dtype.itemsize, kernels=kernels, **more)
    return estimate / peak_bytes(config, size, kernels, dtype, "meta")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(
    "name, size", [("SANA-Video 480p", (21, 60, 104)), ("SANA 0.6B", (64, 32, 32)),
                   ("SANA-1.5 1.6B", (64, 32, 32))],
)  # fmt: skip
def test_a_clip_takes_what_is_estimated_within_a_quarter(name, size, kernels, dtype):
    assert 1.0 <= compared(name, size, kernels, dtype) <= 1.25


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("name, size", [("SANA-Video 480p", (21, 60, 104)), ("SANA-1.5 1.6B", (64, 32, 32))])
def test_norms_in_one_operation_take_less_by_what_is_estimated(monkeypatch, name, size, kernels, dtype):
    monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda x, *_, **__: torch.empty_like(x))
    assert 1.0 <= compared(name, size, kernels, dtype, fused_norms=True) <= 1.25


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("name", ["SANA-Video 480p", "SANA 0.6B"])
def test_a_single_frame_takes_no_more_than_is_estimated(name, kernels):
    assert 0.99 <= compared(name, (1, 60, 104), kernels, torch.bfloat16) <= 1.4


def test_estimate_grows_with_every_size_and_is_nothing_for_nothing():
    config = SanaVideoConfig()
    sizes = [(1, 16, 5, 60, 104), (1, 16, 21, 60, 104), (2, 16, 21, 60, 104), (2, 16, 21, 90, 160)]
    estimates = [step_bytes(config, shape) for shape in sizes]
    assert estimates == sorted(estimates) and len(set(estimates)) == 4
    assert step_bytes(config, (1, 16, 0, 60, 104)) == 0


def test_float32_takes_more_than_bfloat16_and_torch_no_less_than_triton():
    for config in (SanaVideoConfig(), LinearVideoDiTConfig(in_channels=16, patch_size=2)):
        half, full = (step_bytes(config, CLIP, itemsize=size, kernels="triton") for size in (2, 4))
        assert full > half and step_bytes(config, CLIP, kernels="torch") >= half


def test_factor_is_the_estimate_of_a_large_clip_in_the_hosts_unit():
    for config in (SanaVideoConfig(), LinearVideoDiTConfig()):
        shape = (1, config.in_channels, 64, 64, 64)
        cells = 64**3 * 2 * HOST_UNIT
        for kernels in ("torch", "triton"):
            assert abs(memory_factor(config, kernels) * cells / step_bytes(config, shape, kernels=kernels) - 1) < 0.01


def test_heads_of_the_built_in_model_are_counted():
    plain = LinearVideoDiTConfig(in_channels=200, num_attention_heads=4, num_cross_attention_heads=4, prediction="x0")
    flow = LinearVideoDiTConfig(**{**plain.to_dict(), "flow_channels": 8, "patch_size": 2})
    assert step_bytes(flow, (1, 200, 16, 48, 48), itemsize=4) > 12 * 16 * 48 * 48 * 200 * 4 > 0
