"""Both built-in models on the camera moves of the same photographs, from the results of builtin_photos.py; and seconds.

    python benchmarks/builtin_photos.py
    python benchmarks/builtin_photos.py --weights motionblocks-small --name builtin_photos_small
    python benchmarks/builtin_side_by_side.py
"""

import json
import statistics
import time

import torch
from builtin_common import DIRECTED, RESULTS, SHAPES, load_model, photo, photo_paths, sample, save
from builtin_photos import slider_figures

FILES = {"motionblocks-tiny": "builtin_photos", "motionblocks-small": "builtin_photos_small"}
REPEATS = 3
TIMED = ("pan left", "rain")


def main() -> None:
    torch.set_num_threads(1)
    columns = {name: column(name, file) for name, file in FILES.items()}
    pairs = {key: {name.partition("-")[2]: values[key] for name, values in columns.items()}
             for key in columns["motionblocks-tiny"]}
    shared = sum(mine == theirs for mine, theirs in zip(*(directions(file) for file in FILES.values())))
    figures = {"clips each": len(directions(FILES["motionblocks-tiny"])), "clips on which both agree": shared, **pairs}
    save("builtin_side_by_side", figures, [{"model": name, **values} for name, values in columns.items()])


def directions(file: str) -> list[tuple]:
    """(photo, shape, motion, seed, right) of every clip."""
    rows = json.loads((RESULTS / f"{file}.json").read_text())["rows"]
    return sorted(tuple(row[key] for key in ("photo", "shape", "motion", "seed", "right"))
                  for row in rows if "right" in row)


def column(name: str, file: str) -> dict:
    """Figures of one model."""
    clips = directions(file)
    made = {"direction right, %": share(clips)}
    for at, values in ((1, SHAPES), (2, DIRECTED)):
        made |= {f"direction right, {value}, %": share([clip for clip in clips if clip[at] == value])
                 for value in values}
    rows = json.loads((RESULTS / f"{file}.json").read_text())["rows"]
    slider = slider_figures([row for row in rows if "bucket" in row])
    made |= {key: str(value).partition(" (")[0] for key, value in slider.items()
             if "top/bottom" in key or "Spearman" in key or key.startswith("dynamics 0")}
    return {**made, **{f"processor seconds, 16 frames, {motion}": seconds(name, motion) for motion in TIMED}}


def share(clips: list[tuple]) -> float:
    return round(100 * sum(clip[-1] for clip in clips) / len(clips), 2)


def seconds(name: str, motion: str) -> float | str:
    """Median processor time of the latents of one clip, one thread; "-" where the model lacks the motion."""
    model = load_model(name)
    if motion not in model.vocabulary.words:
        return "-"
    first = model.codec.encode(photo(next(iter(photo_paths().values())))[None, :, None])
    times = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        sample(model, first, [motion], 12)
        times.append(time.process_time() - started)
    return round(statistics.median(times[1:]), 2)


if __name__ == "__main__":
    main()
