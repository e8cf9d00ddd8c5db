"""E3: dynamics bucket -> measured motion of the shipped model, by MS-SSIM and by optical flow; and the blur trap.

The slider is trained on buckets of the MS-SSIM degree, so a degree that grows with it proves little: a clip that only
blurs has a large degree too. The last table shows it: photographs whose sharpness comes and goes, that gather grain
or that blur away, and do not move, beside photographs that truly slide. Writes JSON.
"""

import argparse
import statistics

import torch
from evidence_common import finish, load_model, photo, photo_paths, sample, spread
from pack.motion.layers.warp import warp
from pack.motion.metrics.dynamics import measure_dynamics
from pack.motion.metrics.optical_flow import median_length
from scipy.stats import spearmanr

PHOTOS = ("astronaut", "chelsea", "china", "flower")
MOTIONS = ("pan right", "zoom in")
BUCKETS = (0, 1, 4, 7, 10, 13, 16, 19)
SEEDS = (0, 1, 2)
FRAMES = 16
PAIRS = ((0, 3), (6, 9), (12, 15))  # between which flow is measured: long enough to stand out, short enough to follow
PULSES = (0.5, 0.7, 1.0, 1.5)  # px of Gaussian blur in every other frame
NOISES = (0.05, 0.1, 0.2)  # deviation of fresh grain in every frame
BLURS = (0.2, 0.4, 0.8)  # px of Gaussian blur gained a frame
SLIDES = (0.25, 0.5, 1.0, 2.0)  # px a frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="default: the shipped file")
    parser.add_argument("--photos", type=int, default=len(PHOTOS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.weights)
    pictures = {name: photo(photo_paths()[name]) for name in PHOTOS[: arguments.photos]}
    rows = [row for name, picture in pictures.items() for row in sweep(model, name, picture)]
    traps = [row for name, picture in pictures.items() for row in trap_rows(model, name, picture)]
    finish("e3_slider", figures(rows, traps), [*rows, *traps])


def figures(rows: list[dict], traps: list[dict]) -> dict:
    return {
        "photographs": len(unique(rows, "photo")), "clips": len(rows), "motions": ", ".join(MOTIONS),
        "Bucket asked for, and what is measured (mean over photographs and motions ± spread of the sampling seeds)":
            slider_table(rows),
        "Rank correlation of buckets 1-19 with what is measured (± spread of the sampling seeds)": rank_table(rows),
        "The blur trap: clips that do not move, beside clips that do (mean ± spread of the photographs)":
            trap_table(traps),
    }  # fmt: skip


def sweep(model, name: str, picture: torch.Tensor) -> list[dict]:
    """All motions, buckets and seeds of one photograph."""
    first, rows = model.codec.encode(picture[None, :, None]), []
    for motion in MOTIONS:
        for seed in SEEDS:
            n = len(BUCKETS)
            latents = sample(model, first.expand(n, -1, -1, -1, -1), [motion] * n, BUCKETS, seeds=seed)
            for place, bucket in enumerate(BUCKETS):
                clip = model.codec.decode_onto(latents[place : place + 1], picture)[0].movedim(0, -1)
                rows.append({"photo": name, "motion": motion, "seed": seed, "bucket": bucket,
                             **measure(model, clip, picture)})
    return rows


def measure(model, clip: torch.Tensor, picture: torch.Tensor) -> dict:
    """Degree and its bucket on the model's own scale, flow in px of a 64 px picture a frame."""
    own = measure_dynamics(clip, spec=model.spec.dynamics, with_flow=False)
    flow = statistics.fmean(median_length(clip[a], clip[b]) / (b - a) for a, b in PAIRS)
    return {"degree": own.degree, "measured_bucket": own.bucket,
            "mean_absolute_difference": own.mean_absolute_difference, "flow_px": flow * 64 / picture.shape[-1]}


def slider_table(rows: list[dict]) -> list[dict]:
    return [{"bucket": bucket, "MS-SSIM degree": by_seed(rows, "degree", bucket, 4),
             "bucket measured": by_seed(rows, "measured_bucket", bucket, 1),
             "mean abs. difference": by_seed(rows, "mean_absolute_difference", bucket, 4),
             "flow, px a frame at 64 px": by_seed(rows, "flow_px", bucket, 3)} for bucket in BUCKETS]


def by_seed(rows: list[dict], key: str, bucket: int, digits: int) -> str:
    return spread([statistics.fmean(row[key] for row in rows if (row["bucket"], row["seed"]) == (bucket, seed))
                   for seed in SEEDS], digits)


def rank_table(rows: list[dict]) -> list[dict]:
    """Spearman over the means of all photographs, and the least of any single photograph and motion."""
    lines = []
    for key, label in (("degree", "MS-SSIM degree"), ("flow_px", "optical flow")):
        pooled = [rank(rows, key, seed) for seed in SEEDS]
        single = [rank(rows, key, seed, name, motion) for seed in SEEDS for name in unique(rows, "photo")
                  for motion in MOTIONS]
        top = [level(rows, key, seed, BUCKETS[-1]) / max(level(rows, key, seed, 1), 1e-9) for seed in SEEDS]
        lines.append({"measure": label, "all photographs": spread(pooled, 3), "least of one photograph and motion":
                      round(min(single), 3), "bucket 19 over bucket 1": spread(top, 1)})
    return lines


def unique(rows: list[dict], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def level(rows, key, seed, bucket, name=None, motion=None) -> float:
    return statistics.fmean(row[key] for row in rows if (row["seed"], row["bucket"]) == (seed, bucket)
                            and name in (None, row["photo"]) and motion in (None, row["motion"]))


def rank(rows, key, seed, name=None, motion=None) -> float:
    return float(spearmanr(BUCKETS[1:], [level(rows, key, seed, b, name, motion) for b in BUCKETS[1:]]).statistic)


def trap_rows(model, name: str, picture: torch.Tensor) -> list[dict]:
    """One photograph made to blur, to gather grain and to slide, each at several strengths."""
    makers = (("sharpness comes and goes, stands still", PULSES, pulsing), ("grain, stands still", NOISES, grainy),
              ("blurs away, stands still", BLURS, blurring), ("slides", SLIDES, sliding))
    return [{"photo": name, "clip": what, "strength": strength,
             **measure(model, make(picture, strength).movedim(1, -1), picture)}
            for what, strengths, make in makers for strength in strengths]


def pulsing(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """(FRAMES, 3, h, w): every other frame is the photograph blurred by sigma px at 64 px size."""
    blurred = gaussian(picture, sigma * picture.shape[-1] / 64)
    return torch.stack([blurred if n % 2 else picture for n in range(FRAMES)])


def blurring(picture: torch.Tensor, gain: float) -> torch.Tensor:
    """(FRAMES, 3, h, w): frame n is the photograph blurred by gain·n px at 64 px size."""
    return torch.stack([gaussian(picture, gain * n * picture.shape[-1] / 64) for n in range(FRAMES)])


def gaussian(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur by a Gaussian in the frequencies of the mirrored picture, so borders stay."""
    if not sigma:
        return picture
    mirrored = torch.cat((picture, picture.flip(-1)), -1)
    mirrored = torch.cat((mirrored, mirrored.flip(-2)), -2)
    fy, fx = (torch.fft.fftfreq(side) for side in mirrored.shape[-2:])
    gain = torch.exp(-2 * (torch.pi * sigma) ** 2 * (fy.view(-1, 1) ** 2 + fx**2))
    return torch.fft.ifft2(torch.fft.fft2(mirrored) * gain).real[..., : picture.shape[-2], : picture.shape[-1]]


def grainy(picture: torch.Tensor, deviation: float) -> torch.Tensor:
    grain = torch.randn((FRAMES, *picture.shape), generator=torch.Generator().manual_seed(0)) * deviation
    return (picture + grain).clamp(0, 1)


def sliding(picture: torch.Tensor, shift: float) -> torch.Tensor:
    """Slides to the right by shift px a frame at 64 px size; the border is mirrored."""
    flow = torch.zeros(FRAMES, 2, *picture.shape[1:])
    flow[:, 0] = -shift * picture.shape[-1] / 64 * torch.arange(FRAMES).view(-1, 1, 1)
    return warp(picture.expand(FRAMES, -1, -1, -1), flow).clamp(0, 1)


def trap_table(rows: list[dict]) -> list[dict]:
    lines = []
    for what, strength in dict.fromkeys((row["clip"], row["strength"]) for row in rows):
        mine = [row for row in rows if (row["clip"], row["strength"]) == (what, strength)]
        lines.append({"clip": what, "strength": strength, **{
            label: spread([row[key] for row in mine], digits) for label, key, digits in (
                ("MS-SSIM degree", "degree", 4), ("bucket measured", "measured_bucket", 1),
                ("flow, px a frame at 64 px", "flow_px", 3))}})
    return lines


if __name__ == "__main__":
    main()
