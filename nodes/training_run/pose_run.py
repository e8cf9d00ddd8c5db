"""A training on poses inside the host, beside its own Wan."""

from pathlib import Path

import torch
from comfy_api.latest import io
from torch import Tensor

from ...motion.data.pose_dataset import shown_name
from ...motion.models.conditions import Conditions
from ...motion.sampling.draw import draw, make_noise
from ...motion.sampling.given_frames import GivenFrames
from ...motion.sequence.conditions import decode_target
from ...motion.training.pose_training import pose_metadata, pose_task
from ...motion.training.run import TrainingOutcome
from ...motion.training.tasks.pose_task import PoseTask
from ...motion.training.trainees.wan import padded_text
from ..host import progress
from ..models.trained_sequences import tell
from . import previews
from .lora_run import LoRAOutcome, LoRARun, last_lines, lora_output, loss_line, train_beside, with_lora
from .pose_request import PoseRequest

SAMPLE_STEPS = 12


def train_poses(request: PoseRequest, node_id: str | None) -> LoRAOutcome:
    """Train as asked; see `train_beside`."""
    told = "\n".join((*request.notes, request.data.report))
    return train_beside(request, node_id, PoseRun, told)[0]


def pose_output(cls, request: PoseRequest, outcome: LoRAOutcome) -> io.NodeOutput:
    """See `lora_output`. The MODEL knows how its LoRA reads sequences."""
    trained = with_lora(request.model, outcome.weights)
    tell(trained, pose_metadata(request.data, request.training, request.config))
    return lora_output(cls, request, outcome, trained)


class PoseRun(LoRARun):
    """See `LoRARun`: one LoRA."""

    @property
    def data_mark(self) -> str:
        return self.request.data.fingerprint

    def task(self, dataset) -> PoseTask:
        request = self.request
        trainee = self.network.trainee(request.data)
        return pose_task(trainee, request.data, request.texts, request.config, request.training)

    def write(self, task: PoseTask, metadata: dict[str, str]) -> Path:
        request = self.request
        told = pose_metadata(request.data, request.training, request.config)
        path = self.save_lora(request.folders.next_weights(), task.adapter, {**metadata, **told})
        self.tensors = {name: value.detach().to("cpu", copy=True) for name, value in task.adapter.tensors().items()}
        return path

    def draw(self, task: PoseTask, step: int) -> Tensor:
        """Reference, first, middle and last frame of the first sample, drawn anew with its own skeletons."""
        progress.throw_if_cancelled()
        request, device = self.request, task.trainee.device
        layout, item, space = request.data.settings.layout, request.data.items[0], request.spec.space
        told, seen = request.config.objective, {name: value.unsqueeze(0) for name, value in item.load().items()}
        given, target = seen["latents"].split((layout.given_latents, layout.target_latents), dim=2)
        context = padded_text(request.texts[item.caption].context.unsqueeze(0), request.spec.text_tokens)
        beside = {"concat_latents": layout.concat(seen[shown_name(0)])} if request.wan.starts_from_image else {}
        beside |= {"image_tokens": seen["image_tokens"]} if request.wan.reads_clip_vision else {}
        with self.network.sampling() as network:
            made = draw(
                GivenFrames(network, given.to(device), clean_timestep=request.training.clean_timestep),
                make_noise(tuple(target.shape), request.config.loop.seed).to(device),
                Conditions(context, **beside).to(device), request.spec.sampling, guidance_scale=1.0,
                shift=told.shift, num_steps=SAMPLE_STEPS, levels=(told.sigma_min, told.sigma_max),
                clean=target.to(device) if told.sigma_max < 1 else None,
            )  # fmt: skip
        frames = decode_target(self._decode, layout, space.unscaled(given), space.unscaled(made.cpu()))
        shown = [request.data.reference[0], *(frames[0, :, place].movedim(0, -1) for place in
                                              (0, frames.shape[2] // 2, frames.shape[2] - 1))]  # fmt: skip
        return torch.cat(shown, dim=1).clamp(0, 1)

    def report(self, done: TrainingOutcome, count: int) -> str:
        """Data, losses, times and paths as lines of text."""
        request, result = self.request, done.training
        told = request.config
        low, high = told.objective.sigma_min, told.objective.sigma_max
        return "\n".join(filter(None, (
            *request.notes, request.data.report, done.summary,
            f"{count:,} trained numbers, rank {told.adapter.rank}, {result.step} steps of {told.loop.batch_size}, "
            f"{result.seconds:.1f} s in this run",
            f"noise levels {low:g} to {high:g}" if (low, high) != (0.0, 1.0) else "",
            loss_line(list(result.losses)), f"pose LoRA: {done.path}", *last_lines(done),
        )))

    def _decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (1, c, t, h, w) -> (1, 3, frames, h, w) on the CPU."""
        frames = previews.decoded(self.request.vae, latents)
        return frames.movedim(-1, 0).unsqueeze(0)
