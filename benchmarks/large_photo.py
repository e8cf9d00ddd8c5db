"""Memory and processor time of the shell on a photograph of 6 megapixels, and what its mp4 settings cost. Writes JSON.

The photograph is the shipped one, enlarged to 3000x2000 with a grain of 3 levels, as JPEG. Each run is a process of its
own on one thread. The peak is what the process held at most when its work was done; Python with torch alone holds about
half of it. The photo's own time is what the run takes beyond the same run on the photo scaled to 64 px.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from builtin_common import ROOT, load_model, read_photo, save, verdict
from PIL import Image

SIZE = (3000, 2000)  # width, height
CHILD = """
import resource, runpy, sys
root, sys.argv = sys.argv[1], sys.argv[1:]
sys.path.insert(0, root)
try:
    runpy.run_path(root, run_name="__main__")
except SystemExit as done:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("RESULT", done.code, int(peak) * 1024, used.ru_utime + used.ru_stime)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs=2, default=(16, 128))
    few, many = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.jpg", Path(folder) / "small.png"
        make_photo(large, small)
        rows = [shell(photo, frames) for photo, frames in ((small, few), (large, few), (large, many), (small, many))]
        rows += [encoded(large, few, name, folder) for name in ("medium", "large")]
    fixed, first, last, fixed_many, medium, quick = rows
    figures = {
        f"peak, {few} frames, MB": verdict(first["peak_mb"], high=1000),
        f"peak, {many} frames, beyond that of {few}, MB": verdict(last["peak_mb"] - first["peak_mb"], high=50),
        f"peak on 64 px, {few} frames, MB": round(fixed["peak_mb"]),
        f"processor seconds, {few} frames, whole run": round(first["seconds"], 2),
        f"processor seconds, {few} frames, of these on 64 px": round(fixed["seconds"], 2),
        f"processor seconds, {few} frames, the photo's own": verdict(first["seconds"] - fixed["seconds"], high=5),
        f"processor seconds a frame of {many}": round((last["seconds"] - fixed_many["seconds"]) / many, 3),
        **{f"mp4 settings {row['what']}": f"PSNR {row['psnr_db']:.2f} dB, {row['file_mb']:.2f} MB, "
           f"{row['seconds']:.2f} s" for row in (medium, quick)},
    }  # fmt: skip
    save("large_photo", figures, rows)


def make_photo(large: Path, small: Path) -> None:
    with Image.open(ROOT / "assets" / "raccoon.jpg") as source:
        picture = source.convert("RGB")
    picture.resize((64, 43), Image.Resampling.LANCZOS).save(small)
    pixels = np.asarray(picture.resize(SIZE, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(0).normal(0, 3, pixels.shape)
    Image.fromarray((pixels + grain).clip(0, 255).round().astype(np.uint8)).save(large, quality=92)


def shell(photo: Path, frames: int) -> dict:
    """One run of the shell, photo file to mp4, in a fresh process on one thread."""
    command = [sys.executable, "-c", CHILD, str(ROOT), "animate", str(photo), "--motion", "zoom in", "--device", "cpu",
               "--frames", str(frames), "--quiet", "--overwrite", "-o", str(photo.with_name("out.mp4"))]
    threshold = re.search(r"MALLOC_MMAP_THRESHOLD_:-(\d+)", (ROOT / "motionblocks").read_text())[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": threshold}  # as the wrapper sets it
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "RESULT 0" not in done.stdout:
        raise SystemExit(f"the shell failed: {done.stderr[-2000:]}")
    peak, seconds = done.stdout.split()[-2:]
    return {"what": f"{photo.stem}, {frames} frames", "peak_mb": int(peak) / 1e6, "seconds": float(seconds)}


def encoded(photo: Path, frames: int, name: str, folder: str) -> dict:
    """The same video written with the settings of small or of large mp4s: PSNR of what is read back, size, seconds."""
    import time

    import av
    from pack.motion.io.media import video as media
    from pack.motion.pipeline import animate_frames

    video, target = animate_frames(read_photo(photo), motion="zoom in", num_frames=frames, model=load_model()), None
    held, limit = [(frame * 255).round().byte() for frame in video], media.MEDIUM_PIXELS
    try:
        media.MEDIUM_PIXELS = 2**40 if name == "medium" else 0
        started = time.process_time()
        target = media.write_video(Path(folder) / f"{name}.mp4", (frame / 255 for frame in held), 8.0).path
        seconds = time.process_time() - started
    finally:
        media.MEDIUM_PIXELS = limit
    with av.open(str(target)) as container:
        errors = [np.square(luma(frame.to_ndarray(format="rgb24")) - luma(truth.numpy())).mean()
                  for frame, truth in zip(container.decode(video=0), held)]
    return {"what": name, "psnr_db": float(10 * np.log10(255**2 / np.mean(errors))), "seconds": seconds,
            "file_mb": target.stat().st_size / 1e6}


def luma(pixels: np.ndarray) -> np.ndarray:
    """Brightness by BT.709 of (h, w, 3) bytes, 0 to 255."""
    return pixels.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)


if __name__ == "__main__":
    main()
