"""Measure the most memory that one call of each network takes, and compare it with the estimate the nodes use.

With a CUDA device by the allocator's own peak; without one by counting live bytes on the meta device, where nothing is
computed. The constants of motion/models/step_memory.py and of the architectures' rows are read off this table.

    python tools/memory_factors.py
"""

import argparse
import sys
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from builtin_common import save  # noqa: E402  (mounts the pack)
from kernels_ledger import softmax_operator  # noqa: E402
from ledger_common import Ledger  # noqa: E402
from pack.motion.models.architectures import ARCHITECTURES  # noqa: E402
from pack.motion.models.conditions import Conditions  # noqa: E402
from pack.motion.models.linear_video.attentions import torch_attention  # noqa: E402
from pack.motion.models.linear_video.config import LinearVideoDiTConfig  # noqa: E402
from pack.motion.models.sana_video.config import SanaVideoConfig  # noqa: E402

TEXT, LAYERS = 300, 2  # layers do not add to the peak: what one block holds is dropped before the next
NETWORKS = {  # config, latent sizes (t, h, w): a clip as shipped workflows make it, a large and a single-frame one
    "SANA-Video 480p": (SanaVideoConfig(num_layers=LAYERS), ((21, 60, 104), (41, 90, 160), (1, 60, 104))),
    "SANA-Video 720p": (SanaVideoConfig(in_channels=128, patch_size=1, num_layers=LAYERS),
                        ((11, 22, 40), (21, 34, 60), (1, 22, 40))),
    "SANA 0.6B": (LinearVideoDiTConfig(num_layers=LAYERS), ((16, 16, 16), (64, 32, 32), (1, 32, 32))),
    "SANA 1.6B": (LinearVideoDiTConfig(num_layers=LAYERS, num_attention_heads=70, num_cross_attention_heads=20),
                  ((16, 16, 16), (64, 32, 32), (1, 32, 32))),
    "SANA-1.5 1.6B": (LinearVideoDiTConfig(num_layers=LAYERS, num_attention_heads=70, num_cross_attention_heads=20,
                                           qk_norm=True), ((16, 16, 16), (64, 32, 32), (1, 32, 32))),
}  # fmt: skip
DTYPES = (torch.bfloat16, torch.float32)
BACKENDS = ("triton", "torch")
RUNS = 3  # of the counting, whose largest is taken


def network(config, kernels: str, dtype: torch.dtype, device: str) -> torch.nn.Module:
    kind = ARCHITECTURES.of(config).network()
    attention = softmax_operator()[1] if device == "meta" else torch_attention
    return kind(config, kernels=kernels, attention=attention, dtype=dtype, device=device).eval()


def peak_bytes(config, size: tuple[int, int, int], kernels: str, dtype: torch.dtype, device: str) -> int:
    """The most that lives at once during one call beside weights and inputs; size: (t, h, w) of the latents."""
    model = network(config, kernels, dtype, device)
    latents = torch.empty(1, config.in_channels, *size, dtype=dtype, device=device)
    text = torch.empty(1, TEXT, config.caption_channels, dtype=dtype, device=device)
    timestep = torch.zeros(1, device=device)
    with torch.no_grad():
        if device == "meta":
            return max(counted_peak(lambda: model(latents, timestep, Conditions(text))) for _ in range(RUNS))
        model(latents, timestep, Conditions(text))  # compiles kernels, makes workspaces
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(latents, timestep, Conditions(text))
        return torch.cuda.max_memory_allocated() - before


def counted_peak(call) -> int:
    """Live bytes at the widest moment; too few where a new tensor lies at the address of a weight that was seen."""
    ledger = Ledger(defaultdict(lambda: lambda *arguments: 0))
    with mock.patch("torch.autocast", lambda *_, **__: nullcontext()), ledger:  # unknown to the meta device
        call()
    return ledger.peak


def rows_of(name: str, device: str) -> list[dict]:
    """Measured and estimated bytes of one network on both backends and in all number types."""
    config, sizes = NETWORKS[name]
    memory, rows = ARCHITECTURES.of(config).memory, []
    for kernels in BACKENDS:
        for dtype in DTYPES:
            for size in sizes:
                measured = peak_bytes(config, size, kernels, dtype, device)
                shape = (1, config.in_channels, *size)
                estimate = memory.step_bytes(config, shape, itemsize=dtype.itemsize, kernels=kernels)
                rows.append({"network": name, "kernels": kernels, "dtype": str(dtype).removeprefix("torch."),
                             "latent": list(size), "MiB": measured / 2**20, "estimate MiB": estimate / 2**20,
                             "estimate / measured": estimate / measured})  # fmt: skip
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    device = "cuda" if torch.cuda.is_available() else "meta"
    rows = [row for name in NETWORKS for row in rows_of(name, device)]
    print(f"{'network':16} {'backend':7} {'numbers':9} {'latent t h w':14} {'MiB':>8} {'estimate':>9} {'ratio':>6}")
    for row in rows:
        print(f"{row['network']:16} {row['kernels']:7} {row['dtype']:9} {'x'.join(map(str, row['latent'])):14} "
              f"{row['MiB']:8.0f} {row['estimate MiB']:9.0f} {row['estimate / measured']:6.2f}")  # fmt: skip
    ratios = [row["estimate / measured"] for row in rows]
    figures = {"measured": "by CUDA's allocator" if device == "cuda" else "live bytes on the meta device; no card here",
               "estimate / measured": f"{min(ratios):.2f} to {max(ratios):.2f}"}  # fmt: skip
    for name, (config, sizes) in NETWORKS.items():
        clip = [row for row in rows if (row["network"], row["latent"], row["dtype"]) == (name, [*sizes[0]], "bfloat16")]
        told = [f"{next(row for row in clip if row['kernels'] == backend)['MiB'] / 1024:.2f}" for backend in BACKENDS]
        figures[f"GiB of one call, {name}, latent {'x'.join(map(str, sizes[0]))}, bfloat16: Triton, torch"] = (
            ", ".join(told)
        )
        factors = [f"{ARCHITECTURES.of(config).memory.factor(config, kernels):.3f}" for kernels in BACKENDS]
        figures[f"memory factor, {name}: Triton, torch"] = ", ".join(factors)
    save("memory_factors", figures, rows)


if __name__ == "__main__":
    main()
