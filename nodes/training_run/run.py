"""One training run inside the host: its parts put together, what the page sees of it, and what is left when it ends."""

import contextlib
import json
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.foreign_text import safe_logger
from ...motion.adapters.lora import LoRA, target_names
from ...motion.data.clips import ClipCollection
from ...motion.data.latent_dataset import LatentDataset, WindowConfig, build_latent_dataset
from ...motion.errors import CheckpointError, ConfigError
from ...motion.io.adapters.adapter_file import save_adapter
from ...motion.io.files.atomic import new_output
from ...motion.io.networks.linear_video import save_linear_video
from ...motion.models.model_spec import LinearVideoSpec
from ...motion.training.config import TrainingConfig
from ...motion.training.latent_task import LatentTask
from ...motion.training.trainer import StepReport, Trainer, TrainingResult
from ..host import devices, progress
from . import previews, trainable_copy
from .encoders import host_encoders, text_parts
from .folders import RunFolders, prepare
from .live_view import Page

_log = safe_logger("motionblocks.training")


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked."""

    model: object
    clip: object
    vae: object
    clips: ClipCollection
    spec: LinearVideoSpec
    config: TrainingConfig
    windows: WindowConfig
    folders: RunFolders
    allow_changes: bool
    photo: Tensor | None  # (1, h, w, 3) in [0, 1]
    sample_text: str
    shift: float


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
    on the disk and goes on unchanged.

    The host's inference mode is left, and everything given is copied before it is used in a graph.
    """
    page = Page(node_id, request.config.num_steps)
    with torch.inference_mode(False), torch.enable_grad():
        dataset, plan = _prepare_data(request, page)
        run = _Run(request, dataset, plan, page)
        try:
            return run.train()
        finally:
            run.close()


