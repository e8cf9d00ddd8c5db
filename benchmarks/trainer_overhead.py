"""What the trainer adds to a bare torch loop, and how long it waits for data. Writes JSON.

Both train a copy of the built-in model on equal batches; every step of the trainer is followed by one of the bare loop,
so that whatever else the machine does falls on both. Ratios are of processor time, which other programs disturb least.
"""

import argparse
import copy
import statistics
import time

import torch
from builtin_common import load_model, save, verdict
from pack.motion.data.latent_dataset import WindowConfig, build_latent_dataset, builtin_encoders
from pack.motion.data.sources.generated import generate_collection
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import AdapterTask, adapter_task
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.motion.training.trainer import SampleKey, Trainer

WARM_UP = 3  # steps that are not counted
MODES = ("full", "lora")


class BareLoop:
    """The same training in the fewest lines of plain torch."""

    def __init__(self, task: AdapterTask, config: TrainingConfig):
        self.task, self.config = task, config
        self.values = list(task.parameters().values())
        told = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.values, lr=told.learning_rate, betas=(told.beta1, told.beta2), weight_decay=told.weight_decay
        )

    def step(self, index: int) -> float:
        """One step; returns the loss."""
        batch = self.task.draw([SampleKey(0, index, n) for n in range(self.config.loop.batch_size)])
        self.optimizer.zero_grad()
        loss = self.task.loss(batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.values, 1.0)
        self.optimizer.step()
        return loss.item()


def measure(mode: str, arguments) -> dict:
    """Processor time of each step of both loops, and the trainer's own wall time and data wait."""
    model = load_model()
    clips = generate_collection(8, motions=["pan left", "zoom in"], num_frames=arguments.frames, seed=1)
    windows = WindowConfig(num_frames=arguments.frames, stride_min=1, stride_max=1, windows_per_clip=1)
    dataset = build_latent_dataset(clips, model.spec, builtin_encoders(model), windows, cache_folder=None)
    config = TrainingConfig.of(num_steps=arguments.steps + WARM_UP, batch_size=arguments.batch, mode=mode)
    tasks = [adapter_task(LinearVideoTrainee(copy.deepcopy(model.dit), model.spec), dataset, config) for _ in range(2)]
    bare, rows, reports = BareLoop(tasks[1], config), [], []
    mark = time.process_time()

    def on_step(report) -> None:
        nonlocal mark
        trainer = time.process_time() - mark
        started = time.process_time()
        bare.step(report.step - 1)
        rows.append({"trainer_s": trainer, "bare_s": time.process_time() - started})
        reports.append(report)
        mark = time.process_time()

    trainer = Trainer(tasks[0], config, on_step=on_step)
    with tasks[1].running():
        mark = time.process_time()
        trainer.run()
    rows, reports = rows[WARM_UP:], reports[WARM_UP:]
    ours, plain = (statistics.median(row[name] for row in rows) for name in ("trainer_s", "bare_s"))
    wait = sum(report.data_seconds for report in reports) / sum(report.seconds for report in reports)
    return {"mode": mode, "trainer_s": ours, "bare_s": plain, "overhead": ours / plain - 1, "data_wait": wait,
            "ratios": [row["trainer_s"] / row["bare_s"] for row in rows]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="counted steps a mode")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(mode, arguments) for mode in MODES]
    figures = {}
    for row in rows:
        figures[f"overhead over a bare loop, {row['mode']}, share"] = verdict(row["overhead"], high=0.05)
        figures[f"data wait, {row['mode']}, share of a step"] = verdict(row["data_wait"], high=0.10)
        figures[f"step of the bare loop, {row['mode']}, processor s"] = round(row["bare_s"], 4)
    figures["steps a mode"], figures["frames"], figures["batch"] = arguments.steps, arguments.frames, arguments.batch
    save("trainer_overhead", figures, rows)


if __name__ == "__main__":
    main()
