"""A training of one clip's motion inside the host, beside its own Wan or a model of ours, and looking at heads."""

from dataclasses import replace
from pathlib import Path

import torch
from comfy_api.latest import io
from torch import Tensor

from ...motion.analysis.head_map import HeadMap
from ...motion.choices import SPATIAL
from ...motion.training.head_classes import classify_heads, map_remarks
from ...motion.training.motion_transfer import motion_metadata, motion_task
from ...motion.training.run import TrainingOutcome
from ...motion.training.tasks.motion_task import MotionTask
from ...motion.training.trainees.wan import padded_text
from ..host import devices, progress
from . import previews
from .live_view import Page
from .lora_run import LoRAOutcome, LoRARun, last_lines, lora_output, loss_line, train_beside, with_lora
from .motion_request import MotionRequest, check_motion_clip, wan_prompt_of, wan_with_heads
from .native_trainee import NativeWanTrainee

SAMPLE_STEPS = 12


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


def train_motion(request: MotionRequest, node_id: str | None) -> tuple[LoRAOutcome, HeadMap | None]:
    """Train as asked; see `train_beside`. The map of heads is the one that was used."""
    told = "\n".join((*request.notes, request.clip.plan.text()))
    outcome, inside = train_beside(request, node_id, MotionRun, told)
    return outcome, inside.head_map


def motion_output(cls, request: MotionRequest, outcome: LoRAOutcome, head_map: HeadMap | None) -> io.NodeOutput:
    """See `lora_output`; the map of heads comes last."""
    trained = with_lora(request.model, outcome.weights, request.settings.strength)
    return lora_output(cls, request, outcome, trained, head_map)


class MotionRun(LoRARun):
    """See `LoRARun`: two LoRAs, of which the one of the motion is for use."""

    def __init__(self, request: MotionRequest, page: Page):
        super().__init__(request, page)
        self.head_map, self.other_path = request.head_map, None

    @property
    def data_mark(self) -> str:
        return self.request.clip.fingerprint

    def task(self, dataset) -> MotionTask:
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

    def draw(self, task: MotionTask, step: int) -> Tensor:
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

    def write(self, task: MotionTask, metadata: dict[str, str]) -> Path:
        """Save each LoRA that has been trained under the next free name; the path of the last, which is for use."""
        folders, path = self.request.folders, None
        for stage, lora in task.learnt(int(metadata["training_steps"])):
            is_beside = stage == SPATIAL and task.temporal is not None
            own = replace(folders, name=f"{folders.name}_spatial") if is_beside else folders
            path = self._save(own.next_weights(), lora, metadata, stage)
            self.other_path = path if is_beside else self.other_path
            self.tensors = {name: value.detach().to("cpu", copy=True) for name, value in lora.tensors().items()}
        return path

    def report(self, done: TrainingOutcome, count: int) -> str:
        """The clip, heads, stages, losses, times and paths as lines of text."""
        request, result = self.request, done.training
        config, losses = request.config, list(result.losses)
        border = config.loop.first_stage_steps
        stages = (("spatial stage", losses[:border]), ("temporal stage", losses[border:]))
        return "\n".join(filter(None, (
            request.clip.plan.text(), *request.notes, done.summary,
            self.head_map.summary() if self.head_map is not None else "",
            f"{count:,} trained numbers, steps of {config.loop.batch_size}, {result.seconds:.1f} s in this run",
            *(f"{name}: {len(part)} steps, {loss_line(part)}" for name, part in stages if part),
            f"motion LoRA: {done.path}, to be used at {request.settings.strength:g}",
            f"LoRA of the looks: {self.other_path}" if self.other_path else "", *last_lines(done),
        )))

    def _save(self, path: Path, lora, metadata: dict[str, str], stage: str) -> Path:
        request = self.request
        told = motion_metadata(request.clip, request.settings, stage, self.head_map, request.loras,
                               rank=request.config.adapter.rank, spec=request.spec)  # fmt: skip
        return self.save_lora(path, lora, {**metadata, **told})


def _one_type(found: HeadMap) -> list[str]:
    count, total = int(found.temporal.sum()), found.num_layers * found.num_heads
    if count not in (0, total):
        return []
    return [f"all heads are {'temporal' if count else 'spatial'}: nothing to tell apart; set target_fraction to 0.3"]
