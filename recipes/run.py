"""The run that the training scripts of the built-in models share: progress lines, states, a file at every state."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..motion.training.config import TrainingConfig
from ..motion.training.reports import SaveReport, StepReport, Watcher
from ..motion.training.run import TrainingPlan, TrainingRun
from ..motion.training.task import Task


class Printing(Watcher):
    """Prints a line every few steps, and has weights written at every state. write(trainer)."""

    def __init__(self, write: Callable, report_every: int):
        self.write, self.report_every, self.losses = write, report_every, []

    def step(self, report: StepReport, losses: list[float]) -> None:
        self.losses.append(report.loss)
        if report.step % self.report_every == 0:
            mean, drawing = sum(self.losses) / len(self.losses), report.data_seconds / report.seconds
            print(f"step {report.step}/{report.num_steps} loss {mean:.4f} norm {report.gradient_norm:.2f} "
                  f"{report.seconds:.2f} s a step, drawing {drawing:.0%}", flush=True)
            self.losses.clear()

    def state(self, report: SaveReport, run: TrainingRun) -> None:
        if report.path:
            self.write(run.trainer)


def run_training(task: Task, config: TrainingConfig, arguments, write: Callable, *, report_every: int) -> None:
    """Train in arguments.folder, or go on there where arguments.resume says so. write(trainer) at every state."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    plan = TrainingPlan(
        config=config, task=lambda _: task, states=arguments.folder, resume="latest" if arguments.resume else None,
        allow_changes=arguments.changed,
    )  # fmt: skip
    TrainingRun(plan, Printing(write, report_every)).run()


def run_arguments(about: str, *, steps: int, batch: int, rate: float) -> argparse.ArgumentParser:
    """A parser of what every such script takes, with its own defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="states of the run; weights are written there too")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--changed", action="store_true", help="resume although steps or recipe differ")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe")
    return parser


def recipe_changes(recipe: type, given: list[str]) -> dict:
    """Settings "name=value" as values of the types the recipe's defaults have."""
    return {name: type(getattr(recipe, name))(value) for name, value in (change.split("=", 1) for change in given)}
