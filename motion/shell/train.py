"""`motionblocks train`: a job file in, a LoRA or a model out; Ctrl-C saves."""

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace

from .console import for_console, say


def add_train(commands) -> None:
    command = commands.add_parser(
        "train", help="train a LoRA or a model on your clips", description="Train as a job file says (YAML or JSON).",
        epilog="Ctrl-C saves the state and stops; --resume goes on from there.",
    )  # fmt: skip
    command.add_argument("--config", required=True, metavar="JOB", help="job file, such as docs/training/pan_left.yaml")
    command.add_argument("--resume", action="store_true", help="go on from the newest whole state of this job")
    command.add_argument("--quiet", action="store_true", help="no progress lines")
    command.set_defaults(run=_train)


def _train(options) -> None:
    from tqdm import tqdm

    from ..training.distributed import open_world
    from ..training.job import read_job, run_job

    job = read_job(options.config)
    job = replace(job, resume="latest") if options.resume else job
    world = open_world()
    silent = options.quiet or world.rank > 0
    bars: dict[str, tqdm] = {}

    def on_text(text: str) -> None:
        if not silent:
            tqdm.write(for_console(text))

    def show(desc: str, unit: str, done: int, total: int, figures: dict | None = None) -> None:
        if desc not in bars:
            bars[desc] = tqdm(desc=desc, unit=unit, total=total, initial=done - 1, disable=silent)
        bars[desc].set_postfix(figures, refresh=False)
        bars[desc].update(1)
        if done == total:
            bars[desc].close()

    with _soft_stop() as check:

        def on_encode(done: int, total: int) -> None:
            show("encoding", "clip", done, total)
            check("nothing was trained; the clips encoded so far are kept")

        def on_step(report) -> None:
            figures = {"loss": f"{report.loss:.4g}", "lr": f"{report.learning_rate:.2g}"}
            show("training", "step", report.step, report.num_steps, figures)
            check(f"the state of step {report.step} is in {job.states}; --resume goes on from there")

        done = run_job(
            job, on_step=on_step, on_encode=on_encode, on_text=on_text,
            check=lambda: check("nothing was trained; the clips encoded so far are kept"), world=world,
        )  # fmt: skip
    if done.path is not None:
        result = done.training
        if result.problem:
            say(f"note: the last state was not saved: {result.problem}", sys.stderr)
        what = "LoRA" if job.training.mode == "lora" else "model"
        say(f"{what}: {os.path.abspath(done.path)} ({result.step} steps, last loss {result.losses[-1]:.4g})")


@contextmanager
def _soft_stop():
    """Yield check(text): raises KeyboardInterrupt(text) once Ctrl-C was pressed or the process was asked to end.

    So a step is finished and its state saved. A second Ctrl-C stops at once.
    """
    asked: list[int] = []

    def handler(number, frame):
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt("what was saved before is still there")
        asked.append(number)

    def check(text: str) -> None:
        if asked:
            raise KeyboardInterrupt(text)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)
