"""Time of three motion measures on one clip in one run, and what each says about growing motion. Writes JSON."""

import argparse
import statistics
import time

import torch
from builtin_common import photo, photo_paths, save
from pack.motion.layers.warp import warp
from pack.motion.metrics.dynamics import (
    degree_to_bucket,
    dynamics_degree,
    mean_absolute_difference,
    measure_dynamics,
)
from pack.motion.metrics.optical_flow import median_length

SHIFTS = (0, 0.5, 1, 2, 4, 8, 16)  # px a frame on a picture of 256 px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pictures = {name: square(path) for name, path in photo_paths().items()}
    times = time_measures(slide(pictures["astronaut"], 2.0, 16)[None], arguments.repeats)
    rows = [row for name, picture in pictures.items() for row in shift_rows(name, picture)]
    fastest = min(entry["median_s"] for entry in times)
    figures = {
        f"{entry['measure']}, 16 frames of 256x256 px": f"{entry['median_s']:.4f} s "
        f"(x{entry['median_s'] / fastest:.1f})" for entry in times
    }  # fmt: skip
    for shift in SHIFTS:
        degrees = [row["degree"] for row in rows if row["shift_px"] == shift]
        low, middle, high = min(degrees), statistics.median(degrees), max(degrees)
        figures[f"degree at {shift} px a frame: least, median, most of {len(degrees)} photos"] = (
            f"{low:.3f} {middle:.3f} {high:.3f} (buckets {bucket(low)} {bucket(middle)} {bucket(high)})"
        )
    save("dynamics_measures", figures, [*times, *rows])


def square(path) -> torch.Tensor:
    """A photograph as (3, 256, 256)."""
    return torch.nn.functional.interpolate(
        photo(path)[None], (256, 256), mode="bilinear", antialias=True
    )[0].clamp(0, 1)


def slide(picture: torch.Tensor, shift: float, num_frames: int) -> torch.Tensor:
    """A picture sliding to the right by `shift` px a frame: (num_frames, 3, h, w)."""
    flow = torch.zeros(num_frames, 2, *picture.shape[1:])
    flow[:, 0] = -shift * torch.arange(num_frames).view(-1, 1, 1)
    return warp(picture.expand(num_frames, -1, -1, -1), flow).clamp(0, 1)


def time_measures(clip: torch.Tensor, repeats: int, clock=time.perf_counter) -> list[dict]:
    """Seconds a clip for each measure, taken in turns so that a busy machine is shared fairly."""
    last_axis = clip[0].movedim(1, -1)
    calls = {
        "mean absolute difference": lambda: mean_absolute_difference(clip),
        "MS-SSIM degree": lambda: dynamics_degree(clip),
        "DIS optical flow": lambda: [median_length(a, b) for a, b in zip(last_axis[:-1], last_axis[1:])],
    }
    times = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = clock()
            call()
            if turn:
                times[name].append(clock() - started)
    return [{"measure": name, "median_s": statistics.median(all_s), "times_s": all_s} for name, all_s in times.items()]


def shift_rows(name: str, picture: torch.Tensor) -> list[dict]:
    """All measures of one photograph sliding at each speed."""
    rows = []
    for shift in SHIFTS:
        report = measure_dynamics(slide(picture, shift, 4).movedim(1, -1), measure_size=256)
        rows.append({"photo": name, "shift_px": shift, "degree": report.degree, "bucket": report.bucket,
                     "mean_absolute_difference": report.mean_absolute_difference, "flow_px": report.flow_px})
    return rows


def bucket(degree: float) -> int:
    return int(degree_to_bucket(degree))


if __name__ == "__main__":
    main()