def _prepare_data(request: Request, page: Page) -> tuple[LatentDataset, previews.SamplePlan]:
    """Encode clips and prompts; all that can be refused is refused before, and the folders are tried out."""
    page.say("checking VAE, CLIP and folders")
    spec = request.spec
    trainable_copy.refuse_what_is_no_weight(request.model)
    if request.config.mode == "lora":
        target_names(request.model.model.diffusion_model, request.config.targets)
    captions = {clip.caption: clip.name for clip in reversed(request.clips.clips)}
    encoders = host_encoders(request.vae, request.clip, spec, captions)
    empty = encoders.encode_text("")
    text = encoders.encode_text(request.sample_text or request.clips.clips[0].caption)
    prepare(request.folders)
    dataset = build_latent_dataset(
        request.clips, spec, encoders, request.windows, cache_folder=request.folders.latents, on_step=page.encoding
    )
    buckets = sorted(sample.motion_bucket_id for sample in dataset.samples)
    plan = previews.SamplePlan(
        spec, request.vae, _sample_photo(request, encoders.spatial_multiple), dataset.samples[0].shape, text, empty,
        buckets[len(buckets) // 2], request.shift, request.config.seed,
    )  # fmt: skip
    return dataset, plan


def _sample_photo(request: Request, multiple: int) -> Tensor | None:
    """The photo that samples start from: the user's, else the first frame of the first clip."""
    if request.spec.objective == "t2v":
        return None
    photo = request.photo
    if photo is None:
        photo = request.clips.clips[0].frames([0]).movedim(1, -1)
    return previews.sample_photo(photo.clone(), request.spec, request.windows.resolution, multiple)


class _Run:
    """Network, adapter and trainer of one run."""

    def __init__(self, request: Request, dataset: LatentDataset, plan: previews.SamplePlan, page: Page):
        self.request, self.dataset, self.plan, self.page = request, dataset, plan, page
        config, self.device = request.config, devices.compute_device()
        devices.unload_models()
        self.network = trainable_copy.trainable_copy(request.model, request.spec, self.device)
        self.adapter = None
        if config.mode == "lora":
            self.adapter = LoRA(
                self.network, targets=config.targets, rank=config.rank, alpha=config.alpha, seed=config.seed
            )
        task = LatentTask(self.network, request.spec, dataset, config, adapter=self.adapter)
        self.trainer = Trainer(
            task, config, folder=request.folders.states, resume=request.folders.resume,
            allow_changes=request.allow_changes, on_step=self._on_step, on_sample=self._on_sample,
        )  # fmt: skip
        self.strips: list[Tensor] = []
        self.sampled_at: int | None = None

    def train(self) -> Outcome:
        """Run to the last step, save, and gather what is left."""
        self._draw(0)
        finished = False
        try:
            result = self.trainer.run()
            finished = True
        finally:
            if not finished:
                self._rescue()
        weights, path = self._save()
        if self.sampled_at != result.step:
            with self._attached():
                self._on_sample(result.step)
        self.page.curve(list(result.losses), self.request.config.num_steps)
        return Outcome(result, weights, path, self.strips, self._report(result, path), self._metadata())

    def close(self) -> None:
        """Drop network, gradients and optimizer, also when an exception keeps this frame alive."""
        self.network = self.adapter = self.trainer = self.dataset = None
        devices.release_memory()

    def _on_step(self, report: StepReport) -> None:
        self.page.step(report, self.trainer.losses)

    def _on_sample(self, step: int) -> None:
        with self.trainer.averaged():
            self._draw(step)

    def _draw(self, step: int) -> None:
        """One strip of sample frames; the network's mode comes back as it was."""
        progress.throw_if_cancelled()
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                strip = self.plan.draw(self.network, self.device).cpu()
        finally:
            self.network.train(was_training)
        self.strips.append(strip)
        self.sampled_at = step
        self.page.sample(step, self.request.config.num_steps, strip)

    def _attached(self):
        return contextlib.nullcontext() if self.adapter is None else self.adapter.attached()

    def _save(self) -> tuple[dict[str, Tensor], str]:
        """Save the averaged weights under the next free name; nothing that is there is written over.

        Returns what the file holds, on the CPU, and its path. Raises CheckpointError.
        """
        with self.trainer.averaged(), torch.no_grad(), new_output(self.request.folders.next_weights()) as output:
            if self.adapter is None:
                text, more = text_parts(self.request.clip)
                state = {name: value.detach().to("cpu", copy=True) for name, value in self.network.state_dict().items()}
                save_linear_video(output.temp, self.request.spec, state, text, {**self._metadata(), **more})
            else:
                save_adapter(output.temp, self.adapter, self._metadata())
                state = {name: value.to("cpu", copy=True) for name, value in self.adapter.tensors().items()}
        return state, str(output.path)

    def _rescue(self) -> None:
        """Save the weights so far on the way out of a run that something ended; the exception passes."""
        if not self.trainer.step or self.trainer.is_torn:
            return
        try:
            _, path = self._save()
        except (CheckpointError, ConfigError, OSError, MemoryError, RuntimeError) as error:
            _log.warning("MotionBlocks training: the weights so far were not saved: %s", error)
            return
        state = self.trainer.checkpoints.newest
        text = f"stopped after step {self.trainer.step}\nweights so far: {path}\nstate: {state or 'not saved'}"
        _log.warning("MotionBlocks training: %s", text.replace("\n", "; "))
        self.page.say(text)

    def _metadata(self) -> dict[str, str]:
        """What the weights' file says of their training, and of the licence and source of the model it began with."""
        config, dataset = self.request.config, self.dataset
        return getattr(self.request.model.model, "origin", {}) | {
            "training": json.dumps(config.to_dict()), "training_steps": str(self.trainer.step),
            **self._stopped_early(),
            "training_data": dataset.fingerprint, "windows": json.dumps(self.request.windows.to_dict()),
        }  # fmt: skip

    def _stopped_early(self) -> dict[str, str]:
        """An entry for weights of a run that did not come to its last step; nothing for others."""
        step, num_steps = self.trainer.step, self.request.config.num_steps
        return {} if step >= num_steps else {"training_stopped_early": f"after step {step} of {num_steps}"}

    def _report(self, result: TrainingResult, path: str) -> str:
        """Clips, samples, losses, times and paths as lines of text."""
        losses, config = result.losses, self.request.config
        part = max(1, len(losses) // 10)
        first, last = (sum(values) / len(values) for values in (losses[:part], losses[-part:]))
        count = sum(value.numel() for value in self.trainer.values)
        took = f"{result.seconds:.1f} s in this run, {result.data_seconds:.1f} s of it drawing data"
        problem = f"the last state was not saved: {result.problem}" if result.problem else ""
        return "\n".join(filter(None, (
            self.dataset.summary(),
            f"{config.mode}: {count:,} trained numbers, {result.step} steps of {config.batch_size}, {took}",
            f"loss {first:.4g} at first, {last:.4g} at last (means of {part})",
            f"weights: {path}", f"state: {result.state_path}" if result.state_path else "", problem,
        )))
