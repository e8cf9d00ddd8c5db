"""Our Wan in numbers: sizes, differences to the hosts' class and to diffusers', operators, memory of a training step.

What needs a host runs in the host's own Python (wan_in_host_common.py); sizes and memory are counted on the meta
device, where nothing is computed.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import torch
from builtin_common import ROOT, save, verdict
from wan_memory_common import Step, step_ledger

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from pack.motion.models.wan.config import PUBLISHED  # noqa: E402
from pack.motion.models.wan.network import WanDiT  # noqa: E402
from real_hosts import MISSING, find_hosts, host_python  # noqa: E402
from tiny_wan import VARIANTS, apart  # noqa: E402

SIZES = {
    "T2V 1.3B": 1_418_996_800, "Fun-InP 1.3B": 1_564_428_608, "T2V 14B": 14_288_491_584, "I2V 14B": 16_394_878_784,
    "A14B I2V": 14_288_901_184,
}  # fmt: skip
GOALS = {("T2V 1.3B", "bf16"): 10.4, ("T2V 14B", "fp8"): 24.0}  # GB, for 17 frames with checkpointing
STEPS = (
    Step("T2V 1.3B"), Step("T2V 1.3B", checkpointing=False), Step("T2V 1.3B", "fp8"), Step("T2V 1.3B", frames=81),
    Step("T2V 14B", blocks_on_cpu=20), Step("T2V 14B", blocks_on_cpu=40),
    Step("T2V 14B", "fp8"), Step("T2V 14B", "fp8", checkpointing=False), Step("T2V 14B", "fp8", blocks_on_cpu=20),
    Step("T2V 14B", "fp8", blocks_on_cpu=40), Step("T2V 14B", "fp8", frames=81, blocks_on_cpu=20),
    Step("T2V 14B", "fp8", frames=81, blocks_on_cpu=40), Step("I2V 14B", "fp8", blocks_on_cpu=20),
)  # fmt: skip


def sizes() -> dict[str, str]:
    """Parameters of every published size."""
    figures = {}
    for title, need in SIZES.items():
        count = sum(value.numel() for value in WanDiT(PUBLISHED[title], device="meta").parameters())
        figures[f"parameters, {title}"] = f"{count:,} (need {need:,}: {'yes' if count == need else 'NO'})"
    return figures


@torch.no_grad()
def diffusers_figures() -> dict[str, str]:
    """The largest difference to diffusers over all variants."""
    try:
        import diffusers
        from diffusers_wan import velocities
    except ModuleNotFoundError:
        sys.exit("diffusers is not installed; it is what this compares with")
    most = max(apart(*both) for name in VARIANTS for both in velocities(name))
    return {f"velocity, largest difference to diffusers {diffusers.__version__}": verdict(most, high=1e-4)}


def in_host(host: Path) -> dict:
    """What wan_in_host_common.py measures inside a host."""
    script = ROOT / "benchmarks" / "wan_in_host_common.py"
    done = subprocess.run([host_python(host), str(script), str(host)], capture_output=True, text=True, cwd=host)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"{host.name} measured nothing:\n{done.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("RESULT"))


def host_figures(host: str, found: dict) -> dict[str, str]:
    """The figures of one host, ours over its own where they are ratios."""
    figures = {
        f"{host}: velocity, largest difference": verdict(found["forward"], high=5e-6),
        f"{host}: gradients of a LoRA, largest difference": verdict(found["lora"], high=1e-4),
        f"{host}: bfloat16, our error over its own, least of the variants": f"{min(found['bf16']):.2f}",
        f"{host}: bfloat16, our error over its own, most": verdict(max(found["bf16"]), high=1.5),
        f"{host}: VAE, largest difference": verdict(found["vae"], high=1e-5),
        f"{host}: processor time of a call, ours over its own, median of 9 pairs": f"{found['times']['ratio']:.3f}",
    }
    for case, counts in found["torch's rope"].items():
        own = found["as it is"][case]["host"]
        operators, peak = (counts["ours"][what] / counts["host"][what] for what in ("operators", "peak"))
        figures[f"{host}: operators of a call, {case}, ours / its own"] = (
            f"{counts['ours']['operators']} / {counts['host']['operators']}, {verdict(operators, high=1.05)}"
        )
        if own["operators"] != counts["host"]["operators"]:
            figures[f"{host}: operators of a call, {case}, with its own operator for rotary places"] = own["operators"]
        figures[f"{host}: peak of a call, {case}, ours / its own, MiB"] = (
            f"{counts['ours']['peak'] / 2**20:.1f} / {own['peak'] / 2**20:.1f}, "
            f"{verdict(counts['ours']['peak'] / own['peak'], high=1.05)}"
        )
    return figures


def memory(step: Step) -> tuple[str, str, dict]:
    """Name and figure of one training step, and its row."""
    ledger = step_ledger(step)
    where = f", {step.blocks_on_cpu} of {step.config.num_layers} blocks on the CPU" if step.blocks_on_cpu else ""
    kept = "checkpointed" if step.checkpointing else "not checkpointed"
    name = f"training step, {step.title} {step.base}, {step.frames} frames of 832x480, {kept}{where}, GB"
    peak, base = ledger.peak / 1e9, sum(size for made, size in ledger.at_peak if made == "base") / 1e9
    goal = GOALS.get((step.title, step.base), math.inf) if step.frames == 17 and step.checkpointing else math.inf
    text = verdict(peak, high=goal) if goal < math.inf else f"{peak:.4g}"
    return name, f"{text}, of it the base {base:.2f}", {"step": name, "peak": ledger.peak, "held": ledger.held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    torch.set_num_threads(1)
    hosts = find_hosts()
    if not hosts:
        raise SystemExit(MISSING)
    figures, rows = sizes() | diffusers_figures(), []
    for host in hosts:
        found = in_host(host)
        figures |= host_figures(host.name, found)
        rows.append({"host": host.name, **found})
    for step in STEPS:
        name, figure, row = memory(step)
        figures[name] = figure
        rows.append(row)
    save("wan", figures, rows)


if __name__ == "__main__":
    main()
