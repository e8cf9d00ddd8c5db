"""The training loop: any task, warm-up and schedule, accumulation, clipping, running average, safe stops and saves.

Two promises. A step that is not finite never reaches the weights. Whatever ends a run (cancel, out of memory, an error
of the task), the state is saved first and the original exception goes on.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ...kernels.foreign_text import safe_logger
from ..errors import CheckpointError, ConfigError, ShapeError
from ..io.training.states import TrainingState
from .checkpoints import Checkpoints
from .config import TrainingConfig
from .optimizers import build_optimizers, optimizer_tensors, restore_optimizers
from .processes import OneProcess, World
from .reports import SaveReport, StepReport, TrainingResult
from .task import SampleKey, Task

__all__ = ["SampleKey", "SaveReport", "StepReport", "Task", "Trainer", "TrainingResult"]
_log = safe_logger("motionblocks.training")


class Trainer:
    """One run of a task.

    folder: where states are saved and found again; None = nothing is saved. resume: "latest", the path of a state, or
    None for a fresh start. allow_changes: go on although task or settings differ from those of the state.
    on_step(StepReport), on_save(SaveReport) and on_sample(steps finished) are called by the main process; what they
    raise ends the run after its state is saved. world: the processes that share the run. device: default is that of
    the parameters, which are float32 and not the host's inference tensors.
    Raises ConfigError and CheckpointError before the first step for what cannot be trained, resumed or saved.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, *, folder: Path | None = None, resume: str | Path | None = None,
        allow_changes: bool = False, on_step: Callable[[StepReport], None] | None = None,
        on_save: Callable[[SaveReport], None] | None = None, on_sample: Callable[[int], None] | None = None,
        world: World | None = None, device: torch.device | str | None = None,
    ):  # fmt: skip
        self.task, self.config, self.world = task, config, world or OneProcess()
        self.loop = config.loop
        self.on_step, self.on_save, self.on_sample = on_step, on_save, on_sample
        self.parameters = check_parameters(task.parameters())
        self.values = list(self.parameters.values())
        self.device = torch.device(device) if device is not None else self.values[0].device
        self.step, self.losses = 0, []
        self.seconds = self.data_seconds = 0.0
        self._batch, self._stepping, self._calling = None, False, False
        with torch.inference_mode(False):
            matrices = getattr(task, "matrices", lambda: None)()
            self.optimizers = build_optimizers(self.parameters, config.optimizer, matrices)
            self.average = [value.detach().clone() for value in self.values] if self.loop.ema_decay else None
        self.checkpoints = Checkpoints(self, folder, resume, allow_changes)

    @property
    def is_torn(self) -> bool:
        """True when a run was interrupted in the middle of an update: such weights are neither old nor new."""
        return self._stepping

    def run(self) -> TrainingResult:
        """Train from the resumed step, or from 0, to the last; see the class for what may be raised."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            cards = [self.device] if self.device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(devices=cards))
            stack.enter_context(self.checkpoints.opened())
            stack.enter_context(getattr(self.task, "running", nullcontext)())
            self.world.equalize([*self.values, *(self.average or ())])
            finished = False
            try:
                while self.step < self.loop.num_steps:
                    self._advance()
                finished = True
            finally:
                if not finished:
                    self._stopped()
            problem = self.checkpoints.keep_and_report()
        return TrainingResult(
            self.step, tuple(self.losses), self.seconds, self.data_seconds, self.checkpoints.newest, problem
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the running average into the parameters for the time of the block; nothing happens without one."""
        if self.average is None:
            yield
            return
        with torch.inference_mode(False), torch.no_grad():
            kept = [value.detach().clone() for value in self.values]
            torch._foreach_copy_(self.values, self.average)
            try:
                yield
            finally:
                torch._foreach_copy_(self.values, kept)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict]:
        """Tensors by file and name, and settings with fingerprints, for a state on disk.

        Random numbers come from (seed, step, index), so no generator is kept.
        """
        tensors = {
            "weights": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": optimizer_tensors(self.optimizers, self.parameters),
            "log": {"loss": torch.tensor(self.losses, dtype=torch.float64)},
        }
        if self.average is not None:
            tensors["ema"] = dict(zip(self.parameters, self.average))
        return tensors, {
            "config": self.config.to_dict(), "num_processes": self.world.size, "task": self.task.fingerprint(),
            "versions": {"torch": str(torch.__version__)},
        }  # fmt: skip

    def load_state(self, state: TrainingState) -> None:
        """Go on from a state; nothing is changed before all of it has been compared.

        Raises CheckpointError and ConfigError for the state of another model or adapter, or of a longer run.
        """
        weights, average = state.tensors.get("weights", {}), state.tensors.get("ema")
        for part in (weights, average if average is not None else weights):
            _compare(state.path, part, self.parameters)
        losses = state.tensors.get("log", {}).get("loss")
        if losses is None or losses.shape != (state.step,):
            raise CheckpointError(f"{state.path}: its log does not hold one loss a step; use an earlier state")
        if state.step > self.loop.num_steps:
            raise ConfigError(f"{state.path} has {state.step} steps behind it; num_steps is {self.loop.num_steps}")
        before = state.record.get("config")
        if isinstance(before, dict) and before.get("optimizer") == self.config.optimizer.optimizer:
            restore_optimizers(self.optimizers, self.parameters, state.tensors.get("optimizer", {}))
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(weights[name])
            for name, mean in zip(self.parameters, self.average or ()):
                mean.copy_((average or weights)[name])
        self.step, self.losses = state.step, losses.tolist()

    def _advance(self) -> None:
        """One step, then what is due after it."""
        report = self._step()
        self._calling = True
        main = self.world.rank == 0
        if self.loop.save_every and self.step % self.loop.save_every == 0 and self.step < self.loop.num_steps:
            self.checkpoints.keep_and_report()
        if main and self.on_sample and self.loop.sample_every and self.step % self.loop.sample_every == 0:
            with torch.no_grad():
                self.on_sample(self.step)
        if main and self.on_step:
            self.on_step(report)
        self._calling = False

    def _step(self) -> StepReport:
        started, config = time.perf_counter(), self.config
        self._seed()
        for value in self.values:
            value.grad = None
        losses, data_seconds = self._together()
        loss = torch.cat(losses).sum().to(self.device) / self._global_batch()
        gradients = [value.grad for value in self.values if value.grad is not None]
        self.world.sum_([*gradients, loss])
        norm = torch.nn.utils.clip_grad_norm_(self.values, config.optimizer.max_gradient_norm or math.inf)
        loss, norm = torch.stack((loss, norm.to(loss))).tolist()  # the one place a step waits for the device
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(loss, norm, losses)
        rate = config.learning_rate_at(self.step)
        self._update(rate)
        self.losses.append(loss)
        seconds = time.perf_counter() - started
        self.seconds, self.data_seconds = self.seconds + seconds, self.data_seconds + data_seconds
        return StepReport(self.step, self.loop.num_steps, loss, rate, norm, seconds, data_seconds)

    def _together(self) -> tuple[list[Tensor], float]:
        """`_accumulate` on every process; when one of them fails, none waits for it."""
        failed = True
        try:
            done = self._fitting()
            failed = False
        finally:
            elsewhere = self.world.any_failed(failed)
        if elsewhere:
            raise CheckpointError(
                f"another process of this run stopped at step {self.step + 1} of {self.loop.num_steps}; its own "
                "message says why"
            )
        return done

    def _fitting(self) -> tuple[list[Tensor], float]:
        """`_accumulate`, tried again for as long as the task finds a way to do with less memory."""
        while True:
            try:
                return self._accumulate()
            except torch.cuda.OutOfMemoryError:
                changed = self._save_memory()
                if not changed:
                    raise
            _log.warning("MotionBlocks training: out of memory at step %d; tried again: %s", self.step + 1, changed)
            self._batch = None
            for value in self.values:
                value.grad = None

    def _save_memory(self) -> str:
        """What the task changed to do with less, "" for nothing."""
        ask = getattr(self.task, "save_memory", None)
        return ask(self._batch) if ask is not None and self._batch is not None else ""

    def _accumulate(self) -> tuple[list[Tensor], float]:
        """Add up the gradients of this process's share of the step: (losses by sample, seconds spent drawing)."""
        losses, data_seconds = [], 0.0
        for part in range(self.loop.gradient_accumulation):
            keys, started = self._keys(part), time.perf_counter()
            with torch.no_grad():
                self._batch = self.task.draw(keys)
            data_seconds += time.perf_counter() - started
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.loop.precision == "bf16"):
                loss = self.task.loss(self._batch)
            if loss.shape != (len(keys),):
                raise ShapeError(f"the task's loss is {tuple(loss.shape)}; ({len(keys)},) is needed, one a sample")
            (loss.float().sum() / self._global_batch()).backward()
            losses.append(loss.detach().float())
            self._batch = None
        return losses, data_seconds

    def _update(self, rate: float) -> None:
        """Step the optimizers and the average. Interrupted here, the weights are neither old nor new: never saved."""
        self._stepping = True
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        if self.average is not None:
            decay = min(self.loop.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.values, 1 - decay)
        self.step += 1
        self._stepping = False

    def _global_batch(self) -> int:
        return self.loop.batch_size * self.loop.gradient_accumulation * self.world.size

    def _keys(self, part: int) -> list[SampleKey]:
        """Keys of one batch: indices run over parts, then processes, then samples."""
        size = self.loop.batch_size
        first = (part * self.world.size + self.world.rank) * size
        return [SampleKey(self.loop.seed, self.step, first + index) for index in range(size)]

    def _seed(self) -> None:
        """Seed torch's own generators from (seed, step, process), for tasks with dropout; nothing of them is stored."""
        seed = SampleKey(self.loop.seed, self.step, -2 - self.world.rank).generator().initial_seed()
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _not_finite(self, loss: float, norm: float, losses: list[Tensor]) -> CheckpointError:
        """Save the last good state, then say what happened and where it lies."""
        bad = [index for index, value in enumerate(torch.cat(losses).tolist()) if not math.isfinite(value)]
        parts = sorted({index // self.loop.batch_size for index in bad}) or range(self.loop.gradient_accumulation)
        with torch.no_grad():
            samples = "; ".join(self.task.describe(self.task.draw(self._keys(part))) for part in parts)
        self.checkpoints.keep()
        state = f"the last good state is {self.checkpoints.newest}" if self.checkpoints.newest else "no state was saved"
        return CheckpointError(
            f"step {self.step + 1} of {self.loop.num_steps}: loss {loss:g}, gradient norm {norm:g}, which is not "
            f"finite, on {samples}; the weights were not changed and {state}; lower the learning rate, use precision "
            "fp32, or take the sample out, then resume"
        )

    def _stopped(self) -> None:
        """Save on the way out of a run that something ended; its exception passes."""
        batch, self._batch = self._batch, None
        for value in self.values:
            value.grad = None
        at = f"step {self.step + 1} of {self.loop.num_steps}"
        if batch is not None:
            _log.warning("MotionBlocks training: %s stopped on %s", at, self.task.describe(batch))
        if self.is_torn:
            _log.warning("MotionBlocks training: stopped in the middle of the update of %s, which is not saved", at)
        elif self.step:
            self.checkpoints.keep()
        if self.checkpoints.newest:
            _log.warning("MotionBlocks training: stopped; resume from %s", self.checkpoints.newest)
        if self._calling and self.step < self.loop.num_steps:
            self.world.any_failed(True)  # the others are on their way to the next step


def check_parameters(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Refuse what cannot be trained. Raises ConfigError with the name of the parameter."""
    if not parameters:
        raise ConfigError("the task names no parameters; at least one is needed to train")
    for name, value in parameters.items():
        if value.is_inference():
            raise ConfigError(f"parameter {name} is an inference tensor; build or clone it in inference_mode(False)")
        if value.dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"parameter {name} is {value.dtype}; float32 is needed: small steps vanish in it")
    return parameters


def _compare(path: Path, tensors: dict[str, Tensor], parameters: dict) -> None:
    """Refuse tensors that are not the parameters by name and shape. Raises CheckpointError."""
    needed = {name: value.shape for name, value in parameters.items()}
    found = {name: value.shape for name, value in tensors.items()}
    wrong = [name for name in {*needed, *found} if needed.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{path} belongs to another model or adapter: {len(wrong)} weights are missing, unknown or of another "
            f"shape ({', '.join(sorted(wrong)[:5])}); resume with the model, targets and rank it was saved with"
        )
