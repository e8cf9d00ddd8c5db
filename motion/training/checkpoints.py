"""Saving a run and taking it up again: what a state holds, when it is refused, and what is said about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...kernels.foreign_text import safe_logger
from ..errors import CheckpointError, ConfigError
from ..io.training import states
from ..io.training.states import TrainingState
from .reports import SaveReport
from .task import Resumable

LISTED = 8
_log = safe_logger("motionblocks.training")


class Checkpoints:
    """The states of one trainer. folder None: nothing is saved; a state may still be resumed from its path."""

    def __init__(self, trainer: Resumable, folder: Path | None, resume: str | Path | None, allow_changes: bool):
        self.trainer, self.folder = trainer, None if folder is None else Path(folder)
        self.resume, self.allow_changes = resume, allow_changes
        self.newest: Path | None = None
        self.problem = ""
        self.remarks: tuple[str, ...] = ()  # on the state it went on from

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the folder, find the state to go on from and put it into the trainer."""
        main = self.trainer.world.rank == 0
        if self.folder is None or not main:
            self._restore()
            yield
            return
        with states.training_folder(self.folder):
            self._restore()
            yield

    def keep(self) -> str:
        """Save the trainer's state unless that step is saved already; returns why it failed, "" when it did not.

        A failed save ends nothing: what was there is still there, and the next save tries again.
        """
        trainer, self.problem = self.trainer, ""
        if self.folder is None or trainer.world.rank or self._is_saved(trainer.step):
            return ""
        try:
            self.newest = states.save_state(self.folder, trainer.step, *trainer.state())
            states.prune_states(self.folder, trainer.config.loop.keep_states)
        except (CheckpointError, ConfigError, OSError, MemoryError, RuntimeError) as error:
            self.problem = str(error) or type(error).__name__
            _log.warning("MotionBlocks training: the state of step %d was not saved: %s", trainer.step, self.problem)
        return self.problem

    def keep_and_report(self) -> str:
        """`keep`, and tell on_save."""
        trainer = self.trainer
        already = self._is_saved(trainer.step)
        problem = self.keep()
        if self.folder is not None and not trainer.world.rank and trainer.on_save and not already:
            trainer.on_save(SaveReport(trainer.step, None if problem else self.newest, problem))
        return problem

    def _is_saved(self, step: int) -> bool:
        return self.folder is not None and self.newest == states.state_path(self.folder, step)

    def _restore(self) -> None:
        state = self._find()
        if state is None:
            return
        changes = self._changes(state.record)
        if changes and not self.allow_changes:
            shown = "; ".join(changes[:LISTED]) + (f"; and {len(changes) - LISTED} more" if changes[LISTED:] else "")
            raise ConfigError(
                f"{state.path} was saved by another run: {shown}; put these back, or allow changes to go on with the "
                "current settings"
            )
        self.trainer.load_state(state)
        self.newest = state.path
        _log.info("MotionBlocks training: resumed at step %d from %s", state.step, state.path)
        self.remarks = tuple(self._remarks(state.record))
        for line in self.remarks:
            _log.warning("MotionBlocks training: %s", line)
        if changes:
            _log.warning("MotionBlocks training: resumed with changes: %s", "; ".join(changes))

    def _find(self) -> TrainingState | None:
        """The state to go on from, None for a fresh start. Raises where a start at 0 would lose or mix something."""
        own = states.list_states(self.folder) if self.folder is not None else []
        if self.resume is None:
            if own:
                raise ConfigError(
                    f"{self.folder} holds states of an earlier run ({own[0].name}); resume it, or choose another folder"
                )
            return None
        source = self.folder if self.resume == "latest" else Path(self.resume)
        if source is None:
            raise ConfigError('resume is "latest" but there is no folder to look in; name the folder or a state')
        if (source / "state.json").is_file():
            state = states.read_state(source)
        else:
            state, passed = states.newest_state(source)
            if passed:
                _log.warning("MotionBlocks training: passed over %s", "; ".join(passed))
            if state is None and (passed or self.resume != "latest"):
                raise CheckpointError(
                    f"{source} holds no whole training state{': ' if passed else ''}{'; '.join(passed[:LISTED])}; "
                    "choose another folder to start anew"
                )
        if state is None:
            _log.warning("MotionBlocks training: %s holds no state yet; it starts at step 0", source)
        elif source != self.folder:
            self._refuse_later(own, state)
        return state

    def _refuse_later(self, own: list[Path], state: TrainingState) -> None:
        """Two lines of states in one folder would be mixed. Raises ConfigError."""
        later = [path.name for path in own if path != state.path and path.name >= state.path.name]
        if later:
            raise ConfigError(
                f"{self.folder} holds {', '.join(later[:LISTED])}, not older than the state to resume, {state.path}; "
                "resume the latest, or choose another folder"
            )

    def _changes(self, record: dict) -> list[str]:
        trainer = self.trainer
        settings, task = _dict(record.get("config")), _dict(record.get("task"))
        now = trainer.config.comparable()
        settings = {**type(trainer.config)().comparable(), **settings}  # a setting it lacks is younger than the state
        before = {"training": {name: value for name, value in settings.items() if name in now},
                  "processes": record.get("num_processes")}  # fmt: skip
        lines = differences(before, {"training": now, "processes": trainer.world.size})
        in_words = getattr(trainer.task, "differences", None)
        return lines + (in_words(task) if in_words else differences(task, trainer.task.fingerprint()))

    def _remarks(self, record: dict) -> list[str]:
        """What a task wants said of an earlier state that it goes on from."""
        in_words = getattr(self.trainer.task, "remarks", None)
        return in_words(_dict(record.get("task"))) if in_words else []

def differences(before, now, name: str = "") -> list[str]:
    """What differs between two plain values, a line each: "training.seed was 0, is 1"."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now}, key=str)
        return [line for key in names for line in differences(
            before.get(key), now.get(key), f"{name}.{key}" if name else str(key))]  # fmt: skip
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [line for index, (old, new) in enumerate(zip(before, now))
                for line in differences(old, new, f"{name}[{index}]")]  # fmt: skip
    return [] if before == now else [f"{name} was {_short(before)}, is {_short(now)}"]


def _short(value) -> str:
    if isinstance(value, (dict, list)):
        return f"{len(value)} entries"
    text = "not there" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _dict(value) -> dict:
    return value if isinstance(value, dict) else {}
