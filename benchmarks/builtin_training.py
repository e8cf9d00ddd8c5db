"""Spread of three trainings: the same figures for each seed's weights. Give files made by tools/train_builtin.py.

    for seed in 0 1 2; do python tools/train_builtin.py --seed $seed --output runs/seed$seed.safetensors; done
    python benchmarks/builtin_training.py runs/seed*.safetensors
"""

import argparse
import json
import statistics

import torch
from builtin_clips import measure
from builtin_common import DIRECTED, load_model, photo_paths, save
from builtin_photos import directions, slider, slider_figures
from builtin_still import stills
from pack.motion.io.networks.linear_video import read_linear_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*")
    parser.add_argument("--clips", type=int, default=8, help="held-out clips a motion")
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.weights:
        print(f"{__doc__}\nNo files named: nothing to measure.")
        return
    torch.set_num_threads(arguments.threads)
    rows = [measure_one(path, arguments.clips, arguments.photos) for path in arguments.weights]
    figures = {"trainings": len(rows)}
    for key, value in rows[0].items():
        if isinstance(value, float):
            values = [row[key] for row in rows]
            figures[key] = {"mean": round(statistics.fmean(values), 3), "lowest": round(min(values), 3),
                            "highest": round(max(values), 3)}
    save("builtin_training", figures, rows)


def measure_one(path: str, num_clips: int, num_photos: int) -> dict:
    """One file's line."""
    model, facts = load_model(path), read_linear_video(path).metadata
    clips = measure(model, num_clips)[1]
    camera = [row for row in clips if row["motion"] in DIRECTED]
    paths = dict(list(photo_paths().items())[:num_photos])
    right = [row["right"] for name, file in paths.items() for row in directions(model, name, file, [0])]
    still = [row["psnr_db"] for name, file in paths.items() for row in stills(model, name, file, [0])]
    sweep = slider_figures([row for name, file in paths.items() for row in slider(model, name, file)])
    number = {key: float(value.split()[0]) for key, value in sweep.items()
              if "all motions" in key and isinstance(value, str)}
    return {"file": path.rsplit("/", 1)[-1], "seed": int(facts["seed"]),
            "steps": json.loads(facts["recipe"])["num_steps"],
            "training_seconds": float(facts["training_seconds"]),
            "gain over static copy, dB": statistics.fmean(row["gain_db"] for row in camera),
            "speed ratio, median": statistics.median(row["speed_ratio"] for row in camera),
            "flow error, px": statistics.fmean(row["flow_error_px"] for row in camera),
            "direction right on photos, %": 100.0 * sum(right) / len(right),
            "still, lowest dB": float(min(still)), **number}


if __name__ == "__main__":
    main()
