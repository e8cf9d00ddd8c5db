"""`motionblocks train`: a job file in, an adapter or a model out; Ctrl-C saves."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..training.reports import StepReport, Watcher
from .console import for_console, say

NAMES = {"lora": "LoRA", "miva": "motion adapter"}
NOTHING_TRAINED = "nothing was trained; the clips encoded so far are kept"
SAME_PRESS = 1.0  # seconds in which a second Ctrl-C counts as the first


def add_train(commands) -> None:
    command = commands.add_parser(
        "train", help="train an adapter or a model on your clips",
        description="Train as a job file says (YAML or JSON).",
        epilog="Ctrl-C saves the state and stops; --resume goes on from there.",
    )  # fmt: skip
    command.add_argument("--config", required=True, metavar="JOB", help="job file, such as docs/training/pan_left.yaml")
    command.add_argument("--resume", action="store_true", help="go on from the newest whole state of this job")
    command.add_argument("--quiet", action="store_true", help="no progress lines")
    command.set_defaults(run=_train)


def _train(options) -> None:
    from ..training.distributed import open_world
    from ..training.job import read_job, run_job

    job = read_job(options.config)
    job = replace(job, resume="latest") if options.resume else job
    world = open_world()
    with soft_stop() as check:
        watcher = Terminal(str(job.states), check, silent=options.quiet or world.rank > 0)
        done = run_job(job, watcher, check=lambda: check(NOTHING_TRAINED), world=world)
    told = job.training.adapter
    kinds = ("motion LoRA", job.motion), ("pose LoRA", job.pose), ("model", told.mode == "full")
    report_training(done, next((what for what, asked in kinds if asked), NAMES[told.adapter]))


def report_training(done, what: str) -> None:
    """Say where the result of a training lies, in the process that wrote it."""
    if done.path is None:
        return
    result = done.training
    if result.problem:
        say(f"note: the last state was not saved: {result.problem}", sys.stderr)
    say(f"{what}: {os.path.abspath(done.path)} ({result.step} steps, last loss {result.losses[-1]:.4g})")


class Terminal(Watcher):
    """Progress bars and lines of text; check(text) ends the run where the user asked for it."""

    def __init__(self, states: str, check: Callable[[str], None], *, silent: bool):
        self.states, self.check, self.silent = states, check, silent
        self._bars: dict = {}

    def say(self, text: str) -> None:
        from tqdm import tqdm

        if not self.silent:
            tqdm.write(for_console(text))

    def encoding(self, done: int, total: int) -> None:
        self._show("encoding", "clip", done, total)
        self.check(NOTHING_TRAINED)

    def step(self, report: StepReport, losses: list[float]) -> None:
        figures = {"loss": f"{report.loss:.4g}", "lr": f"{report.learning_rate:.2g}"}
        self._show("training", "step", report.step, report.num_steps, figures)
        self.check(f"the state of step {report.step} is in {self.states}; --resume goes on from there")

    def sample(self, step: int, num_steps: int, picture: Path) -> None:
        self.say(f"sample after step {step}: {picture}")

    def _show(self, desc: str, unit: str, done: int, total: int, figures: dict | None = None) -> None:
        from tqdm import tqdm

        if desc not in self._bars:
            self._bars[desc] = tqdm(desc=desc, unit=unit, total=total, initial=done - 1, disable=self.silent)
        self._bars[desc].set_postfix(figures, refresh=False)
        self._bars[desc].update(1)
        if done == total:
            self._bars[desc].close()


@contextmanager
def soft_stop():
    """Yield check(text): raises KeyboardInterrupt(text) once Ctrl-C was pressed or the process was asked to end.

    So a step is finished and its state saved. A second Ctrl-C stops at once; launchers pass the first one on to
    processes that the terminal has told already, so what follows within a second is the same.
    """
    asked: dict[int, float] = {}

    def handler(number, frame):
        now = time.monotonic()
        if now - asked.setdefault(number, now) > SAME_PRESS and number == signal.SIGINT:
            raise KeyboardInterrupt("what was saved before is still there")

    def check(text: str) -> None:
        if asked:
            raise KeyboardInterrupt(text)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)
