"""A training job as a file: what is trained, on which clips, how, and where the result goes.

YAML or JSON, read without running anything; every name in it is checked. States lie beside the output, in
`<output>.states`, encoded clips in `<output>.latents`.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..builtin_model import BuiltinModel, bundle
from ..data.clips import ClipCollection
from ..data.latent_dataset import WindowConfig, build_latent_dataset, builtin_encoders
from ..data.sources.folder import open_clip_folder
from ..data.sources.generated import generate_collection
from ..data.sources.video_file import go_on
from ..errors import ConfigError
from ..foreign_json import parse_json
from ..io.files.atomic import make_folder, try_writing
from ..io.files.names import check_output_name
from ..io.files.text import decode_text
from ..io.files.yaml_text import read_yaml
from ..io.networks.builtin_names import BUILTIN_NAMES, builtin_path
from ..io.networks.linear_video import LinearVideoFile, read_linear_video
from ..records import check_fields
from .config import PARTS, WRITTEN, TrainingConfig
from .processes import OneProcess, World
from .run import TrainingOutcome, TrainingPlan, TrainingRun, Watcher
from .tasks.adapter_task import AdapterTask, adapter_task
from .trained_weights import write_trained
from .trainees.linear_video import LinearVideoTrainee

MAX_BYTES = 2**16
LISTED = 5  # unknown names that are answered one by one


@dataclass(frozen=True)
class Drawing:
    """What `generate` may hold; ranges are those of `generate_collection`."""

    num_clips: int = 0  # must be given
    motions: list | None = None  # of captions, dealt out in turn
    num_frames: int = 0
    size: int = 0
    fps: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingJob:
    """One job. Paths are taken from the folder the command is run in."""

    output: str  # .safetensors file that will hold the LoRA, or in mode full the model
    model: str = BUILTIN_NAMES[0]  # a built-in model's name, or a .safetensors file trained with this pack
    clips: str | None = None  # folder of video files with captions, or
    generate: dict | None = None  # what the procedural generator draws: num_clips, motions, num_frames, size, fps, seed
    caption: str | None = None  # for clips that have none; without it they are refused
    fps: float = 24.0  # frame rate that clips are resampled to; 0 = the model's own
    training: TrainingConfig = field(default_factory=TrainingConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    resume: str | None = None  # "latest", or the folder of a state
    allow_changes: bool = False  # resume although clips or settings differ
    device: str | None = None  # cpu, cuda, …; without it CUDA where torch sees it
    overwrite: bool = False  # replace an output that exists
    kernels: str = "auto"  # backend of the fast operators: auto, torch or triton

    def __post_init__(self):
        problems = []
        if (self.clips is None) == (self.generate is None):
            problems.append("either clips (a folder) or generate (what to draw) is needed, and not both")
        if not str(self.output).endswith(".safetensors"):
            problems.append(f"output is {self.output!r}; it must end with .safetensors")
        if self.generate is not None:
            problems += _unknown("generate", self.generate, [item.name for item in fields(Drawing)])
            problems += [] if problems else _untyped(self.generate)
        if problems:
            raise ConfigError("; ".join(problems))
        check_output_name(self.output)

    @property
    def states(self) -> Path:
        """Folder of the saved states."""
        return Path(self.output).with_suffix(".states")

    @property
    def latents(self) -> Path:
        """Folder of the encoded clips."""
        return Path(self.output).with_suffix(".latents")

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingJob":
        """Build from plain values, every name and type checked. Raises ConfigError with what is meant, where it can."""
        if not isinstance(values, dict):
            raise ConfigError(f"the job is a {type(values).__name__}; names and values are needed, such as 'output: …'")
        problems = _unknown("the job", values, [item.name for item in fields(cls)])
        parts = {"training": TrainingConfig, "windows": WindowConfig}
        known = {"training": [*WRITTEN, *PARTS], "windows": [item.name for item in fields(WindowConfig)]}
        for name in parts:
            problems += _unknown(name, values.get(name) or {}, known[name])
        if problems:
            raise ConfigError("; ".join(problems))
        if "output" not in values:
            raise ConfigError("output is missing; name the .safetensors file that will hold the result")
        made = {name: kind.from_dict(values[name]) for name, kind in parts.items() if values.get(name) is not None}
        plain = {name: value for name, value in values.items() if name not in parts}
        return cls(**check_fields(cls, plain), **made)


def read_job(path: str | Path) -> TrainingJob:
    """Read a job file, .json or YAML. Raises ConfigError with file, value, need and way out."""
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a job file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; a job file is a page of text")
    try:
        text = decode_text(data)
        values = parse_json(text) if path.suffix.lower() == ".json" else read_yaml(text)
        return TrainingJob.from_dict(values)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text ({error}); save it as UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


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
    device = pick_device(job.device if job.device is not None else getattr(world, "device", None))
    file = read_linear_video(builtin_path(job.model) if job.model in BUILTIN_NAMES else job.model)
    model = bundle(file, device=device, kernels=job.kernels)
    clips = _open_clips(job, check)
    watcher.say(clips.summary())
    plan = TrainingPlan(
        config=job.training, states=job.states, resume=job.resume, allow_changes=job.allow_changes, world=world,
        device=device, metadata={"base_model": Path(job.model).name},
        dataset=lambda on_step: build_latent_dataset(
            clips, model.spec, builtin_encoders(model), job.windows, cache_folder=job.latents, on_step=on_step
        ),
        task=lambda dataset: adapter_task(_trainee(job, model), dataset, job.training),
        write=lambda task, metadata: _write(job, file, task, metadata),
        draw=(lambda task, step: _sample(job, model, clips, step)) if job.training.loop.sample_every else None,
    )  # fmt: skip
    return TrainingRun(plan, watcher).run()


def _check_places(job: TrainingJob, world: World) -> None:
    """Refuse an output that exists or cannot be written, before anything is computed."""
    path = Path(job.output)
    if world.rank:
        return
    if path.exists() and not (job.overwrite or job.resume):
        raise ConfigError(f"output {path} exists; choose another name, resume, or say overwrite: true")
    try_writing(make_folder(path.parent))
    try_writing(make_folder(job.states))


def _open_clips(job: TrainingJob, check: Callable[[], None]) -> ClipCollection:
    if job.clips is not None:
        return open_clip_folder(job.clips, fps=job.fps, default_caption=job.caption, check=check)
    try:
        return generate_collection(**job.generate)
    except TypeError as error:
        raise ConfigError(f"generate: {error}") from error


def _trainee(job: TrainingJob, model: BuiltinModel) -> LinearVideoTrainee:
    loop = job.training.loop
    return LinearVideoTrainee(
        model.dit, model.spec, checkpointing=loop.gradient_checkpointing, blocks_on_cpu=loop.blocks_on_cpu
    )


def _write(job: TrainingJob, file: LinearVideoFile, task: AdapterTask, metadata: dict[str, str]) -> Path:
    """Write the LoRA, or in mode full the model with the text encoder and the words it came with."""
    of_model = {name: text for name, text in file.metadata.items() if name not in file.spec.to_metadata()}
    write_trained(job.output, task, metadata, text_encoder=file.text_encoder, of_model=of_model)
    return Path(job.output)


def _sample(job: TrainingJob, model: BuiltinModel, clips: ClipCollection, step: int) -> Path:
    """A video of the first clip's first frame with the weights so far, beside the output."""
    from ..io.media.video import write_video
    from ..pipeline import animate_frames

    clip, folder = clips.clips[0], make_folder(Path(job.output).with_suffix(".samples"))
    video = animate_frames(clip.frames([0])[0], motion=clip.caption, model=model, seed=job.training.loop.seed)
    path = folder / f"step-{step:08d}.mp4"
    write_video(path, video, model.spec.sampling.fps, overwrite=True)
    return path


def _unknown(what: str, values, names) -> list[str]:
    """The first names that do not belong there, with the one that may be meant."""
    if not isinstance(values, dict):
        return [f"{what} is {str(values)[:40]!r}; names and values are needed"]
    lines = []
    for name in [str(name)[:60] for name in values if name not in names][:LISTED]:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
        lines.append(f"{what} does not know {name!r}; {hint}")
    return lines


def _untyped(generate: dict) -> list[str]:
    """What is missing or of a wrong type in `generate`."""
    if "num_clips" not in generate:
        return ["generate needs num_clips"]
    try:
        motions = check_fields(Drawing, generate).get("motions") or ()
    except ConfigError as error:
        return [f"generate: {error}"]
    wrong = [motion for motion in motions if not isinstance(motion, str)]
    return [f"generate: {str(wrong[0])[:40]!r} is no motion; texts such as 'pan left' are needed"] if wrong else []
