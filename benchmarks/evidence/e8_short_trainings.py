"""E8, its spread: three short trainings of the small Wan that differ by seed alone.

    python benchmarks/evidence/e8_short_trainings.py             train what is missing, measure, write JSON
    python benchmarks/evidence/e8_short_trainings.py --folder F  where a training lies in seed0, seed1 and seed2
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from evidence_common import ROOT, finish, spread
from heads_of_tiny_wan import SIGMAS, log_ratios
from pack.motion.io.files.safetensors import read_header
from pack.motion.scene_model import load_scene_model
from words_of_tiny_wan import words_table

SEEDS, STEPS = (0, 1, 2), 260
SETTINGS = ["--fp32", "--set", "lead_steps=80"]
NOISED, GIVEN = "from noise, sigma 0.8", "first frame clean, sigma 0.8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo" / "e8", help="of the trainings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row_of(trained(arguments.folder / f"seed{seed}", STEPS, [*SETTINGS, "--seed", str(seed)]))
            for seed in SEEDS]  # fmt: skip
    both = {name: spread([row[name] for row in rows], 3 if name.startswith(("error", "std")) else 1)
            for name in rows[0] if name not in ("seed", "steps")}  # fmt: skip
    command = " ".join(["python tools/train_wan.py --steps", str(STEPS), *SETTINGS])
    finish("e8_short_trainings",
           {"trained by": command, "By seed": [*rows, {"seed": "all", "steps": STEPS, **both}]}, rows)  # fmt: skip


def trained(folder: Path, steps: int, settings: list[str]) -> Path:
    """The weights of a training in a folder; what is missing is trained, or goes on from its last state."""
    path = folder / f"step{steps:05d}.safetensors"
    if not path.is_file():
        resume = ["--resume"] if any(folder.glob("state-*")) else []
        subprocess.run([sys.executable, str(ROOT / "tools" / "train_wan.py"), "--folder", str(folder), "--steps",
                        str(steps), *settings, *resume], check=True)  # fmt: skip
    return path


def row_of(file: Path) -> dict:
    """What wrong words cost a training, and how far its heads differ."""
    told, model = read_header(file).metadata, load_scene_model(file)
    (costs,) = words_table(model, (NOISED, GIVEN)).values()
    by = {row["from"]: row for row in costs}
    return {
        "seed": told["seed"], "steps": int(told["steps"]),
        "error, sigma 0.8": by[NOISED]["error"],
        **{f"another {word}, %": by[NOISED][f"another {word}, %"] for word in ("motion", "colour", "ground")},
        "first frame clean: another motion, %": by[GIVEN]["another motion, %"],
        "std of log w_t / w_s": round(float(log_ratios(model, SIGMAS[0]).std()), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
