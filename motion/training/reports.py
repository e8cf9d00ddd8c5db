"""What a run tells of itself while it goes on and at its end, and who hears it. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """One finished step."""

    step: int  # steps finished, 1 to num_steps
    num_steps: int
    loss: float  # mean over the global batch
    learning_rate: float
    gradient_norm: float  # before clipping
    seconds: float  # of this step
    data_seconds: float  # of those, spent drawing


@dataclass(frozen=True)
class SaveReport:
    """One attempt to save."""

    step: int  # steps finished
    path: Path | None  # folder of the state; None when the save failed
    problem: str = ""  # why it failed; what was there before is still there


@dataclass(frozen=True)
class TrainingResult:
    """A finished run."""

    step: int
    losses: tuple[float, ...]  # one a step, from the very first, also of the runs before a resume
    seconds: float  # of this run
    data_seconds: float  # of those, spent drawing
    state_path: Path | None  # newest whole state
    problem: str = ""  # why the last save failed, "" when it did not


class Watcher:
    """Sees a run. What a method raises (a cancel) ends the run after its state is saved. This one looks away."""

    def say(self, text: str) -> None:
        """Lines to show."""

    def encoding(self, done: int, total: int) -> None:
        """One more window of the clips is encoded."""

    def step(self, report: StepReport, losses: list[float]) -> None:
        """A finished step, and the losses of all steps so far."""

    def state(self, report: SaveReport, run: Any) -> None:
        """A state was saved, or could not be."""

    def sample(self, step: int, num_steps: int, picture: Any) -> None:
        """What `TrainingPlan.draw` made after so many steps."""
