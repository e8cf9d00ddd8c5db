"""Jobs that learn how one clip moves: two LoRAs in one run, beside a Wan or a built-in model of the pack.

The LoRA of the motion is the job's output; that of the looks lies beside it, NAME_spatial.safetensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..analysis.head_map import HeadMap
from ..choices import MASSES, RELEASE, SPATIAL
from ..data.clips import Clip, ClipCollection
from ..data.motion_clip import MotionClip, encode_motion_clip
from ..data.sources.folder import open_clip
from ..data.sources.generated import generate_collection
from ..data.sources.video_file import go_on
from ..data.sparse_frames import FPS, FramePlan, plan_frames, rate_in
from ..devices import pick_device
from ..errors import CheckpointError, ConfigError
from ..io.adapters.adapter_file import save_adapter
from ..io.files.text import decode_text
from ..io.files.weight_folder import open_weights
from ..io.networks.builtin_names import weights_path
from ..io.networks.builtin_wan import WORDS
from ..io.networks.families import weights_family
from ..io.networks.wan_layouts import FAMILY as WAN
from ..models.latent_spaces import SPACES
from ..models.linear_video.architecture import LINEAR_VIDEO
from ..models.wan.experts import LOW
from .config import TrainingConfig
from .head_classes import FIRST_SIGMA, LOW_SIGMA, classify_heads
from .job_file import MotionOfClip, TrainingJob
from .job_linear_video import LinearVideoJob
from .job_wan import WanJob
from .motion_transfer import MotionPreset, MotionSettings, motion_metadata, motion_task, preset_for, settings_for
from .processes import OneProcess, World
from .reports import Watcher
from .run import TrainingOutcome, TrainingPlan, TrainingRun
from .tasks.motion_task import MotionTask

OF_MOTION = {  # settings of a training that stand in `motion` instead, or are not open here, with what to do
    "num_steps": "set motion.spatial_steps and motion.temporal_steps",
    "first_stage_steps": "set motion.spatial_steps and motion.temporal_steps",
    "targets": "heads are chosen by motion.stage and motion.heads",
    "mode": "the motion of one clip is learned by LoRAs",
    "adapter": "the motion of one clip is learned by LoRAs",
    "sample_every": "samples are drawn in ComfyUI alone",
}
MAX_MAP_BYTES = 2**24


@dataclass(frozen=True)
class ClipNumbers:
    """What a plan takes where the job says nothing. sparse: 0 = all. side: short side in px."""

    window: int
    sparse: int
    side: int
    fps: float = FPS
    group: int = 4


_LINEAR = SPACES["builtin"]
LARGE, SMALL = ClipNumbers(81, 17, 512), ClipNumbers(17, 0, 64)  # Wan, and the small Wan of the pack
LINEAR = ClipNumbers(16, 0, 64, rate_in(_LINEAR), _LINEAR.temporal_ratio)  # the linear models of the pack


@dataclass(frozen=True, eq=False)
class PreparedMotion:
    """A job's model and clip, encoded."""

    model: WanJob | LinearVideoJob
    clip: MotionClip
    text: object  # TextEntry of the caption
    settings: MotionSettings
    notes: tuple[str, ...]

    @property
    def sigma(self) -> float:
        """The noise level at which heads are looked at."""
        return LOW_SIGMA if self.model.metadata.get("expert") == LOW else FIRST_SIGMA


