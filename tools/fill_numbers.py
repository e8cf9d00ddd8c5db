#!/usr/bin/env python3
"""Copy the figures of benchmarks/results/*.json into docs/numbers.md, all of them, and into README.md, the six of KEY.

    python tools/fill_numbers.py          rewrite both pages between their markers
    python tools/fill_numbers.py --check  exit 1 when a page and the results differ
"""

import sys

from pages import ROOT, facts_of, read_result, table, write_or_check

README, NUMBERS = ROOT / "README.md", ROOT / "docs" / "numbers.md"
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
    "long_clips": "Longer clips, the same move, beside the 16 frames that were trained",
    "large_photo": "A photograph of 6 megapixels in the shell",
    "poses": "Poses read, cleaned, fitted, drawn",
    "fuzz_readers": "Spoiled files into every reader",
    "trainer_overhead": "What the trainer costs beside a bare torch loop",
    "pack_entry": "Time from the host's call to our list of nodes",
    "dynamics_measures": "What the dynamics degree says about shifted photographs",
    "dct_vs_fft": "What share of a latent DCT and FFT keep outside the same number of coefficients",
    "sana_video_speed": "SANA-Video's network beside diffusers', same weights, one process",
    "wan": "Wan as a network of our own beside the hosts' and diffusers', and a training step, counted without a card",
    "native_wan": "The hosts' own Wan, tiny and random: what is exact in whose company, and a training beside it",
    "memory_factors": "Memory that one call of a network takes beside its weights, and the estimate the nodes use",
    "kernels_ledger": "What one block moves beside its matrix products, in passes over one activation tensor (c)",
}

COMMANDS = {  # where it is not benchmarks/<name>.py alone
    "memory_factors": "tools/memory_factors.py",
    "builtin_still_small": "benchmarks/builtin_still.py --weights motionblocks-small --name builtin_still_small",
    "builtin_photos_small": "benchmarks/builtin_photos.py --weights motionblocks-small --name builtin_photos_small",
}

KEY = {  # README's numbers: what is said of a figure -> the result file and the figure's name in it
    "`motionblocks-tiny`: camera motions that go the right way, 13 photographs it never saw, 3 seeds, %":
        ("builtin_photos", "direction right, %"),
    "`motionblocks-small`: objects that move as told, in the same photographs, %":
        ("builtin_motions", "objects, right, %"),
    "dynamics slider of `motionblocks-tiny`: motion at 19 over motion at 1":
        ("builtin_photos", "dynamics 1-19, all motions: top/bottom"),
    "frame 1 against the photo, lowest PSNR, dB (99 = bit-exact)":
        ("builtin_still", "first frame, lowest PSNR, dB (99 = bit-exact)"),
    "shell, cold start, 16 frames at 512 px, one core, s":
        ("builtin_speed", "shell, cold, 512 px, one core, s"),
    "SANA-Video, peak memory of one block at 32k tokens, ours / diffusers, MiB":
        ("sana_video_speed", "peak of one block, 32k tokens: ours / diffusers, MiB"),
}  # fmt: skip


def command_of(name):
    """Return the command that writes one results file."""
    return f".venv/bin/python {COMMANDS.get(name, f'benchmarks/{name}.py')}"


def all_tables(_name):
    """Return the Markdown of every results file of TABLES that exists, each under the command that printed it."""
    parts = []
    for name, title in TABLES.items():
        result = read_result(name)
        if result is not None:
            lines = [{"figure": key, "value": value} for key, value in result["figures"].items()]
            parts += [f"## {title}", f"`{command_of(name)}` · {facts_of(result)}", table(lines)]
    return "\n\n".join(parts)


def key_numbers(_name):
    """Return the Markdown of README's few numbers."""
    return table([
        {"figure": said, "measured": read_result(name)["figures"][figure], "command": f"`{command_of(name)}`"}
        for said, (name, figure) in KEY.items()
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {NUMBERS: all_tables, README: key_numbers}))
