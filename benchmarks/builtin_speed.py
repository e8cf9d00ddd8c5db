"""Time and size of the built-in model: sampling at working size, decoding, cold shell, file. Writes JSON."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from builtin_common import ROOT, load_model, photo, photo_paths, sample, save, verdict
from pack.motion.builtin_model import builtin_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, path = load_model(), photo_paths()["astronaut"]
    picture = photo(path, long_side=512)
    first = model.codec.encode(picture[None, :, None])
    steps = model.spec.sampling.num_steps
    rows = [
        timed("load", lambda: load_model(), arguments.repeats),
        timed("sample 16 frames", lambda: sample(model, first, ["zoom in"], 12), arguments.repeats),
        timed("sample 16 frames, 8 steps", lambda: sample(model, first, ["zoom in"], 12, num_steps=8),
              arguments.repeats),
        timed("decode onto 512x512", lambda: model.codec.decode_onto(sample_once(model, first), picture), 2),
        timed("shell, cold, 512x512", lambda: shell(path), 3),
    ]
    seconds = {row["what"]: row["median_s"] for row in rows}
    figures = {
        f"sample 16 frames, {steps} steps, one core, s": verdict(seconds["sample 16 frames"], high=2),
        "shell, cold, 512 px, one core, s": verdict(seconds["shell, cold, 512x512"], high=10),
        "weights, MB": verdict(builtin_path("motionblocks-tiny").stat().st_size / 1e6, high=10),
        "parameters": sum(value.numel() for module in (model.dit, model.text_encoder) for value in module.parameters()),
        **{f"{what}, s": round(value, 3) for what, value in seconds.items()},
    }
    save("builtin_speed", figures, rows)


def timed(what: str, call, repeats: int) -> dict:
    """Median and all times of a call in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return {"what": what, "median_s": statistics.median(times), "times_s": times}


def sample_once(model, first, kept={}):  # noqa: B006 - one sampling shared by the repeats
    if "latents" not in kept:
        kept["latents"] = sample(model, first, ["zoom in"], 12)
    return kept["latents"]


def shell(path: Path) -> None:
    """A fresh process on one core: photo file in, mp4 out."""
    from pack.motion.io.media.video import write_video

    with tempfile.TemporaryDirectory() as folder:
        frames = photo(path, long_side=512).movedim(0, -1)[None]
        write_video(Path(folder) / "frames", frames, 8.0)
        source = next((Path(folder) / "frames").iterdir())
        command = [sys.executable, str(ROOT), "animate", str(source), "--motion", "zoom in",
                   "-o", str(Path(folder) / "out.mp4")]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
