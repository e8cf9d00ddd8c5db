"""E6: does a built-in model without a flow head pan? Trains two designs for the same steps; scores them on photographs.

    python benchmarks/evidence/e6_plain_residual.py                  train both, score both
    python benchmarks/evidence/e6_plain_residual.py --folder runs/e6 keep the weights there; train what is missing

Pans of 13 photographs at the working size, three sampling seeds, from pure noise; direction as in builtin_photos.py.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from evidence_common import finish, load_model, photo, photo_paths, psnr, sample, spread
from pack.motion.io.motion_model_file import read_motion_model, save_motion_model
from pack.motion.metrics.optical_flow import camera_motion, direction_agrees
from pack.motion.training.config import TrainingConfig
from pack.motion.training.task import SampleKey
from pack.motion.training.trainer import Trainer
from plain_task import DESIGNS, SIZE, WORDS, PlainTask

COMMAND = "python benchmarks/evidence/e6_plain_residual.py"
SEEDS = (0, 1, 2)  # of sampling
SHOWN = [0, 2, 4, 6, 8, 10]
HELD_OUT = [SampleKey(1_000_003, 0, index) for index in range(48)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/e6"))
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--train-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, rows = [], []
    for design in arguments.designs:
        path = arguments.folder / f"{design.replace(' ', '_')}.safetensors"
        if not path.is_file():
            train(design, path, arguments)
        if not arguments.train_only:
            mine = score(design, path)
            rows += mine
            table.append(figures(design, path, mine))
    if table:
        finish("e6_plain_residual", {"clips a step": arguments.batch, "photographs": 13, "sampling seeds": len(SEEDS),
                                     "Plain residuals, no flow head (goal: 80 % of pans right)": table}, rows)


def train(design: str, path: Path, arguments) -> None:
    """Train one design and write its averaged weights."""
    task = PlainTask(design, seed=0)
    config = TrainingConfig(
        num_steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, warmup_steps=30,
        beta2=0.98, optimizer="muon", ema_decay=0.98, mode="full", precision="bf16", save_every=100,
    )  # fmt: skip

    def report(step) -> None:
        if step.step % 50 == 0:
            print(f"{design}: step {step.step}/{step.num_steps} loss {step.loss:.3f} {step.seconds:.2f} s a step, "
                  f"residual energy left at sigma 0.999: {task.energy_left(HELD_OUT):.3f}", flush=True)

    states = path.with_suffix("")
    states.mkdir(parents=True, exist_ok=True)
    before = time.process_time()
    trainer = Trainer(task, config, folder=states, on_step=report,
                      resume="latest" if any(states.glob("state-*")) else None)
    trainer.run()
    with trainer.averaged():
        half = [{name: value.detach().to(torch.float16).contiguous() for name, value in module.state_dict().items()}
                for module in (task.dit, task.encoder)]
        left = task.energy_left(HELD_OUT)
    command = f"{COMMAND} --steps {arguments.steps} --batch {arguments.batch} --rate {arguments.rate}"
    save_motion_model(path, task.spec, *half, extra_metadata={
        "motions": json.dumps(list(WORDS)), "command": f"{command} --designs {design!r}", "steps": str(arguments.steps),
        "energy_left": f"{left:.3f}", "processor_seconds": f"{time.process_time() - before:.0f}"})


def score(design: str, path: Path) -> list[dict]:
    """A row a photograph, pan and seed: which way it moved; and how still "still" is."""
    model, rows = load_model(path), []
    for name, file in photo_paths().items():
        picture = photo(file, long_side=SIZE)
        first = model.codec.encode(picture[None, :, None])
        for word in WORDS:
            latents = sample(model, first.expand(len(SEEDS), -1, -1, -1, -1), [word] * len(SEEDS), 12, seeds=SEEDS)
            for seed, clip in zip(SEEDS, model.codec.decode(latents)):
                row = {"design": design, "photo": name, "motion": word, "seed": seed}
                if word == "still":
                    rows.append({**row, "psnr_db": min(psnr(clip[:, n], clip[:, 0]) for n in range(1, 16))})
                    continue
                shown = clip[:, SHOWN].movedim(0, -1)
                found = camera_motion(shown)
                rows.append({**row, "right": bool(direction_agrees(word, shown)), "dx": found.dx, "dy": found.dy})
    return rows


def figures(design: str, path: Path, rows: list[dict]) -> dict:
    """One line of the table."""
    file = read_motion_model(path)
    pans = [row for row in rows if "right" in row]
    share = {word: [row["right"] for row in pans if row["motion"] == word] for word in WORDS if word != "still"}
    way = [max(abs(row["dx"]), abs(row["dy"])) for row in pans]
    return {
        "design": design, "parameters": sum(value.numel() for value in file.state_dict.values()),
        "training steps": file.metadata["steps"], "processor seconds": file.metadata["processor_seconds"],
        "residual energy left at sigma 0.999": file.metadata["energy_left"],
        "pans right, %": round(100 * sum(row["right"] for row in pans) / len(pans), 1),
        **{f"{word}, %": round(100 * sum(values) / len(values), 1) for word, values in share.items()},
        "way over 10 frames, px of 64": spread(way), "still, lowest dB": round(
            min(row["psnr_db"] for row in rows if "psnr_db" in row), 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
