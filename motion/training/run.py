"""One training from its plan to its saved weights.

The node, the shell's job and the recipes differ in what they put into a plan and in who watches; all that happens in
between stands here, once.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...kernels.foreign_text import safe_logger
from ..data.latent_dataset import LatentDataset, OnStep
from ..errors import CheckpointError, ConfigError
from .config import TrainingConfig
from .processes import OneProcess, World
from .reports import TrainingResult, Watcher
from .task import Task
from .trainer import Trainer

_log = safe_logger("motionblocks.training")


@dataclass(frozen=True)
class TrainingPlan:
    """What a run is made of.

    dataset(on_step) and task(its data set, or None) are called when their turn comes, so that the memory of encoders
    is free before a network needs it. write(task, metadata) saves the trained weights, which it finds in their place,
    and returns the path of their file; without it only states are kept. draw(task, step) makes a sample with the
    weights of the moment, without gradients: before the first step, every sample_every steps and at the end.
    """

    config: TrainingConfig
    task: Callable[[LatentDataset | None], Task]
    states: Path | None  # folder of the saved states; None keeps none
    dataset: Callable[[OnStep], LatentDataset] | None = None
    write: Callable[[Task, dict[str, str]], Path] | None = None
    draw: Callable[[Task, int], Any] | None = None
    metadata: dict[str, str] = field(default_factory=dict)  # of the weights' file, beside what the run says itself
    resume: str | Path | None = None  # "latest" or the path of a state
    allow_changes: bool = False  # resume although data or settings differ
    keep_unfinished: bool = False  # write the weights so far when something ends the run
    world: World = field(default_factory=OneProcess)
    device: torch.device | str | None = None  # default: that of the parameters


@dataclass(frozen=True)
class TrainingOutcome:
    """A finished run."""

    training: TrainingResult
    path: Path | None  # of the weights' file; None where none is written, as in processes that are not the main one
    summary: str  # of the data and of what was chosen for the user, "" where there is nothing to say
    metadata: dict[str, str]


class TrainingRun:
    """A run of a plan. What can be refused is refused before the first step.

    Raises ConfigError, CheckpointError and ShapeError; what ends a run passes after its state is saved.
    """

    def __init__(self, plan: TrainingPlan, watcher: Watcher | None = None):
        self.plan, self.watcher = plan, watcher or Watcher()
        self.dataset = None
        if plan.dataset is not None:
            with plan.world.main_first():
                self.dataset = plan.dataset(self.watcher.encoding)
            self.watcher.say(self.dataset.summary())
        self.task = plan.task(self.dataset)
        for note in getattr(self.task, "notes", ()):
            self.watcher.say(note)
        self.trainer = Trainer(
            self.task, plan.config, folder=plan.states, resume=plan.resume, allow_changes=plan.allow_changes,
            on_step=lambda report: self.watcher.step(report, self.trainer.losses),
            on_save=lambda report: self.watcher.state(report, self),
            on_sample=self._sample if plan.draw is not None else None, world=plan.world, device=plan.device,
        )  # fmt: skip
        self._sampled_at: int | None = None

    def run(self) -> TrainingOutcome:
        """Train to the last step, save, and say what is left."""
        is_main = self.plan.world.rank == 0
        if self.plan.draw is not None and is_main:
            self._draw(0)
        finished = False
        try:
            result = self.trainer.run()
            finished = True
        finally:
            if not finished:
                self._rescue()
        path = self._write() if is_main else None
        if self.plan.draw is not None and is_main and self._sampled_at != result.step:
            with self._running():
                self._sample(result.step)
        lines = [self.dataset.summary()] if self.dataset is not None else []
        lines += [*getattr(self.task, "notes", ()), *self.trainer.checkpoints.remarks]
        return TrainingOutcome(result, path, "\n".join(lines), self.metadata())

    def metadata(self) -> dict[str, str]:
        """What the weights' file says of their training."""
        step, num_steps = self.trainer.step, self.plan.config.loop.num_steps
        told = {"training": json.dumps(self.plan.config.to_dict()), "training_steps": str(step)}
        if step < num_steps:
            told["training_stopped_early"] = f"after step {step} of {num_steps}"
        if self.dataset is not None:
            told["training_data"] = self.dataset.fingerprint
        return {**self.plan.metadata, **told}

    def close(self) -> None:
        """Drop network, data and optimizer, also where an exception keeps this frame alive."""
        self.task = self.trainer = self.dataset = None

    def _sample(self, step: int) -> None:
        with self.trainer.averaged():
            self._draw(step)

    def _draw(self, step: int) -> None:
        with torch.no_grad():
            picture = self.plan.draw(self.task, step)
        self._sampled_at = step
        self.watcher.sample(step, self.plan.config.loop.num_steps, picture)

    def _running(self):
        return getattr(self.task, "running", nullcontext)()

    def _write(self) -> Path | None:
        """Save the averaged weights. Raises CheckpointError."""
        if self.plan.write is None:
            return None
        with self.trainer.averaged(), torch.no_grad():
            return self.plan.write(self.task, self.metadata())

    def _rescue(self) -> None:
        """Save the weights so far on the way out of a run that something ended; the exception passes."""
        trainer = self.trainer
        if not self.plan.keep_unfinished or self.plan.world.rank or not trainer.step or trainer.is_torn:
            return
        try:
            path = self._write()
        except (CheckpointError, ConfigError, OSError, MemoryError, RuntimeError) as error:
            _log.warning("MotionBlocks training: the weights so far were not saved: %s", error)
            return
        state = trainer.checkpoints.newest
        text = f"stopped after step {trainer.step}\nweights so far: {path}\nstate: {state or 'not saved'}"
        _log.warning("MotionBlocks training: %s", text.replace("\n", "; "))
        self.watcher.say(text)
