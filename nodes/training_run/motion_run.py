"""A training of one clip's motion inside the host, beside its own Wan or a model of ours, and looking at heads."""

from dataclasses import dataclass, replace
from pathlib import Path

import comfy.sd
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...motion.analysis.head_map import HeadMap
from ...motion.choices import SPATIAL
from ...motion.io.adapters.adapter_file import save_adapter
from ...motion.io.files.atomic import new_output
from ...motion.io.networks.base_licence import licence_of
from ...motion.io.networks.builtin_names import BUILTIN_NAMES
from ...motion.training.head_classes import classify_heads, map_remarks
from ...motion.training.motion_transfer import motion_metadata, motion_task
from ...motion.training.run import TrainingOutcome, TrainingPlan, TrainingRun
from ...motion.training.tasks.motion_task import MotionTask
from ...motion.training.trainees.wan import padded_text
from ..host import devices, progress
from ..host.text_under import text_under
from . import previews
from .folders import prepare
from .live_view import Page, curve_of
from .motion_request import MotionRequest, check_motion_clip, wan_prompt_of, wan_with_heads
from .native_trainee import NativeWanTrainee
from .trained_network import network_of

SAMPLE_STEPS = 12


@dataclass
class MotionOutcome:
    """What a finished run leaves. Tensors are on the CPU."""

    done: TrainingOutcome
    weights: dict[str, Tensor]
    strips: list[Tensor]
    report: str
    head_map: HeadMap | None


def look_at_heads(model, motion_clip, positive, **settings) -> tuple[HeadMap, list[str]]:
    """The map of a MODEL's heads over a clip, and what else to tell. Raises ConfigError and ShapeError."""
    wan = wan_with_heads(model)
    clip = check_motion_clip(motion_clip, wan)
    with torch.inference_mode(False):
        trainee = NativeWanTrainee(wan)
        text = wan_prompt_of(positive, trainee.spec, "positive")
        row = {name: value.unsqueeze(0) for name, value in clip.whole.items()}
        trainee.expect([tuple(row["latents"].shape)])
        row["context"] = text.context.unsqueeze(0)
        found = classify_heads(trainee, row, loras=len(model.patches), **settings)
        devices.release_memory()
    return found, _one_type(found)


def map_of_text(model, text: str, settings: dict) -> tuple[HeadMap, list[str]]:
    """The map of a text under other settings, and what to tell of it for this MODEL. Raises ConfigError."""
    found = HeadMap.from_json(text).changed(**settings)
    with torch.inference_mode(False):
        return found, [*map_remarks(found, NativeWanTrainee(wan_with_heads(model))), *_one_type(found)]


def train_motion(request: MotionRequest, node_id: str | None) -> MotionOutcome:
    """Train as asked. Whatever ends it early leaves the state and the LoRA so far on the disk and passes on unchanged.

    The host's inference mode is left; the prepared clip and prompts are copies already.
    """
    page = Page(node_id, request.config.loop.num_steps)
    with torch.inference_mode(False), torch.enable_grad():
        page.say("\n".join((*request.notes, request.clip.plan.text())))
        inside = _InsideHost(request, page)
        run = None
        try:
            run = TrainingRun(inside.plan(), page)
            done = run.run()
            count = sum(value.numel() for value in run.trainer.values)
            page.curve(list(done.training.losses), request.config.loop.num_steps)
            report = _report(request, done, inside, count)
            return MotionOutcome(done, inside.tensors, page.strips, report, inside.head_map)
        finally:
            if run is not None:
                run.close()
            inside.close()
            devices.release_memory()


def motion_output(cls, request: MotionRequest, done: MotionOutcome) -> io.NodeOutput:
    """Model, LoRA, losses, samples, report, path and map; report, strips and loss curve under the node."""
    trained, _ = comfy.sd.load_lora_for_models(request.model, None, done.weights, request.settings.strength, 0.0)
    strips = done.strips or [torch.zeros(8, 24, 3)]
    report, samples, losses = text_under(cls, done.report), torch.stack(strips), list(done.done.training.losses)
    shown = ui.PreviewImage(samples, cls=cls).as_dict() if done.strips else {}
    curve = curve_of(losses, request.config.loop.num_steps)
    return io.NodeOutput(
        trained, done.weights, {"loss": losses}, samples, report.value, str(done.done.path), done.head_map,
        ui={**shown, **report.as_dict(), "motionblocks_loss": [curve]},
    )  # fmt: skip


