"""What the page sees of a training run: progress, a line of text, sample frames, and the loss curve as messages.

web/js/loss_curve.js draws the curve; every message holds all of it, so a page that was reloaded catches up.
"""

import time

from torch import Tensor

from ...motion.training.reports import StepReport, Watcher
from ..host import page, progress
from . import previews

LOSS_EVENT = "motionblocks.loss"
SHOW_SECONDS = 0.25  # between two updates of the page
CURVE_POINTS = 256  # sent to the page at most


class Page(Watcher):
    """Progress bar, line of text and loss curve of the running node; a silent one where there is no page."""

    def __init__(self, node_id: str | None, num_steps: int):
        self.node_id, self.bar = node_id, progress.progress_bar(num_steps)
        self.strips: list[Tensor] = []
        self._shown = 0.0

    def encoding(self, done: int, total: int) -> None:
        progress.throw_if_cancelled()
        if self._is_due() or done == total:
            page.show_text(f"encoding clips: window {done} of {total}", self.node_id)

    def step(self, report: StepReport, losses: list[float]) -> None:
        """Show a finished step; raises the host's exception when the user pressed Cancel."""
        self.bar.update_absolute(report.step, report.num_steps)
        if self._is_due() or report.step in (1, report.num_steps):
            minutes, seconds = divmod(round((report.num_steps - report.step) * report.seconds), 60)
            page.show_text(
                f"step {report.step} of {report.num_steps}: loss {report.loss:.4g}\n{report.seconds:.2f} s a step, "
                f"about {minutes} min {seconds} s left", self.node_id,
            )  # fmt: skip
            self.curve(losses, report.num_steps)
        progress.throw_if_cancelled()

    def curve(self, losses: list[float], num_steps: int) -> None:
        if self.node_id is not None:
            page.send_event(LOSS_EVENT, {"node": self.node_id, **curve_of(losses, num_steps)})

    def sample(self, step: int, num_steps: int, picture: Tensor) -> None:
        self.strips.append(picture)
        self.bar.update_absolute(step, num_steps, previews.to_jpeg(picture))

    def say(self, text: str) -> None:
        page.show_text(text, self.node_id)

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = now - self._shown >= SHOW_SECONDS
        self._shown = now if due else self._shown
        return due


def curve_of(losses: list[float], num_steps: int) -> dict:
    """The loss curve as the page draws it: means of equal stretches when there are many steps."""
    stretch = -(-len(losses) // CURVE_POINTS) or 1
    parts = [losses[start : start + stretch] for start in range(0, len(losses), stretch)]
    points = [[min((n + 1) * stretch, len(losses)), sum(part) / len(part)] for n, part in enumerate(parts)]
    return {"num_steps": num_steps, "points": points}
