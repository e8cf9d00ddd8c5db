"""E2: plain noise, FFT or DCT initial noise on the residual models of E1. Writes JSON.

E1 trains on the paper's noise levels (logit-normal, shift 3), where levels above 0.99 hardly occur, and samples from
0.9997: the gap DCTInit is meant to close is there. Needs the finished trainings of e1_residual.py in --folder.
"""

import argparse
import json
from pathlib import Path

import torch
from arm_scores import average, moving, score, standing
from arms import CAPTIONS, FRAMES, SHIFT, decode, held_out, sample_latents
from e1_residual import SAMPLING_STEPS, SEEDS, STILL, load_network
from evidence_common import ROOT, finish, spread
from pack.motion.conditioning.noise_init import dct_init, fft_init, kept_box, tau_to_sigma
from pack.motion.io.files.atomic import write_json
from pack.motion.metrics.dynamics import dynamics_degree

SAMPLING_SEEDS = (0, 1, 2)
HELD_OUT_EACH = 3
TAU = tau_to_sigma(0.975, SHIFT)
MODES = {
    "none": lambda first, noise: noise,
    "FFT, gaussian 0.25": lambda first, noise: fft_init(first, noise, sigma_tau=TAU),
    "DCT, keep 0.23": lambda first, noise: dct_init(first, noise, sigma_tau=TAU),
    "DCT, keep 0.5": lambda first, noise: dct_init(first, noise, sigma_tau=TAU, keep_height=0.5, keep_width=0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "evidence_e1", help="E1's finished trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="training seeds")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips, runs = held_out(HELD_OUT_EACH), []
    reach = [cached(arguments.folder / f"e2-reach-{seed}.json", reach_of_noise, arguments.folder, seed)
             for seed in arguments.seeds]
    for seed in arguments.seeds:
        for sampling_seed in SAMPLING_SEEDS:
            done = arguments.folder / f"e2-{seed}-{sampling_seed}.json"
            runs += cached(done, all_modes, arguments.folder, clips, seed, sampling_seed)
    finish("e2_initial_noise", figures(runs, reach), [*map(without_lists, runs), *reach])


def without_lists(run: dict) -> dict:
    """A run with the PSNR of each frame as the only figure by frame: the others are E1's subject."""
    clips = [{key: value for key, value in clip.items() if key == "psnr_db" or not isinstance(value, list)}
             for clip in run["clips"]]
    return {**run, "clips": clips}


def cached(path: Path, make, *arguments):
    """What a file holds; made first where it does not exist."""
    if not path.is_file():
        write_json(path, make(*arguments))
    return json.loads(path.read_text())


def all_modes(folder: Path, clips, seed: int, sampling_seed: int) -> list[dict]:
    """The same network, clips and noise under every mode."""
    network, first = load_network(folder, "residual", seed), clips.latents[:, :, :1]
    generator = torch.Generator().manual_seed(20_000 + sampling_seed)
    noise = torch.randn(clips.latents[:, :, 1:].shape, generator=generator)
    rows = []
    for mode, refine in MODES.items():
        refined = refine(first, noise).float()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            made = decode(sample_latents(network, "residual", first, clips.caption_ids, clips.bucket, refined,
                                         num_steps=SAMPLING_STEPS))
        degree = dynamics_degree(made.transpose(1, 2), measure_size=64).tolist()
        scores = [{**row, "degree": value, "first_colour_error": colour_error(clip)}
                  for row, value, clip in zip(score(made, clips), degree, made)]
        rows.append({"mode": mode, "seed": seed, "sampling_seed": sampling_seed, "noise_std": float(refined.std()),
                     "clips": scores})
        print(f"{mode}, training seed {seed}, sampling seed {sampling_seed}", flush=True)
    return rows


def reach_of_noise(folder: Path, seed: int) -> dict:
    """How far the sampled pictures of five clips go apart, of 255: with other noise, and with refined noise."""
    network, clips = load_network(folder, "residual", seed), held_out(1)
    first = clips.latents[:, :, :1]
    plain, other = (torch.randn(clips.latents[:, :, 1:].shape, generator=torch.Generator().manual_seed(30_000 + at))
                    for at in (0, 1))
    made = {}
    for name, noise in {**{mode: refine(first, plain).float() for mode, refine in MODES.items()},
                        "the same noise times 1.0001 (rounding)": plain * 1.0001,
                        "another sampling seed": other}.items():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            made[name] = decode(sample_latents(network, "residual", first, clips.caption_ids, clips.bucket, noise,
                                               num_steps=SAMPLING_STEPS))[:, :, 1:]
    moved = (made["none"] - clips.pictures[:, :, :1]).abs().mean()
    return {"seed": seed, "the first frame (all that moved)": 255 * float(moved),
            **{name: 255 * float((clip - made["none"]).abs().mean()) for name, clip in made.items() if name != "none"}}


def colour_error(made: torch.Tensor) -> float:
    """Mean |mean colour of a frame - that of the first frame|, over frames 2 to N of (3, N, h, w)."""
    colour = made.mean((-1, -2))
    return float((colour[:, 1:] - colour[:, :1]).abs().mean())


def figures(runs: list[dict], reach: list[dict]) -> dict:
    box = kept_box((1, 1, FRAMES - 1, 8, 8))
    half = kept_box((1, 1, FRAMES - 1, 8, 8), keep_height=0.5, keep_width=0.5)
    return {
        "noise level of the content": round(TAU, 4),
        "low frequencies kept of 8x8": {"keep 0.23": f"{box[1]}x{box[2]}", "keep 0.5": f"{half[1]}x{half[2]}"},
        "runs": f"{len({run['seed'] for run in runs})} trainings x {len(SAMPLING_SEEDS)} sampling seeds, "
                f"{len(runs[0]['clips'])} held-out clips each, {len(CAPTIONS)} captions",
        "By initial noise (mean of clips and sampling seeds, then mean ± spread of the trainings)":
            [line(runs, mode) for mode in MODES],
        "Minus plain noise, same training, same noise (mean ± spread over all pairs)":
            [difference_line(runs, mode) for mode in list(MODES)[1:]],
        "How far the clip sampled from plain noise is from others, mean |difference| (± spread of the trainings)":
            [{"from": name, "of 255": spread([row[name] for row in reach], 3)} for name in reach[0] if name != "seed"],
    }  # fmt: skip


COLUMNS = (  # label, key, frame, which clips, digits, scale
    ("PSNR to the truth, dB", "psnr_db", None, moving, 2, 1),
    ("frame 2, dB", "psnr_db", 0, moving, 2, 1),
    ("still clips, dB", "psnr_db", None, standing, 2, 1),
    ("colour shift against frame 1, of 255", "first_colour_error", None, moving, 2, 255),
    ("frame 1 to 2, dB", "first_to_second_db", None, moving, 2, 1),
    ("dynamic degree, MS-SSIM", "degree", None, moving, 4, 1),
    ("flow to the middle frame, px", "flow_px", None, moving, 2, 1),
    ("direction right, %", "right", None, moving, 0, 100),
)


def value(run: dict, key: str, frame, which, scale) -> float:
    return scale * average(which(run["clips"], STILL), key, frame)


def line(runs, mode: str) -> dict:
    cells = {"initial noise": mode}
    for label, key, frame, which, digits, scale in COLUMNS:
        means = []
        for seed in sorted({run["seed"] for run in runs}):
            mine = [value(run, key, frame, which, scale) for run in runs if (run["mode"], run["seed"]) == (mode, seed)]
            means.append(sum(mine) / len(mine))
        cells[label] = spread(means, digits)
    return cells


def difference_line(runs, mode: str) -> dict:
    cells = {"initial noise": mode}
    plain = {(run["seed"], run["sampling_seed"]): run for run in runs if run["mode"] == "none"}
    for label, key, frame, which, digits, scale in COLUMNS:
        cells[label] = spread([value(run, key, frame, which, scale)
                               - value(plain[run["seed"], run["sampling_seed"]], key, frame, which, scale)
                               for run in runs if run["mode"] == mode], digits + 1)
    return cells


if __name__ == "__main__":
    main()
