"""E8, one question more: does initial noise matter to image to video that was trained at the paper's noise levels?

    python benchmarks/evidence/e8_noise_levels.py             train what is missing, measure, write JSON
    python benchmarks/evidence/e8_noise_levels.py --folder F  where the training lies

The shipped model was trained at even noise levels, most of them high; the paper draws them logit-normal, so that a
network seldom sees the highest. The short training here starts, as the shipped model did, from motionblocks-wan.
"""

import argparse
from pathlib import Path

import torch
from e8_short_trainings import trained
from evidence_common import ROOT, finish
from noise_of_tiny_wan import NOISES, noise_table
from pack.motion.io.files.safetensors import read_header
from pack.motion.scene_model import load_scene_model

STEPS = 240
SETTINGS = ["--fp32", "--from-image", str(ROOT / "weights" / "motionblocks-wan.safetensors"), "--set",
            "sigma_sampling=logit_normal"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo" / "e8" / "levels", help="of the training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = trained(arguments.folder, STEPS, SETTINGS)
    told, table = read_header(path).metadata, noise_table(load_scene_model(path))
    by_noise = table.pop(NOISES)
    table["Trained at logit-normal levels: image to video by initial noise"] = by_noise
    rows = [{"steps": int(told["steps"]), **row} for row in by_noise]
    finish("e8_noise_levels", {"trained by": told["command"], **table}, rows)


if __name__ == "__main__":
    main()
