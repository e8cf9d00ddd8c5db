"""A run inside the host that trains LoRAs beside the network of a MODEL: what all such runs share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...motion.io.adapters.adapter_file import save_adapter
from ...motion.io.files.atomic import new_output
from ...motion.io.networks.base_licence import licence_of
from ...motion.io.networks.builtin_names import BUILTIN_NAMES
from ...motion.training.run import TrainingOutcome, TrainingPlan, TrainingRun
from ...motion.training.tasks.adapter_task import AdapterTask
from ..host import devices
from ..host.text_under import text_under
from .folders import prepare
from .live_view import Page, curve_of
from .trained_network import network_of


@dataclass
class LoRAOutcome:
    """What a finished run leaves. weights: of the LoRA for use, on the CPU."""

    done: TrainingOutcome
    weights: dict[str, Tensor]
    strips: list[Tensor]
    report: str

    @property
    def losses(self) -> list[float]:
        """Of every step."""
        return list(self.done.training.losses)


class LoRARun:
    """The host's side of one run: the network of the MODEL, samples, files. An heir gives what is left open below.

    request: model, wan, spec, config, folders, allow_changes, vae and whatever the heir reads.
    """

    def __init__(self, request, page: Page):
        """Raises ConfigError for a MODEL that gradients do not pass, CheckpointError for folders that refuse."""
        self.request, self.page = request, page
        self.network = network_of(request)
        prepare(request.folders)
        self.tensors: dict[str, Tensor] = {}

    def plan(self) -> TrainingPlan:
        """The run as the library takes it."""
        request = self.request
        about = self.network.metadata()
        base = _about_linear(request.model, about) if request.wan is None else request.wan.licence()
        return TrainingPlan(
            config=request.config, task=self.task, write=self.write, draw=self.draw if request.vae else None,
            states=request.folders.states, resume=request.folders.resume, allow_changes=request.allow_changes,
            metadata={**about, **base, "training_data": self.data_mark}, keep_unfinished=True,
        )  # fmt: skip

    def close(self) -> None:
        self.network.close()

    def save_lora(self, path: Path, lora, metadata: dict[str, str]) -> Path:
        """Write a LoRA under the first free name like `path`."""
        with new_output(path) as output:
            save_adapter(output.temp, lora, metadata)
        return output.path

    @property
    def data_mark(self) -> str:
        """Fingerprint of the data."""
        raise NotImplementedError

    def task(self, dataset) -> AdapterTask:
        """What is trained."""
        raise NotImplementedError

    def write(self, task: AdapterTask, metadata: dict[str, str]) -> Path:
        """Save what is trained, and put the weights for use into `tensors`."""
        raise NotImplementedError

    def draw(self, task: AdapterTask, step: int) -> Tensor:
        """One strip of a video as it is meant to be used."""
        raise NotImplementedError

    def report(self, done: TrainingOutcome, count: int) -> str:
        """Lines of text. count: of trained numbers."""
        raise NotImplementedError


def train_beside(request, node_id: str | None, kind: Callable[..., LoRARun], told: str) -> tuple[LoRAOutcome, LoRARun]:
    """Train as asked. Whatever ends it early leaves the state and the LoRA so far on the disk and passes on unchanged.

    The host's inference mode is left; the data and prompts are copies already. told: shown before.
    """
    page = Page(node_id, request.config.loop.num_steps)
    with torch.inference_mode(False), torch.enable_grad():
        page.say(told)
        inside = kind(request, page)
        run = None
        try:
            run = TrainingRun(inside.plan(), page)
            done = run.run()
            count = sum(value.numel() for value in run.trainer.values)
            page.curve(list(done.training.losses), request.config.loop.num_steps)
            return LoRAOutcome(done, inside.tensors, page.strips, inside.report(done, count)), inside
        finally:
            if run is not None:
                run.close()
            inside.close()
            devices.release_memory()


def lora_output(cls, request, outcome: LoRAOutcome, trained, *more) -> io.NodeOutput:
    """Model, LoRA, losses, samples, report and path, then `more`; report, strips and loss curve under the node."""
    strips = outcome.strips or [torch.zeros(8, 24, 3)]
    report, samples, losses = text_under(cls, outcome.report), torch.stack(strips), outcome.losses
    shown = ui.PreviewImage(samples, cls=cls).as_dict() if outcome.strips else {}
    curve = curve_of(losses, request.config.loop.num_steps)
    return io.NodeOutput(
        trained, outcome.weights, {"loss": losses}, samples, report.value, str(outcome.done.path), *more,
        ui={**shown, **report.as_dict(), "motionblocks_loss": [curve]},
    )  # fmt: skip


def with_lora(model, weights: dict[str, Tensor], strength: float = 1.0):
    """A copy of a MODEL with a LoRA on it."""
    return comfy.sd.load_lora_for_models(model, None, weights, strength, 0.0)[0]


def last_lines(outcome: TrainingOutcome) -> list[str]:
    """Where the state lies, and why the last one does not."""
    result = outcome.training
    problem = f"the last state was not saved: {result.problem}" if result.problem else ""
    return [f"state: {result.state_path}" if result.state_path else "", problem]


def loss_line(losses: list[float]) -> str:
    """Means of the first and of the last tenth of losses."""
    few = max(1, len(losses) // 10)
    first, last = (sum(values) / len(values) for values in (losses[:few], losses[-few:]))
    return f"loss {first:.4g} at first, {last:.4g} at last"


def _about_linear(model, about: dict[str, str]) -> dict[str, str]:
    """Name and licence of a MODEL of ours, from what its file said and is called."""
    name = getattr(model.model, "file_name", "")
    return ({"base_model": name} if name else {}) | licence_of(about, is_ours=name in BUILTIN_NAMES)
