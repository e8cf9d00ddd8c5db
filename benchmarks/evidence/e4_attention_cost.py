"""E4: linear against softmax attention as tokens grow: time, peak memory, where they cross. CPU only. Writes JSON.

Spatial: our ReLU linear attention against torch's scaled_dot_product_attention, as torch picks it (tiled on a CPU: it
keeps no n x n matrix) and in its plain form (it does). Temporal: the two equal forms of our 1 + cos attention. Times
are processor times, taken in turns in one run, so that other work matters little; memory is measured in a fresh
process a form.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from evidence_common import finish, spread
from pack.kernels.spatial_linear_attention import spatial_linear_attention
from pack.kernels.temporal_cosine_attention import temporal_cosine_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, HEAD_DIM = 4, 32
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PLAIN_LIMIT = 4096  # the plain form keeps HEADS x n x n floats, several times
FRAMES = (4, 8, 16, 24, 33, 48, 64, 96, 128)
SITES = 256
SEEDS = (0, 1, 2)


def softmax(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def softmax_plain(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return softmax(q, k, v)


SPATIAL = {"linear": spatial_linear_attention, "softmax": softmax, "softmax, plain": softmax_plain}
TEMPORAL = {form: lambda q, k, v, form=form: temporal_cosine_attention(q, k, v, algorithm=form)
            for form in ("linear", "direct")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=2, metavar=("FORM", "TOKENS"), help="used by the script itself")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_bytes(arguments.peak[0], int(arguments.peak[1])))
        return
    rows = [row for n in TOKENS for row in spatial_rows(n, arguments.repeats)]
    rows += [row for f in FRAMES for row in temporal_rows(f, arguments.repeats)]
    rows += [{"what": "memory", "form": form, "n": n, "peak_mib": measure_peak(form, n)}
             for n in TOKENS for form in SPATIAL if runs(form, n)]
    finish("e4_attention_cost", figures(rows), rows)


def runs(form: str, n: int) -> bool:
    return form != "softmax, plain" or n <= PLAIN_LIMIT


def make(b: int, n: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, n, HEADS, HEAD_DIM, generator=generator) for _ in range(3)]


def sites(f: int, seed: int) -> list[torch.Tensor]:
    """Inputs (1, f, SITES, HEADS, HEAD_DIM): what the projections of a block give."""
    return [x.unflatten(1, (f, SITES)) for x in make(1, f * SITES, seed)]


@torch.no_grad()
def time_forms(forms: dict, inputs: list[torch.Tensor], repeats: int) -> dict[str, float]:
    """Median processor seconds a call of each form, in turns; short calls are repeated to last about 20 ms."""
    times = {name: [] for name in forms}
    counts = {}
    for turn in range(repeats + 1):
        for name, call in forms.items():
            started = time.process_time()
            for _ in range(counts.get(name, 1)):
                call(*inputs)
            seconds = (time.process_time() - started) / counts.get(name, 1)
            if turn:
                times[name].append(seconds)
            else:
                counts[name] = max(1, round(0.02 / max(seconds, 1e-5)))
    return {name: statistics.median(values) for name, values in times.items()}


def spatial_rows(n: int, repeats: int) -> list[dict]:
    forms = {name: call for name, call in SPATIAL.items() if runs(name, n)}
    return [{"what": "spatial", "seed": seed, "n": n, "form": form, "seconds": seconds} for seed in SEEDS
            for form, seconds in time_forms(forms, make(1, n, seed), repeats).items()]


def temporal_rows(f: int, repeats: int) -> list[dict]:
    return [{"what": "temporal", "seed": seed, "n": f, "form": form, "seconds": seconds} for seed in SEEDS
            for form, seconds in time_forms(TEMPORAL, sites(f, seed), repeats).items()]


def measure_peak(form: str, n: int) -> float:
    """MiB a call adds to what a fresh process holds before it."""
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), "--peak", form, str(n)],
                          capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**20


@torch.no_grad()
def peak_bytes(form: str, n: int) -> int:
    """Highest resident size during one call minus the size before it (Linux)."""
    inputs = make(1, n, 0)
    SPATIAL[form](*make(1, 16, 0))  # whatever the first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    SPATIAL[form](*inputs)
    return max(0, status("VmHWM") - before)


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def figures(rows: list[dict]) -> dict:
    return {
        "shape": f"1 x n x {HEADS} heads x {HEAD_DIM}, float32, forward",
        "Spatial attention (processor time, ± spread of the inputs' seeds)": [spatial_line(rows, n) for n in TOKENS],
        "tokens from which linear is faster than softmax": crossing(rows, "spatial", "softmax"),
        "tokens from which linear is faster than plain softmax": crossing(rows, "spatial", "softmax, plain"),
        "tokens where the multiply-adds are equal": HEAD_DIM + 1,
        f"Temporal attention, {SITES} sites (as above)": [temporal_line(rows, f) for f in FRAMES],
        "frames from which the linear form is faster than the direct one": crossing(rows, "temporal", "direct"),
        "frames where their multiply-adds are equal": HEAD_DIM + 1,
        "GPU": "not measured",
    }


def crossing(rows: list[dict], what: str, slow: str) -> str:
    found = [break_even(rows, what, slow, "linear", seed) for seed in SEEDS]
    least = min(row["n"] for row in rows if row["what"] == what)
    return f"at all sizes measured, from {least}" if set(found) == {float(least)} else spread(found, 0)


def seconds(rows, what, form, n) -> list[float]:
    return [row["seconds"] for row in rows if (row["what"], row.get("form"), row["n"]) == (what, form, n)]


def ratio(rows, what, slow, fast, n) -> str:
    return spread([a / b for a, b in zip(seconds(rows, what, slow, n), seconds(rows, what, fast, n))], 2)


def spatial_line(rows, n: int) -> dict:
    peaks = {row["form"]: row["peak_mib"] for row in rows if row["what"] == "memory" and row["n"] == n}
    line = {"tokens": n, "linear, ms": spread([1e3 * s for s in seconds(rows, "spatial", "linear", n)])}
    for form in ("softmax", "softmax, plain"):
        line[f"{form}, times linear"] = ratio(rows, "spatial", form, "linear", n) if runs(form, n) else "-"
    line["multiply-adds, times linear"] = round(n / (HEAD_DIM + 1), 1)
    for form in SPATIAL:
        line[f"{form}, peak MiB"] = f"{peaks[form]:.1f}" if form in peaks else "-"
    return line


def temporal_line(rows, f: int) -> dict:
    return {"frames": f, "linear, ms": spread([1e3 * s for s in seconds(rows, "temporal", "linear", f)]),
            "direct, times linear": ratio(rows, "temporal", "direct", "linear", f),
            "multiply-adds, times linear": round(f / (HEAD_DIM + 1), 2)}


def break_even(rows: list[dict], what: str, slow: str, fast: str, seed: int) -> float | None:
    """Where slow/fast passes 1 for good, on straight lines between the measured sizes in log-log; None if never."""
    mine = {(row["form"], row["n"]): row["seconds"] for row in rows if row["what"] == what and row["seed"] == seed}
    sizes = sorted(n for form, n in mine if form == slow)
    logs = [(math.log(n), math.log(mine[slow, n] / mine[fast, n])) for n in sizes]
    below = [at for at, (_, value) in enumerate(logs) if value <= 0]
    if not below:
        return float(sizes[0])
    if below[-1] == len(logs) - 1:
        return None
    (x0, y0), (x1, y1) = logs[below[-1]], logs[below[-1] + 1]
    return math.exp(x0 - y0 * (x1 - x0) / (y1 - y0))


if __name__ == "__main__":
    main()
