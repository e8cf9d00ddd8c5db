"""A training run inside the host: what the user connected as a plan, and the outputs of the node from what is left."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...motion.adapters.lora import LoRA
from ...motion.adapters.miva import MIVA
from ...motion.data.encoders import mask_cell
from ...motion.data.latent_dataset import LatentDataset, build_latent_dataset
from ...motion.io.files.atomic import new_output
from ...motion.models.architectures import ARCHITECTURES
from ...motion.training.config import TrainingConfig
from ...motion.training.reports import TrainingResult
from ...motion.training.run import TrainingOutcome, TrainingPlan, TrainingRun
from ...motion.training.tasks.adapter_task import AdapterTask, adapter_task, chosen_targets
from ...motion.training.trained_weights import trained_tensors, write_trained
from ..host import devices, progress
from . import previews
from .encoders import host_encoders, text_parts
from .folders import prepare
from .live_view import Page
from .request import Request
from .trained_network import network_of

WAN_STEPS = 12  # of a sample: a large network, and a sample shows what moves, not how fine it is


@dataclass
class Outcome:
    """What a finished run leaves. Tensors are on the CPU."""

    result: TrainingResult
    weights: dict[str, Tensor]  # of the adapter, or of the whole network in mode full
    path: str
    strips: list[Tensor]
    report: str
    metadata: dict[str, str] = field(default_factory=dict)


def train(request: Request, node_id: str | None) -> Outcome:
    """Train as asked. Whatever ends it early (cancel, out of memory, an error) leaves the state and the weights so far
    on the disk and passes on unchanged.

    The host's inference mode is left, and everything given is copied before it is used in a graph.
    """
    page = Page(node_id, request.config.loop.num_steps)
    with torch.inference_mode(False), torch.enable_grad():
        page.say("\n".join((*request.notes, "checking VAE, CLIP and folders")))
        inside = _InsideHost(request)
        run = None
        try:
            run = TrainingRun(inside.plan(), page)
            done = run.run()
            return inside.outcome(done, run, page)
        finally:
            if run is not None:
                run.close()
            inside.network.close()
            devices.release_memory()


class _InsideHost:
    """The host's side of one run: encoders, a trainable copy of the network, samples and folders."""

    def __init__(self, request: Request):
        """Refuse all that can be refused before anything is computed, and try the folders out."""
        self.request, self.device = request, devices.compute_device()
        self.network = network_of(request)
        if request.config.adapter.mode == "lora" and request.config.adapter.adapter == LoRA.kind:
            own = ARCHITECTURES.of(request.spec).training.targets
            chosen_targets(request.config.adapter.targets, request.model.model.diffusion_model, own)
        captions = {clip.caption: clip.name for clip in reversed(request.clips.clips)}
        encoders = host_encoders(request.vae, request.clip, request.spec, captions, request.clip_vision)
        cell = mask_cell(request.spec) if request.config.adapter.masked else 0
        self.encoders = replace(encoders, mask_cell=cell)
        empty = self.encoders.encode_text("")
        text = self.encoders.encode_text(request.sample_text or request.clips.clips[0].caption)
        prepare(request.folders)
        told = request.config.objective
        self.samples = previews.SamplePlan(
            request.spec, request.vae, self._sample_photo(), text, empty, request.shift, request.config.loop.seed,
            beside=self.encoders.encode_beside, levels=(told.sigma_min, told.sigma_max),
            num_steps=None if request.wan is None else WAN_STEPS, clean_first_frame=request.clean_first_frame,
        )  # fmt: skip
        self.tensors = {}

    def plan(self) -> TrainingPlan:
        """The run as the library takes it."""
        request = self.request
        told = {**self.network.metadata(), **request.told, "windows": json.dumps(request.windows.to_dict())}
        return TrainingPlan(
            config=request.config, dataset=self._dataset, task=self._task, write=self._write, draw=self._draw,
            states=request.folders.states, resume=request.folders.resume, allow_changes=request.allow_changes,
            metadata=told, keep_unfinished=True,
        )  # fmt: skip

    def outcome(self, done: TrainingOutcome, run: TrainingRun, page: Page) -> Outcome:
        """The node's outputs, and the whole curve on the page."""
        page.curve(list(done.training.losses), self.request.config.loop.num_steps)
        count = sum(value.numel() for value in run.trainer.values)
        return Outcome(
            done.training, self.tensors, str(done.path), page.strips, _report(self.request, done, count),
            done.metadata,
        )  # fmt: skip

    def _dataset(self, on_step) -> LatentDataset:
        request = self.request
        dataset = build_latent_dataset(
            request.clips, request.spec, self.encoders, request.windows, cache_folder=request.folders.latents,
            on_step=on_step,
        )  # fmt: skip
        self.samples = self.samples.of(dataset)
        return dataset

    def _task(self, dataset: LatentDataset) -> AdapterTask:
        return adapter_task(self.network.trainee(dataset), dataset, self.request.config)

    def _draw(self, task: AdapterTask, step: int) -> Tensor:
        """One strip of sample frames."""
        progress.throw_if_cancelled()
        with self.network.sampling() as network:
            return self.samples.draw(network, self.device).cpu()

    def _write(self, task: AdapterTask, metadata: dict[str, str]) -> Path:
        """Save under the next free name; nothing that is there is written over. Raises CheckpointError."""
        with new_output(self.request.folders.next_weights()) as output:
            text, of_model = text_parts(self.request.clip)
            write_trained(
                output.temp, task, metadata, precision=self.request.config.adapter.file_precision, text_encoder=text,
                of_model=of_model,
            )  # fmt: skip
            self.tensors = {name: value.detach().to("cpu", copy=True) for name, value in trained_tensors(task).items()}
        return output.path

    def _sample_photo(self) -> Tensor | None:
        """The photo that samples start from: the user's, else the first frame of the first clip."""
        request = self.request
        if not request.starts_from_image:
            return None
        photo = request.photo
        if photo is None:
            photo = request.clips.clips[0].frames([0]).movedim(1, -1)
        multiple = self.encoders.spatial_multiple
        return previews.sample_photo(photo.clone(), request.spec, request.windows.resolution, multiple)


def _report(request: Request, done: TrainingOutcome, count: int) -> str:
    """Clips, samples, losses, times and paths as lines of text."""
    config, result, losses = request.config, done.training, done.training.losses
    part = max(1, len(losses) // 10)
    first, last = (sum(values) / len(values) for values in (losses[:part], losses[-part:]))
    took = f"{result.seconds:.1f} s in this run, {result.data_seconds:.1f} s of it drawing data"
    problem = f"the last state was not saved: {result.problem}" if result.problem else ""
    return "\n".join(filter(None, (
        done.summary, *request.notes,
        f"{_what(config)}: {count:,} trained numbers, {result.step} steps of {config.loop.batch_size}, {took}",
        _levels(config), f"loss {first:.4g} at first, {last:.4g} at last (means of {part})",
        f"weights: {done.path}", f"state: {result.state_path}" if result.state_path else "", problem,
    )))


def _what(config: TrainingConfig) -> str:
    """What is trained, in a word or two."""
    return "motion adapter" if config.adapter.adapter == MIVA.kind else config.adapter.mode


def _levels(config: TrainingConfig) -> str:
    """Which noise levels were trained, where not all were."""
    low, high = config.objective.sigma_min, config.objective.sigma_max
    return "" if (low, high) == (0.0, 1.0) else f"noise levels {low:g} to {high:g}"