def run_motion_job(
    job: TrainingJob, watcher: Watcher | None = None, *, check: Callable[[], None] = go_on, world: World | None = None
) -> TrainingOutcome:
    """Encode, look at the heads, train and save; see `run_job`. Raises ConfigError, CheckpointError and ShapeError."""
    world, watcher = world or OneProcess(), watcher or Watcher()
    found = None if job.motion.head_map is None else read_head_map(job.motion.head_map)
    if not world.rank and spatial_output(job.output).exists() and not (job.overwrite or job.resume):
        raise ConfigError(f"{spatial_output(job.output)} exists; choose another output, resume, or say overwrite: true")

    def encoding(done: int, total: int) -> None:
        watcher.encoding(done, total) if done else check()

    ready = prepare_motion(job, check=check, on_step=encoding)
    watcher.say("\n".join([ready.clip.plan.text(), *ready.notes]))
    used: list[HeadMap | None] = []

    def task(dataset) -> MotionTask:
        made, used_map = motion_task(
            ready.model.trainee(), ready.clip, ready.text, ready.model.config, ready.settings, head_map=found,
            sigma=ready.sigma, on_look=lambda done, total: check(),
        )  # fmt: skip
        used.append(used_map)
        if used_map is not None:
            watcher.say(used_map.summary())
        return made

    def write(task: MotionTask, metadata: dict[str, str]) -> Path:
        about, path = ready.model.about_base(task.trainee), Path(job.output)
        for stage, lora in task.learnt(int(metadata["training_steps"])):
            path = spatial_output(job.output) if stage == SPATIAL and task.temporal is not None else Path(job.output)
            told = motion_metadata(ready.clip, ready.settings, stage, used[0], rank=ready.model.config.adapter.rank,
                                   spec=ready.model.spec)  # fmt: skip
            save_adapter(path, lora, {**metadata, **about, **told})
        return path

    model = ready.model
    base = {**model.metadata, **model.licence()}
    plan = TrainingPlan(
        config=model.config, states=job.states, resume=job.resume, allow_changes=job.allow_changes, world=world,
        device=model.device, metadata={**base, "training_data": ready.clip.fingerprint}, task=task, write=write,
    )  # fmt: skip
    return TrainingRun(plan, watcher).run()


def look_at_clip(
    job: TrainingJob, *, sigmas: Sequence[float] = (), seeds: int = 1, method: str = MASSES, rule: str = RELEASE,
    alpha: float = 1.3, target_fraction: float = 0.0, check: Callable[[], None] = go_on,
    on_look: Callable[[int, int], None] | None = None,
) -> HeadMap:  # fmt: skip
    """The map of a job's model over its clip. sigmas: none = where the model's own noise begins.

    Raises ConfigError, CheckpointError and ShapeError.
    """
    if _family(job.model) == LINEAR_VIDEO.name:
        raise ConfigError(f"{weights_path(job.model)} is a {LINEAR_VIDEO.title}; {LINEAR_VIDEO.adapters.already_apart}")
    ready = prepare_motion(job, check=check)
    row = {name: value.unsqueeze(0) for name, value in ready.clip.whole.items()}
    row["context"] = ready.text.context.unsqueeze(0)
    return classify_heads(
        ready.model.trainee(), row, sigmas=tuple(sigmas) or (ready.sigma,), seeds=range(seeds), method=method,
        rule=rule, alpha=alpha, target_fraction=target_fraction, on_look=on_look,
    )  # fmt: skip


def prepare_motion(
    job: TrainingJob, *, check: Callable[[], None] = go_on, on_step: Callable[[int, int], None] | None = None
) -> PreparedMotion:
    """The model of a job, and its clip as the model sees it. Raises ConfigError, CheckpointError and ShapeError."""
    model, settings, notes = _open_model(job)
    clip = open_job_clip(job, check)
    clips = ClipCollection((clip,), fps=0.0)
    model.check_clips(clips)
    numbers = numbers_of(job.model)
    plan = plan_of(clip, job.motion, numbers)
    encoders = model.encoders(clips)
    with torch.no_grad():
        text = encoders.encode_text(clip.caption)
    made = encode_motion_clip(
        clip, plan, encoders, model.spec.space, resolution=job.motion.resolution or numbers.side, on_step=on_step
    )
    return PreparedMotion(model, made, text, settings, (*model.notes, *notes))


