"""E1: whole frames, residuals or consecutive differences: same network, clips, steps and seeds. Writes JSON.

Trains every arm from every seed on procedural pans and still clips (arms.py says what differs: nothing but x), samples
held-out clips from pure noise and compares them with the truth. Finished trainings are kept in --folder and not
repeated. One thread: some minutes a training.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from arm_scores import average, moving, ratio_of_last_to_second, score, stack_frames, standing
from arm_task import ArmTask, draw_pool
from arms import ARMS, CAPTIONS, FRAMES, Network, decode, held_out, sample_latents
from evidence_common import ROOT, finish, spread
from pack.motion.io.files.atomic import write_json
from pack.motion.training.config import TrainingConfig
from pack.motion.training.trainer import Trainer
from PIL import Image
from safetensors.torch import load_file, save_file

SEEDS = (0, 1, 2)
STILL = CAPTIONS.index("still") + 1
POOL = 768  # training clips
HELD_OUT_EACH = 8  # held-out clips of every caption
SAMPLING_STEPS = 25
CONFIG = {"num_steps": 200, "batch_size": 8, "learning_rate": 2.5e-3, "warmup_steps": 20, "optimizer": "muon",
          "beta2": 0.98, "ema_decay": 0.98, "precision": "bf16", "mode": "full", "shift": 3.0, "save_every": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "evidence_e1", help="finished trainings")
    parser.add_argument("--steps", type=int, default=CONFIG["num_steps"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs, pool = [], None
    for seed in arguments.seeds:
        for arm in ARMS:
            done = arguments.folder / f"{arm}-{seed}.json"
            if not done.is_file():
                pool = pool or draw_pool(POOL)
                write_json(done, train_and_score(arm, seed, arguments.steps, pool, arguments.folder))
            runs.append(json.loads(done.read_text()))
    finish("e1_residual", figures(runs), runs)


def weights_path(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm}-{seed}.safetensors"


def load_network(folder: Path, arm: str, seed: int) -> Network:
    """A trained network. Raises SystemExit where it was not trained yet."""
    path = weights_path(folder, arm, seed)
    if not path.is_file():
        raise SystemExit(f"{path} is missing; run benchmarks/evidence/e1_residual.py --folder {folder} first")
    network = Network(seed)
    network.load_state_dict(load_file(path))
    return network.eval()


def train_and_score(arm: str, seed: int, num_steps: int, pool, folder: Path) -> dict:
    """One run: its record for the results, its weights and a picture to look at beside it."""
    config = TrainingConfig.of(**{**CONFIG, "num_steps": num_steps, "seed": seed})
    network = Network(seed)
    trainer = Trainer(ArmTask(arm, network, pool, config.objective.caption_dropout), config, on_step=report(arm, seed))
    cpu = time.process_time()
    result = trainer.run()
    train_cpu_s = time.process_time() - cpu
    with trainer.averaged():
        save_file(network.state_dict(), weights_path(folder, arm, seed))
        clips = held_out(HELD_OUT_EACH)
        made = sample_clips(network, arm, clips, seed)
    picture = torch.cat([stack_frames({arm: made[at]}, clips.pictures[at]) for at in (0, 8, 17, 33)], -2)
    Image.fromarray((picture.movedim(0, -1) * 255).round().byte().numpy()).save(folder / f"{arm}-{seed}.png")
    return {"arm": arm, "seed": seed, "steps": num_steps, "parameters": sum(p.numel() for p in network.parameters()),
            "train_seconds": result.seconds, "train_cpu_s": train_cpu_s,
            "losses": [round(loss, 5) for loss in result.losses], "clips": score(made, clips)}


def report(arm: str, seed: int):
    def on_step(step) -> None:
        if step.step % 20 == 0:
            print(f"{arm} seed {seed} step {step.step} loss {step.loss:.4f} {step.seconds:.2f} s, of those drawing "
                  f"{step.data_seconds:.2f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    return on_step


def sample_clips(network: Network, arm: str, clips, seed: int) -> torch.Tensor:
    """Pictures (b, 3, FRAMES, 64, 64) sampled from pure noise; the noise of a seed is the same in every arm."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    noise = torch.randn(clips.latents[:, :, 1:].shape, generator=generator)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made = sample_latents(network, arm, clips.latents[:, :, :1], clips.caption_ids, clips.bucket, noise,
                              num_steps=SAMPLING_STEPS)
    return decode(made)