class _InsideHost:
    """The host's side of one run: the network of the MODEL, samples, files."""

    def __init__(self, request: MotionRequest, page: Page):
        self.request, self.page = request, page
        self.network = network_of(request)
        prepare(request.folders)
        self.head_map, self.tensors, self.other_path = request.head_map, {}, None

    def plan(self) -> TrainingPlan:
        """The run as the library takes it."""
        request = self.request
        about = self.network.metadata()
        base = _about_linear(request.model, about) if request.wan is None else request.wan.licence()
        told = {**about, **base, "training_data": request.clip.fingerprint}
        return TrainingPlan(
            config=request.config, task=self._task, write=self._write, draw=self._draw if request.vae else None,
            states=request.folders.states, resume=request.folders.resume, allow_changes=request.allow_changes,
            metadata=told, keep_unfinished=True,
        )  # fmt: skip

    def close(self) -> None:
        self.network.close()

    def _task(self, dataset) -> MotionTask:
        request, clip = self.request, self.request.clip
        trainee = self.network.trainee(clip)

        def on_look(done: int, total: int) -> None:
            progress.throw_if_cancelled()
            self.page.say("looking at the attention heads")

        task, self.head_map = motion_task(
            trainee, clip, request.text, request.config, request.settings, head_map=request.head_map,
            sigma=request.sigma, loras=request.loras, on_look=on_look,
        )  # fmt: skip
        return task

    def _draw(self, task: MotionTask, step: int) -> Tensor:
        """One strip of a video with the LoRA of the motion alone, as it is meant to be used."""
        progress.throw_if_cancelled()
        with self.network.sampling() as network, task.tried_out(self.request.settings.strength):
            return self._sample_plan().draw(network, task.trainee.device).cpu()

    def _sample_plan(self) -> previews.SamplePlan:
        request, clip = self.request, self.request.clip
        positive, negative = request.sample_texts
        told = request.config.objective
        if request.wan is None:
            photo = previews.sample_photo(clip.first, request.spec, min(clip.first.shape[1:3]), 1)
            return previews.SamplePlan(
                request.spec, request.vae, photo if request.starts_from_image else None, positive, negative or positive,
                told.shift, request.config.loop.seed, shape=tuple(clip.whole["latents"].shape),
                bucket=clip.bucket(request.spec),
            )  # fmt: skip
        whole, is_shown = clip.whole, request.starts_from_image
        seen = {name: whole[name] for name in ("concat_latents", "image_tokens") if name in whole}
        texts = [replace(text, context=padded_text(text.context[None], request.spec.text_tokens)[0])
                 for text in (positive, negative or positive)]  # fmt: skip
        return previews.SamplePlan(
            request.spec, request.vae, clip.first.movedim(-1, 0).unsqueeze(0) if is_shown else None, *texts,
            told.shift, request.config.loop.seed, shape=tuple(whole["latents"].shape),
            beside=(lambda video: dict(seen)) if is_shown else None, levels=(told.sigma_min, told.sigma_max),
            num_steps=SAMPLE_STEPS, clean=whole["latents"].unsqueeze(0) if told.sigma_max < 1 else None,
        )  # fmt: skip

    def _write(self, task: MotionTask, metadata: dict[str, str]) -> Path:
        """Save each LoRA that has been trained under the next free name; the path of the last, which is for use."""
        folders, path = self.request.folders, None
        for stage, lora in task.learnt(int(metadata["training_steps"])):
            is_beside = stage == SPATIAL and task.temporal is not None
            own = replace(folders, name=f"{folders.name}_spatial") if is_beside else folders
            path = self._save(own.next_weights(), lora, metadata, stage)
            self.other_path = path if is_beside else self.other_path
            self.tensors = {name: value.detach().to("cpu", copy=True) for name, value in lora.tensors().items()}
        return path

    def _save(self, path: Path, lora, metadata: dict[str, str], stage: str) -> Path:
        request = self.request
        told = motion_metadata(request.clip, request.settings, stage, self.head_map, request.loras,
                               rank=request.config.adapter.rank, spec=request.spec)  # fmt: skip
        with new_output(path) as output:
            save_adapter(output.temp, lora, {**metadata, **told})
        return output.path


def _about_linear(model, about: dict[str, str]) -> dict[str, str]:
    """Name and licence of a MODEL of ours, from what its file said and is called."""
    name = getattr(model.model, "file_name", "")
    return ({"base_model": name} if name else {}) | licence_of(about, is_ours=name in BUILTIN_NAMES)


def _one_type(found: HeadMap) -> list[str]:
    count, total = int(found.temporal.sum()), found.num_layers * found.num_heads
    if count not in (0, total):
        return []
    return [f"all heads are {'temporal' if count else 'spatial'}: nothing to tell apart; set target_fraction to 0.3"]


def _report(request: MotionRequest, done: TrainingOutcome, inside: _InsideHost, count: int) -> str:
    """The clip, heads, stages, losses, times and paths as lines of text."""
    config, result, losses = request.config, done.training, done.training.losses
    border, lines = config.loop.first_stage_steps, []
    for name, part in (("spatial stage", losses[:border]), ("temporal stage", losses[border:])):
        if part:
            few = max(1, len(part) // 10)
            first, last = (sum(values) / len(values) for values in (part[:few], part[-few:]))
            lines.append(f"{name}: {len(part)} steps, loss {first:.4g} at first, {last:.4g} at last")
    problem = f"the last state was not saved: {result.problem}" if result.problem else ""
    return "\n".join(filter(None, (
        request.clip.plan.text(), *request.notes, done.summary,
        inside.head_map.summary() if inside.head_map is not None else "",
        f"{count:,} trained numbers, steps of {config.loop.batch_size}, {result.seconds:.1f} s in this run", *lines,
        f"motion LoRA: {done.path}, to be used at {request.settings.strength:g}",
        f"LoRA of the looks: {inside.other_path}" if inside.other_path else "",
        f"state: {result.state_path}" if result.state_path else "", problem,
    )))
