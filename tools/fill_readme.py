#!/usr/bin/env python3
"""Copy the figures of benchmarks/results/*.json into README.md, each table under the command that printed it.

    python tools/fill_readme.py          rewrite README.md between its two number markers
    python tools/fill_readme.py --check  exit 1 when README.md and the results differ
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
TABLES = {
    "builtin_photos": "The built-in model on photographs it never saw",
    "builtin_still": "The prompt \"still\", and the first frame",
    "builtin_clips": "The built-in model on held-out generated clips, whose motion is known exactly",
    "builtin_speed": "Speed and size",
    "builtin_training": "Three trainings from three seeds",
    "builtin_photos_small": "The second built-in model on the same photographs",
    "builtin_still_small": "The same for the second built-in model: \"still\"",
    "builtin_side_by_side": "Both on the camera moves, side by side",
    "builtin_motions": "The second built-in model, motion by motion",
    "trainer_overhead": "What the trainer costs beside a bare torch loop",
    "pack_entry": "Time from the host's call to our list of nodes",
    "dynamics_measures": "What the dynamics degree says about shifted photographs",
    "dct_vs_fft": "What share of a latent DCT and FFT keep outside the same number of coefficients",
    "sana_video_speed": "SANA-Video's network beside diffusers', same weights, one process",
    "memory_factors": "Memory that one call of a network takes beside its weights, and the estimate the nodes use",
    "kernels_ledger": "What one block moves beside its matrix products, in passes over one activation tensor (c)",
}

COMMANDS = {  # where it is not benchmarks/<name>.py alone
    "memory_factors": "tools/memory_factors.py",
    "builtin_still_small": "benchmarks/builtin_still.py --weights motionblocks-small --name builtin_still_small",
    "builtin_photos_small": "benchmarks/builtin_photos.py --weights motionblocks-small --name builtin_photos_small",
}


def as_text(value):
    """Write one figure as a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return str(value).replace("|", "\\|")


def table(name, title):
    """Return the Markdown of one results file, or None where it does not exist."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    facts = ", ".join(f"{key} {value}" for key, value in result["facts"].items())
    command = COMMANDS.get(name, f"benchmarks/{name}.py")
    head = [f"**{title}** · `.venv/bin/python {command}` · {facts}", "", "| figure | value |", "|---|---|"]
    return "\n".join(head + [f"| {key} | {as_text(value)} |" for key, value in result["figures"].items()])


def filled(text):
    """Return README's text with the tables between the markers."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    tables = filter(None, (table(name, title) for name, title in TABLES.items()))
    return before + BEGIN + "\n\n" + "\n\n".join(tables) + "\n\n" + END + after


def main():
    """Rewrite README.md, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text()
    if args.check:
        return int(filled(text) != text)
    path.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
