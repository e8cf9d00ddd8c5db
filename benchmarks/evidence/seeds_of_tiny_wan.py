"""How far short trainings of the small Wan differ by seed: for E8."""

from pathlib import Path

from evidence_common import spread
from heads_of_tiny_wan import SIGMAS, log_ratios
from pack.motion.io.files.safetensors import read_header
from pack.motion.scene_model import load_scene_model
from words_of_tiny_wan import words_table

NOISED, GIVEN = "from noise, sigma 0.8", "first frame clean, sigma 0.8"


def seeds_table(files: list[Path]) -> dict:
    """A row a training and one of all: what wrong words cost it, and how far its heads differ."""
    rows = []
    for file in files:
        told, model = read_header(file).metadata, load_scene_model(file)
        (costs,) = words_table(model, (NOISED, GIVEN)).values()
        by = {row["from"]: row for row in costs}
        rows.append({
            "seed": told["seed"], "steps": told["steps"], "processor seconds": float(told["processor_seconds"]),
            "error, sigma 0.8": by[NOISED]["error"],
            **{f"another {word}, %": by[NOISED][f"another {word}, %"] for word in ("motion", "colour", "ground")},
            "first frame clean: another motion, %": by[GIVEN]["another motion, %"],
            "std of log w_t / w_s": round(float(log_ratios(model, SIGMAS[0]).std()), 3),
        })  # fmt: skip
    both = {name: spread([row[name] for row in rows], 3 if name.startswith(("error", "std")) else 1)
            for name in rows[0] if name not in ("seed", "steps")}  # fmt: skip
    return {"Short trainings by seed": [*rows, {"seed": "all", "steps": rows[0]["steps"], **both}]}
