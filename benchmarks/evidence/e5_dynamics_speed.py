"""E5: processor seconds a clip of the three dynamics measures, in one run, on three photographs. Writes JSON.

The paper's times are for MAD, MS-SSIM and RAFT on its own machine; the flow here is DIS, which needs no weights.
"""

import argparse
import statistics
import time

import torch
from evidence_common import finish, photo_paths, slide, spread, square, time_measures

PAPER_S = {"mean absolute difference": 0.03, "MS-SSIM degree": 0.07, "DIS optical flow": 1.17}  # the last with RAFT
PHOTOS = ("astronaut", "chelsea", "coffee")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in PHOTOS:
        clip = slide(square(photo_paths()[name]), 2.0, 16)[None]
        rows += [{"photo": name, **entry} for entry in time_measures(clip, arguments.repeats, time.process_time)]
    finish("e5_dynamics_speed", {
        "clip": "16 frames of 256x256 px",
        "Processor seconds a clip (mean ± spread of the photographs)": table(rows),
    }, rows)  # fmt: skip


def table(rows: list[dict]) -> list[dict]:
    """A line a measure: seconds, and how many times the fastest of the same photograph; the paper's beside it."""
    lines = []
    for measure, paper in PAPER_S.items():
        times = [row["median_s"] for row in rows if row["measure"] == measure]
        fastest = [min(row["median_s"] for row in rows if row["photo"] == name) for name in PHOTOS]
        ratio = [time / best for time, best in zip(times, fastest)]
        label = "optical flow (here DIS, in the paper RAFT)" if measure.endswith("flow") else measure
        lines.append({"measure": label, "here, s": spread(times, 4), "here, times the fastest": spread(ratio, 1),
                      "paper, s": paper, "paper, times the fastest": round(paper / min(PAPER_S.values()), 1)})
    return sorted(lines, key=lambda line: statistics.fmean([float(line["here, s"].split()[0])]))


if __name__ == "__main__":
    main()