def open_job_clip(job: TrainingJob, check: Callable[[], None] = go_on) -> Clip:
    """The clip that a job names: a video file, the first of a folder, or the first that is drawn; with its caption.

    Raises ConfigError.
    """
    if job.clips is not None:
        clip = open_clip(job.clips, check=check)
    else:
        clip = generate_collection(**job.generate).clips[0]
    return clip if job.caption is None else replace(clip, caption=job.caption)


def plan_of(clip: Clip, asked: MotionOfClip, own: ClipNumbers) -> FramePlan:
    """The frames that are trained. own: numbers of the model. Raises ConfigError and ShapeError."""
    sparse = own.sparse if asked.sparse_frames is None else asked.sparse_frames
    return plan_frames(
        clip, num_frames=asked.num_frames or own.window, sparse_frames=sparse, start=asked.start, fps=own.fps,
        group=own.group,
    )  # fmt: skip


def numbers_of(model: str) -> ClipNumbers:
    """What a plan takes for a model, by its name or file, where nobody says. Raises as `open_weights`."""
    if _family(model) == LINEAR_VIDEO.name:
        return LINEAR
    return SMALL if WORDS in open_weights(weights_path(model)).metadata else LARGE


def spatial_output(output: str | Path) -> Path:
    """Where the LoRA of the looks lies."""
    path = Path(output)
    return path.with_name(f"{path.stem}_spatial{path.suffix}")


def read_head_map(path: str | Path) -> HeadMap:
    """A map of a file. Raises ConfigError."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_MAP_BYTES + 1)
        if len(data) > MAX_MAP_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_MAP_BYTES} bytes; a head map is a few pages of text")
        return HeadMap.from_json(decode_text(data))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the file of a head map") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text ({error}); give the file of a head map") from error


def _open_model(job: TrainingJob) -> tuple[WanJob | LinearVideoJob, MotionSettings, list[str]]:
    """The model with the numbers of the preset. Raises ConfigError and CheckpointError."""
    source, family, device = open_weights(weights_path(job.model)), _family(job.model), pick_device(job.device)
    if not family.startswith((WAN, LINEAR_VIDEO.name)):
        raise CheckpointError(
            f"{source.path}: this is {family or 'not a model known here'}; the motion of one clip is learned beside "
            "Wan 2.1, an expert of Wan 2.2 A14B, or a built-in model: name one of these as model"
        )
    if WORDS in source.metadata and job.dtype is None:
        job = replace(job, dtype="float32")  # so small that nothing is gained, and most processors know no bfloat16

    def opened(training: TrainingConfig) -> WanJob | LinearVideoJob:
        told = replace(job, training=training)
        return WanJob(told, source, device) if family.startswith(WAN) else LinearVideoJob(told, device)

    model = opened(TrainingConfig())
    is_large = numbers_of(job.model) is LARGE
    preset = preset_for(job.motion.preset or ("quick" if is_large else "tiny"), model.spec)
    asked = _settings(preset.settings, job.motion)
    settings, notes = settings_for(model.spec, asked, has_map=job.motion.head_map is not None)
    return opened(_config(job, preset, settings.stage)), settings, notes


def _family(model: str) -> str:
    source = open_weights(weights_path(model))
    return weights_family(source.shapes, source.metadata)


def _settings(own: MotionSettings, asked: MotionOfClip) -> MotionSettings:
    loss = own.loss if asked.motion_loss is None else replace(own.loss, motion=asked.motion_loss)
    return replace(own, stage=asked.stage, heads=asked.heads or own.heads, include_o=asked.include_o,
                   places=asked.frame_places, loss=loss)  # fmt: skip


def _config(job: TrainingJob, preset: MotionPreset, stage: str) -> TrainingConfig:
    given = job.training.to_dict()
    said = [name.partition(".")[2] for name in job.said if name.startswith("training.")]
    wrong = sorted(set(said) & set(OF_MOTION))
    if wrong:
        raise ConfigError("; ".join(f"training.{name}: {OF_MOTION[name]}" for name in wrong))
    told = {name: given[name] for name in said if name in given}
    return preset.config(stage, (job.motion.spatial_steps, job.motion.temporal_steps), **told)
