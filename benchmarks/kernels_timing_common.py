"""How a call is timed beside its rivals: one process, interleaved, cold and hot, eager and replayed as a CUDA graph."""

import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def facts(device: torch.device, commit: str | None = None) -> dict:
    """Where and with what the numbers were made."""
    import triton

    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    on_card = device.type == "cuda"
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    card = {"card": torch.cuda.get_device_name(device), "cuda": torch.version.cuda,
            "capability": list(torch.cuda.get_device_capability(device))} if on_card else {"card": None}  # fmt: skip
    return {"commit": commit or git("rev-parse", "HEAD"), "changed_files": bool(git("status", "--porcelain", "-uno")),
            "measured_on_a_gpu": on_card, **versions, **card}  # fmt: skip


class Clock:
    """Times calls on one device. On a CPU it exists to prove that the script runs: its times mean nothing."""

    def __init__(self, device: torch.device, runs: int):
        self.device, self.runs, self.on_card = device, runs, device.type == "cuda"
        self.flush = None
        if self.on_card:
            cache = torch.cuda.get_device_properties(device).L2_cache_size
            self.flush = torch.empty(max(2 * cache, 2**26) // 4, dtype=torch.int32, device=device)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def once(self, call: Callable, cold: bool) -> Callable[[], float]:
        """Start a call; the result, asked after `wait`, gives its milliseconds."""
        if not self.on_card:
            started = time.perf_counter()
            call()
            spent = (time.perf_counter() - started) * 1e3
            return lambda: spent
        if cold:
            self.flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        return lambda: begin.elapsed_time(end)

    def interleaved(self, calls: dict[str, Callable], *, cold: bool, runs: int | None = None) -> dict[str, dict]:
        """A B A B … of all calls: median, 20th and 80th percentile in milliseconds, by name."""
        runs = runs or self.runs
        for call in calls.values() if self.on_card else ():
            call()
        self.wait()
        readers = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                readers[name].append(self.once(call, cold))
        self.wait()
        return {name: spread([reader() for reader in values]) for name, values in readers.items()}

    def graph(self, call: Callable) -> Callable:
        """The call's launches as one CUDA graph."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def first(self, call: Callable) -> tuple[object, float]:
        """Result and seconds of the first call, compiling included."""
        self.wait()
        started = time.perf_counter()
        result = call()
        self.wait()
        return result, time.perf_counter() - started

    def peak_bytes(self, call: Callable) -> int | None:
        """Memory a call needs beyond what was there, its result included."""
        if not self.on_card:
            return None
        gc.collect()
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        result = call()
        self.wait()
        del result
        return torch.cuda.max_memory_allocated(self.device) - before

    def launches(self, call: Callable) -> int | None:
        """Kernels of one call, by the profiler; None where it sees none."""
        if not self.on_card:
            return None
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            self.wait()
        kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return len(kernels) or None


def spread(values: list[float]) -> dict:
    """Median, 20th and 80th percentile."""
    ordered = sorted(values)
    pick = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {"ms": statistics.median(ordered), "p20_ms": pick(0.2), "p80_ms": pick(0.8), "runs": len(ordered)}


def card_rates(clock: Clock) -> dict:
    """Measured copy bandwidth (GB/s, read plus write) and bf16 matrix rate (TFLOP/s): the yardsticks of every row."""
    device = clock.device
    elements, m, k, n = (2**29, 46_080, 1152, 3456) if clock.on_card else (2**16, 64, 64, 64)
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    a, b = (torch.ones(shape, dtype=torch.bfloat16, device=device) for shape in ((m, k), (k, n)))
    big = torch.ones((8192, 8192) if clock.on_card else (64, 64), dtype=torch.bfloat16, device=device)
    calls = {"copy": lambda: target.copy_(source), "model gemm": lambda: a @ b, "large gemm": lambda: big @ big}
    took = clock.interleaved(calls, cold=False)
    side = big.shape[0]
    return {
        "copy_gb_s": 4 * elements / took["copy"]["ms"] / 1e6,
        "model_gemm_tflop_s": 2 * m * k * n / took["model gemm"]["ms"] / 1e9,
        "large_gemm_tflop_s": 2 * side**3 / took["large gemm"]["ms"] / 1e9,
    }


def poisoned(call: Callable) -> object:
    """Run a call while freshly allocated tensors are filled with NaN."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        return call()
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def relative_error(out: torch.Tensor, truth: torch.Tensor) -> float:
    """||out - truth|| / ||truth|| in float64."""
    out, truth = out.detach().double(), truth.double()
    return ((out - truth).norm() / truth.norm().clamp_min(1e-300)).item()
