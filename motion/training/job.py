"""A training job run: what is trained, on which clips, how, and where the result goes.

States lie beside the output, in `<output>.states`, encoded clips in `<output>.latents`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from ..adapters.miva import MIVA
from ..data.clips import ClipCollection
from ..data.latent_dataset import LatentDataset, OnStep
from ..data.sources.folder import open_clip_folder
from ..data.sources.generated import generate_collection
from ..data.sources.video_file import go_on
from ..errors import CheckpointError, ConfigError
from ..io.files.atomic import make_folder, try_writing
from ..io.files.weight_folder import open_weights
from ..io.networks.builtin_names import weights_path
from ..io.networks.families import weights_family
from ..io.networks.wan_layouts import FAMILY as WAN
from ..models.linear_video.architecture import LINEAR_VIDEO
from .config import TrainingConfig
from .job_file import TrainingJob, read_job
from .job_linear_video import LinearVideoJob
from .job_motion import run_motion_job
from .job_pose import run_pose_job
from .job_wan import WanJob
from .processes import OneProcess, World
from .run import TrainingOutcome, TrainingPlan, TrainingRun, Watcher
from .tasks.adapter_task import AdapterTask

__all__ = ["TrainingJob", "read_job", "run_job"]


class JobModel(Protocol):
    """What a job says of its model, checked when it is made: everything that files and settings tell without work.

    config: the job's settings, with those that the model chose. notes: lines on what was chosen. fps: that clips are
    resampled to, 0 = by the data set. metadata: of the output.
    """

    config: TrainingConfig
    notes: tuple[str, ...]
    fps: float
    metadata: Mapping[str, str]

    def check_clips(self, clips: ClipCollection) -> None:
        """Refuse clips that cannot be trained on, before any is encoded."""

    def dataset(self, clips: ClipCollection, on_step: OnStep) -> LatentDataset:
        """The clips, encoded; encoders are in memory no longer than this takes."""

    def task(self, dataset: LatentDataset) -> AdapterTask:
        """What is trained on them."""

    def write(self, task: AdapterTask, metadata: dict[str, str]) -> None:
        """Write the output."""

    def draw(self, clips: ClipCollection, step: int) -> Path:
        """A sample with the weights of the moment, beside the output; only of models that allow `sample_every`."""


def run_job(
    job: TrainingJob, watcher: Watcher | None = None, *, check: Callable[[], None] = go_on, world: World | None = None
) -> TrainingOutcome:
    """Encode, train and save. Everything that can be refused is refused before the first step.

    check() is called often while clips are read; what it and the watcher raise to cancel passes.
    Raises ConfigError, CheckpointError and ShapeError; what ends the training passes after its state is saved.
    """
    from ..devices import pick_device

    world, watcher = world or OneProcess(), watcher or Watcher()
    _check_places(job, world)
    if job.motion is not None:
        return run_motion_job(job, watcher, check=check, world=world)
    if job.pose is not None:
        return run_pose_job(job, watcher, check=check, world=world)
    device = pick_device(job.device if job.device is not None else getattr(world, "device", None))
    model = open_job_model(job, device)
    clips = _open_clips(job, model.fps, check)
    model.check_clips(clips)
    watcher.say("\n".join([clips.summary(), *model.notes]))

    def write(task: AdapterTask, metadata: dict[str, str]) -> Path:
        model.write(task, metadata)
        return Path(job.output)

    plan = TrainingPlan(
        config=model.config, states=job.states, resume=job.resume, allow_changes=job.allow_changes, world=world,
        device=device, metadata=dict(model.metadata), task=model.task, write=write,
        dataset=lambda on_step: model.dataset(clips, on_step),
        draw=(lambda task, step: model.draw(clips, step)) if model.config.loop.sample_every else None,
    )  # fmt: skip
    return TrainingRun(plan, watcher).run()


def open_job_model(job: TrainingJob, device: torch.device) -> JobModel:
    """The model of a job, told by its name or by its weights' headers. Raises ConfigError and CheckpointError."""
    path = weights_path(job.model)
    source = open_weights(path)
    family = weights_family(source.shapes, source.metadata)
    if family.startswith(WAN):
        return WanJob(job, source, device)
    if family != LINEAR_VIDEO.name:
        raise CheckpointError(
            f"{source.path}: this is {family or 'not a model known here'}; the shell trains the built-in models, files "
            "of their kind, and Wan 2.1 and 2.2 A14B: name one of these as model"
        )
    return LinearVideoJob(job, device)


def _check_places(job: TrainingJob, world: World) -> None:
    """Refuse an output that exists or cannot be written, before anything is computed."""
    path = Path(job.output)
    if world.rank:
        return
    if path.exists() and not (job.overwrite or job.resume):
        raise ConfigError(f"output {path} exists; choose another name, resume, or say overwrite: true")
    try_writing(make_folder(path.parent))
    try_writing(make_folder(job.states))


def _open_clips(job: TrainingJob, fps: float, check: Callable[[], None]) -> ClipCollection:
    """The clips; their captions count for nothing where the adapter stands in place of the prompt."""
    is_silent = job.training.adapter.adapter == MIVA.kind
    caption = job.caption or ("" if is_silent else None)
    if job.clips is not None:
        clips = open_clip_folder(job.clips, fps=fps, default_caption=caption, check=check)
    else:
        try:
            clips = generate_collection(**job.generate)
        except TypeError as error:
            raise ConfigError(f"generate: {error}") from error
    return clips.without_captions() if is_silent else clips
