"""Training beside the hosts' own Wan in numbers: losses beside our own network's, and what is left in the MODEL.

Tiny random networks (width 256, two blocks), twenty steps of AdamW, inside every host found. Writes JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from builtin_common import ROOT, save, verdict

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from real_hosts import MISSING, find_hosts, host_python  # noqa: E402

SCRIPT = Path(__file__).with_name("native_training_in_host_common.py")
TITLES = {"text": "text to video", "image": "image to video", "expert": "image to video without image tokens"}
GOAL = 1e-4  # of every loss


def in_host(host: Path) -> dict:
    """What the script measures inside a host."""
    with tempfile.TemporaryDirectory() as base:
        done = subprocess.run([host_python(host), SCRIPT, host], cwd=base, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"{host.name}: {done.stderr[-2000:]}")
    return json.loads(line.removeprefix("RESULT "))


def figures_of(host: str, row: dict) -> dict[str, str]:
    """One variant in one host."""
    name, seconds = f"{host}, {TITLES[row['kind']]}", row["seconds"]
    twice = "equal to the bit" if row["twice"] == 0 else f"NO: {row['twice']:.3g} apart"
    return {
        f"{name}: largest difference of 20 losses to our own network": verdict(row["loss"], high=GOAL),
        f"{name}: trained values with checkpointing and without": twice,
        f"{name}: layers of the LoRA in core's loader": "{} of {}".format(*row["in core"]),
        f"{name}: left in the MODEL after the runs": ", ".join(row["left"]) or "nothing",
        f"{name}: processor seconds a step": ", ".join(f"{who} {value:.3f}" for who, value in seconds.items()),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    hosts = find_hosts()
    if not hosts:
        raise SystemExit(MISSING)
    figures, rows = {}, []
    for host in hosts:
        found = in_host(host)
        for row in found["rows"]:
            figures |= figures_of(host.name, row)
            rows.append({"host": host.name, **row})
    save("native_training", figures, rows)


if __name__ == "__main__":
    main()
