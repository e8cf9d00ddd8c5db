"""Jobs that make a Wan follow poses: a folder of clips with their poses in, a LoRA out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..data.clips import ClipCollection
from ..data.encoders import TextEntry
from ..data.pose_clips import PosedClips, open_posed_folder
from ..data.pose_dataset import PoseDataset, build_pose_dataset
from ..devices import pick_device
from ..errors import CheckpointError, ConfigError
from ..io.adapters.adapter_file import save_adapter
from ..io.files.weight_folder import open_weights
from ..io.networks.builtin_names import weights_path
from ..io.networks.builtin_wan import WORDS
from ..io.networks.families import weights_family
from ..io.networks.wan_layouts import FAMILY as WAN
from .config import TrainingConfig
from .job_file import TrainingJob
from .job_wan import WanJob
from .pose_training import PosePreset, PoseTraining, pose_metadata, pose_task, preset_named
from .processes import World
from .reports import Watcher
from .run import TrainingOutcome, TrainingPlan, TrainingRun
from .tasks.pose_task import PoseTask

OF_POSE = {  # settings of a training that stand in `pose` instead, or are not open here, with what to do
    "targets": "layers are chosen by pose.include_cross_attn", "mode": "poses are learned by a LoRA",
    "adapter": "poses are learned by a LoRA", "sample_every": "samples are drawn in ComfyUI alone",
    "first_stage_steps": "poses are learned in one stage",
}  # fmt: skip
SAMPLES = ("samples_per_clip", "reference_anywhere", "change_bodies", "known_start")  # of `pose`, and of PoseSettings
OWN = ("num_frames", "width", "height", "mode")  # the same, where 0 and None are the preset's


def run_pose_job(job: TrainingJob, watcher: Watcher, *, check: Callable[[], None], world: World) -> TrainingOutcome:
    """Encode, train and save; see `run_job`. Raises ConfigError, CheckpointError and ShapeError."""
    model, preset = _open_model(job)
    training = PoseTraining(job.pose.clean_timestep, job.pose.include_cross_attn)
    clips = open_posed_folder(Path(job.clips), default_caption=job.caption or "", check=check)
    data, texts = _encoded(job, model, preset, clips, watcher)
    watcher.say("\n".join([data.report, *model.notes]))

    def task(dataset) -> PoseTask:
        return pose_task(model.trainee(), data, texts, model.config, training)

    def write(task: PoseTask, metadata: dict[str, str]) -> Path:
        told = {**metadata, **model.about_base(task.trainee), **pose_metadata(data, training, model.config)}
        save_adapter(job.output, task.adapter, told)
        return Path(job.output)

    base = {**model.metadata, **model.licence(), "training_data": data.fingerprint}
    plan = TrainingPlan(
        config=model.config, states=job.states, resume=job.resume, allow_changes=job.allow_changes, world=world,
        device=model.device, metadata=base, task=task, write=write,
    )  # fmt: skip
    return TrainingRun(plan, watcher).run()


def _encoded(
    job: TrainingJob, model: WanJob, preset: PosePreset, clips: PosedClips, watcher: Watcher
) -> tuple[PoseDataset, dict[str, TextEntry]]:
    """The data, and its captions with the empty one; VAE and words are in memory no longer than this takes."""
    asked = {name: getattr(job.pose, name) for name in OWN if getattr(job.pose, name)}
    settings = preset.settings(**asked, **{name: getattr(job.pose, name) for name in SAMPLES}, seed=job.windows.seed)
    plain = ClipCollection(tuple(posed.clip for posed in clips.clips), fps=0.0)
    model.check_clips(plain)
    encoders = model.encoders(plain)
    data = build_pose_dataset(clips, settings, encoders, cache_folder=job.latents, on_step=watcher.encoding)
    with torch.no_grad():
        return data, {caption: encoders.encode_text(caption) for caption in ("", *data.captions)}


def _open_model(job: TrainingJob) -> tuple[WanJob, PosePreset]:
    """The model with the numbers of the preset. Raises ConfigError and CheckpointError."""
    if job.clips is None:
        raise ConfigError("pose needs clips, a folder of videos with their poses beside them; nothing can be generated")
    source = open_weights(weights_path(job.model))
    family = weights_family(source.shapes, source.metadata)
    if not family.startswith(WAN):
        raise CheckpointError(
            f"{source.path}: this is {family or 'not a model known here'}; poses are learned beside Wan 2.1, an expert "
            "of Wan 2.2 A14B, or motionblocks-wan-i2v: name one of these as model"
        )
    is_small = WORDS in source.metadata
    if is_small and job.dtype is None:
        job = replace(job, dtype="float32")  # so small that nothing is gained, and most processors know no bfloat16
    preset = preset_named(job.pose.preset or ("tiny" if is_small else "paper"))
    return WanJob(replace(job, training=_config(job, preset)), source, pick_device(job.device)), preset


def _config(job: TrainingJob, preset: PosePreset) -> TrainingConfig:
    given = job.training.to_dict()
    said = [name.partition(".")[2] for name in job.said if name.startswith("training.")]
    if wrong := sorted(set(said) & set(OF_POSE)):
        raise ConfigError("; ".join(f"training.{name}: {OF_POSE[name]}" for name in wrong))
    training = PoseTraining(job.pose.clean_timestep, job.pose.include_cross_attn)
    return preset.config(training, **{name: given[name] for name in said if name in given})
