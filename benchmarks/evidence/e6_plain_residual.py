"""E6: does a built-in model without a flow head pan? Trains one, and scores it on photographs.

    python benchmarks/evidence/e6_plain_residual.py
    python benchmarks/evidence/e6_plain_residual.py --weights weights/motionblocks-plain.safetensors     score alone

Pans of 13 photographs at the working size, three sampling seeds, from pure noise; direction as in builtin_photos.py.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from evidence_common import finish, load_model, photo, photo_paths, psnr, sample, spread, verdict
from pack.motion.io.networks.linear_video import read_linear_video, save_linear_video
from pack.motion.metrics.optical_flow import camera_motion, direction_agrees
from pack.motion.training.config import TrainingConfig
from pack.motion.training.task import SampleKey
from pack.motion.training.trainer import Trainer
from plain_task import SIZE, WORDS, PlainTask

COMMAND = "python benchmarks/evidence/e6_plain_residual.py"
SEEDS = (0, 1, 2)  # of sampling
SHOWN = [0, 2, 4, 6, 8, 10]
HELD_OUT = [SampleKey(1_000_003, 0, index) for index in range(48)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="score this file and train nothing")
    parser.add_argument("--folder", type=Path, default=Path("runs/e6"), help="of the training's states")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.weights or train(arguments)
    rows = score(path)
    finish("e6_plain_residual", {"photographs": 13, "sampling seeds": len(SEEDS), **figures(path, rows)}, rows)


def train(arguments) -> Path:
    """Train and write the averaged weights; returns the file."""
    task = PlainTask(seed=0)
    config = TrainingConfig.of(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=30,
        beta2=0.98, optimizer="muon", ema_decay=0.98, mode="full", precision="bf16", save_every=100,
    )  # fmt: skip

    def report(step) -> None:
        if step.step % 50 == 0:
            print(f"step {step.step}/{step.num_steps} loss {step.loss:.3f} {step.seconds:.2f} s a step, "
                  f"residual energy left at sigma 0.999: {task.energy_left(HELD_OUT):.3f}", flush=True)

    arguments.folder.mkdir(parents=True, exist_ok=True)
    before = time.process_time()
    trainer = Trainer(task, config, folder=arguments.folder, on_step=report)
    trainer.run()
    with trainer.averaged():
        half = [{name: value.detach().to(torch.float16).contiguous() for name, value in module.state_dict().items()}
                for module in (task.dit, task.encoder)]
        left = task.energy_left(HELD_OUT)
    command = f"{COMMAND} --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    path = arguments.folder / "motionblocks-plain.safetensors"
    save_linear_video(path, task.spec, *half, extra_metadata={
        "motions": json.dumps(list(WORDS)), "command": command, "steps": str(arguments.steps),
        "energy_left": f"{left:.3f}", "processor_seconds": f"{time.process_time() - before:.0f}"})
    return path


def score(path: Path) -> list[dict]:
    """A row a photograph, pan and seed: which way it moved; and how still "still" is."""
    model, rows = load_model(path), []
    for name, file in photo_paths().items():
        picture = photo(file, long_side=SIZE)
        first = model.codec.encode(picture[None, :, None])
        for word in WORDS:
            latents = sample(model, first.expand(len(SEEDS), -1, -1, -1, -1), [word] * len(SEEDS), 12, seeds=SEEDS)
            for seed, clip in zip(SEEDS, model.codec.decode(latents)):
                row = {"photo": name, "motion": word, "seed": seed}
                if word == "still":
                    rows.append({**row, "psnr_db": min(psnr(clip[:, n], clip[:, 0]) for n in range(1, 16))})
                    continue
                shown = clip[:, SHOWN].movedim(0, -1)
                found = camera_motion(shown)
                rows.append({**row, "right": bool(direction_agrees(word, shown)), "dx": found.dx, "dy": found.dy})
    return rows


def figures(path: Path, rows: list[dict]) -> dict:
    """How it was trained, and what it does."""
    file = read_linear_video(path)
    pans = [row for row in rows if "right" in row]
    share = {word: [row["right"] for row in pans if row["motion"] == word] for word in WORDS if word != "still"}
    way = [max(abs(row["dx"]), abs(row["dy"])) for row in pans]
    return {
        "parameters": sum(value.numel() for value in file.state_dict.values()),
        "training steps": file.metadata["steps"], "processor seconds": file.metadata["processor_seconds"],
        "residual energy left at sigma 0.999": file.metadata["energy_left"],
        "pans right, %": verdict(100 * sum(row["right"] for row in pans) / len(pans), low=80),
        **{f"{word}, %": round(100 * sum(values) / len(values), 1) for word, values in share.items()},
        "way over 10 frames, px of 64": spread(way), "still, lowest dB": round(
            min(row["psnr_db"] for row in rows if "psnr_db" in row), 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