def figures(runs: list[dict]) -> dict:
    steps = sorted({run["steps"] for run in runs})
    gain = [advantage(runs, seed, "direct", 0) for seed in seeds(runs)]
    versus = [advantage(runs, seed, "difference") for seed in seeds(runs)]
    return {
        "trainings": f"{len(runs)}, seeds {', '.join(map(str, seeds(runs)))}, {steps[0]} steps of "
                     f"{CONFIG['batch_size']} clips of {FRAMES} frames",
        "parameters": runs[0]["parameters"],
        "processor seconds a training": spread([run["train_cpu_s"] for run in runs], 0),
        "residual over direct at frame 2, moving clips, dB": spread(gain),
        "the same, slower and faster half of these clips, dB": halves(runs),
        "residual over consecutive differences, all frames, moving clips, dB": spread(versus),
        "Held-out clips sampled from pure noise (mean of the clips, then mean ± spread of the seeds)":
            [arm_line(runs, arm) for arm in ARMS] + [static_line(runs)],
        "PSNR by frame, moving clips, dB": frame_table(runs, "psnr_db", moving),
        "PSNR by frame, still clips, dB": frame_table(runs, "psnr_db", standing),
        "Mean colour error by frame, still clips, of 255": frame_table(runs, "colour_error", standing, 255),
    }  # fmt: skip


def seeds(runs) -> list[int]:
    return sorted({run["seed"] for run in runs if all(any((r["arm"], r["seed"]) == (arm, run["seed"]) for r in runs)
                                                      for arm in ARMS)})


def pick(runs, arm: str, seed: int, key: str, frame: int | None = None, which=moving) -> float:
    rows = next(run["clips"] for run in runs if (run["arm"], run["seed"]) == (arm, seed))
    return average(which(rows, STILL), key, frame)


def advantage(runs, seed: int, other: str, frame: int | None = None) -> float:
    """PSNR of the residual arm minus that of another, dB, moving clips."""
    return pick(runs, "residual", seed, "psnr_db", frame) - pick(runs, other, seed, "psnr_db", frame)


def halves(runs) -> str:
    """The residual's advantage over whole frames at frame 2, in the slower and the faster half of the moving clips."""
    def half(rows, still_id: int, fast: bool) -> list[dict]:
        ordered = sorted(moving(rows, still_id), key=lambda row: row["true_px"])
        return ordered[len(ordered) // 2 :] if fast else ordered[: len(ordered) // 2]

    parts = []
    for fast in (False, True):
        def which(rows, still_id, fast=fast):
            return half(rows, still_id, fast)
        parts.append(spread([pick(runs, "residual", seed, "psnr_db", 0, which)
                             - pick(runs, "direct", seed, "psnr_db", 0, which) for seed in seeds(runs)]))
    return " and ".join(parts)


def over_seeds(runs, arm: str, key: str, frame=None, which=moving, digits: int = 2, scale: float = 1.0) -> str:
    return spread([scale * pick(runs, arm, seed, key, frame, which) for seed in seeds(runs)], digits)


def arm_line(runs, arm: str) -> dict:
    drift = [ratio_of_last_to_second(standing(run["clips"], STILL), "mse") for run in runs if run["arm"] == arm]
    right = [100 * pick(runs, arm, seed, "right") for seed in seeds(runs)]
    return {"x": arm, "frame 2, dB": over_seeds(runs, arm, "psnr_db", 0),
            "all frames, dB": over_seeds(runs, arm, "psnr_db"),
            "still clips, dB": over_seeds(runs, arm, "psnr_db", which=standing),
            "direction right, %": spread(right, 0), "speed ratio": over_seeds(runs, arm, "speed_ratio"),
            "sharpness, times the truth's": over_seeds(runs, arm, "sharpness"),
            "error of the last frame over frame 2's, still clips": spread(drift, 1)}


def static_line(runs) -> dict:
    """The first frame repeated, for comparison."""
    first = seeds(runs)[0]
    values = (pick(runs, "direct", first, "static_db", 0), pick(runs, "direct", first, "static_db"))
    return {"x": "(first frame repeated)", "frame 2, dB": f"{values[0]:.2f}", "all frames, dB": f"{values[1]:.2f}",
            "still clips, dB": "exact", "direction right, %": "0", "speed ratio": "0.00",
            "sharpness, times the truth's": "-", "error of the last frame over frame 2's, still clips": "-"}


def frame_table(runs, key: str, which, scale: float = 1.0) -> list[dict]:
    return [{"x": arm, **{f"{n + 2}": over_seeds(runs, arm, key, n, which, scale=scale) for n in range(FRAMES - 1)}}
            for arm in ARMS]


if __name__ == "__main__":
    main()
