"""The built-in model on photographs: direction and dynamics slider. Prints figures, writes JSON."""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from builtin_common import DIRECTED, SHAPES, load_model, photo, photo_paths, sample, save, verdict
from pack.motion.metrics.optical_flow import camera_motion, direction_agrees, median_length

FRAMES = [0, 2, 4, 6, 8, 10]  # shown to the flow meter: all steps small enough to follow
BUCKETS = (0, 1, 4, 7, 10, 13, 16, 19)  # of the slider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="default: the shipped file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="sampling seeds")
    parser.add_argument("--photos", type=int, help="only the first N photographs")
    parser.add_argument("--jobs", type=int, default=2, help="photographs at once, one thread each")
    parser.add_argument("--name", default="builtin_photos", help="of the results file")
    arguments = parser.parse_args()
    paths = dict(list(photo_paths().items())[: arguments.photos])
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(one_photo, arguments.weights, name, path, arguments.seeds) for name, path in paths.items()]
        rows, sweep = (sum(parts, []) for parts in zip(*(job.result() for job in jobs)))
    wrong = [row for row in rows if not row["right"]]
    figures = {"photographs": len(paths), "clips": len(rows), "sampling seeds": len(arguments.seeds),
               "direction right, %": verdict(100 * (1 - len(wrong) / len(rows)), low=95)}
    for key in ("motion", "shape"):
        for value in dict.fromkeys(row[key] for row in rows):
            mine = [row["right"] for row in rows if row[key] == value]
            figures[f"direction right, {value}, %"] = round(100 * sum(mine) / len(mine), 1)
    figures["wrong"] = [" ".join(map(str, list(row.values())[:4])) for row in wrong][:20]
    figures.update(slider_figures(sweep))
    figures["seconds"] = round(time.monotonic() - started)
    save(arguments.name, figures, [*rows, *sweep])


def one_photo(weights, name: str, path, seeds: list[int]) -> tuple[list, list]:
    """Everything that is measured on one photograph, on one thread."""
    torch.set_num_threads(1)
    model = load_model(weights)
    return directions(model, name, path, seeds), slider(model, name, path)


def directions(model, name: str, path, seeds: list[int]) -> list[dict]:
    """Every motion on every shape of one photograph, at the default dynamics."""
    rows = []
    for shape in SHAPES:
        picture = photo(path, shape)
        first = model.codec.encode(picture[None, :, None])
        for motion in DIRECTED:
            latents = sample(model, first.expand(len(seeds), -1, -1, -1, -1), [motion] * len(seeds),
                             model.spec.config.default_motion_bucket, seeds=seeds)
            for row, seed in enumerate(seeds):
                clip = model.codec.decode_onto(latents[row : row + 1, :, FRAMES], picture)[0].movedim(0, -1)
                found = camera_motion(clip)
                rows.append({"photo": name, "shape": shape, "motion": motion, "seed": seed,
                             "right": bool(direction_agrees(motion, clip)), "dx": found.dx, "dy": found.dy,
                             "zoom": found.zoom, "degrees": found.degrees})
    return rows


def slider(model, name: str, path) -> list[dict]:
    """Optical flow of the square crop for some buckets and a motion of each kind, working px over 15 frames."""
    picture = photo(path)
    per_px = 64 / picture.shape[-1]
    first = model.codec.encode(picture[None, :, None])
    rows = []
    for motion in ("pan right", "zoom in", "rotate left"):
        latents = sample(model, first.expand(len(BUCKETS), -1, -1, -1, -1), [motion] * len(BUCKETS), BUCKETS)
        for place, bucket in enumerate(BUCKETS):
            clip = model.codec.decode_onto(latents[place : place + 1, :, [0, 3, 15]], picture)[0].movedim(0, -1)
            last = 2 if bucket == 0 else 1  # bucket 0 over the whole clip, the others over 3 frames, then scaled
            length = median_length(clip[0], clip[last]) * per_px * (1 if bucket == 0 else 5)
            rows.append({"photo": name, "motion": motion, "bucket": bucket, "flow_px": length})
    return rows


def slider_figures(rows: list[dict]) -> dict:
    """Spearman between bucket and mean flow, top/bottom ratio, flow at bucket 0; over all and a motion each."""
    from scipy.stats import spearmanr

    figures = {}
    for motion in (None, *dict.fromkeys(row["motion"] for row in rows)):
        mine = [row for row in rows if motion in (None, row["motion"])]
        mean = {}
        for bucket in sorted({row["bucket"] for row in mine}):
            values = [row["flow_px"] for row in mine if row["bucket"] == bucket]
            mean[bucket] = sum(values) / len(values)
        moving = [bucket for bucket in mean if bucket > 0]
        rank = float(spearmanr(moving, [mean[bucket] for bucket in moving]).statistic)
        label = motion or "all motions"
        figures[f"dynamics 1-19, {label}: Spearman"] = verdict(rank, low=0.95)
        figures[f"dynamics 1-19, {label}: top/bottom"] = verdict(mean[moving[-1]] / mean[1], low=4)
        figures[f"dynamics 0, {label}: px over 15 frames"] = verdict(mean[0], high=0.3)
        figures[f"dynamics, {label}: px over 15 frames at 1, 7, 13, 19"] = [round(mean[b], 2) for b in (1, 7, 13, 19)]
    return figures


if __name__ == "__main__":
    main()
