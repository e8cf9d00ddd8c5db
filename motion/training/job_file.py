"""A training job as a file: YAML or JSON, read without running anything; every name in it is checked."""

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..choices import BOTH, STRIDE
from ..data.windows import WindowConfig
from ..errors import ConfigError
from ..foreign_json import parse_json
from ..io.files.names import check_output_name
from ..io.files.text import decode_text
from ..io.files.yaml_text import read_yaml
from ..io.networks.builtin_names import BUILTIN_NAMES
from ..records import check_fields
from .config import PARTS, WRITTEN, TrainingConfig, flat_settings

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
class MotionOfClip:
    """What `motion` may hold: a training of how one clip moves. None and 0 leave a number to the preset or model."""

    preset: str | None = None  # tiny, quick or paper; None: tiny for small models, quick for all others
    stage: str = BOTH  # both, spatial or temporal
    heads: str | None = None  # that the second stage trains: temporal or all
    motion_loss: str | None = None  # paper, release or off
    frame_places: str = STRIDE  # where sparse frames stand in time: stride, paper, center or off
    include_o: bool = True  # train the projection behind attention too
    spatial_steps: int = 0
    temporal_steps: int = 0
    start: float = 0.0  # seconds into the clip
    num_frames: int = 0  # of the window; 0: 81, of the small Wan 17, of linear video models 16
    sparse_frames: int | None = None  # of them trained, 0 = all; None: 17, of small models all
    resolution: int = 0  # short side in px; 0: 512, of the small Wan 64
    head_map: str | None = None  # file of classify-heads; None: heads are looked at before the first step


@dataclass(frozen=True)
class PoseOfClips:
    """What `pose` may hold: a training that makes a Wan follow poses. None and 0 leave a number to the preset."""

    preset: str | None = None  # paper, low memory or tiny; None: tiny for the small Wan, paper for all others
    num_frames: int = 0  # of a sample, at 16 a second
    width: int = 0  # px
    height: int = 0  # px
    mode: str | None = None  # joint or separate: passes of the VAE over reference, skeletons and frames
    samples_per_clip: int = 1  # other stretches, other references
    reference_anywhere: bool = True  # in the clip; false: the first frame that is made
    change_bodies: bool = False  # skeletons of half of the samples have another size and place
    known_start: bool = False  # also learn to go on from first frames that are known
    clean_timestep: bool = False  # tell the network noise level 0 of reference and skeletons
    include_cross_attn: bool = True  # LoRAs also beside the layers that read the text


@dataclass(frozen=True)
class TrainingJob:
    """One job. Paths are taken from the folder the command is run in."""

    output: str  # .safetensors file that will hold the LoRA, or in mode full the model
    # A built-in model's name, a .safetensors file trained with this pack, or Wan: a file, or a folder of any layout.
    model: str = BUILTIN_NAMES[0]
    clips: str | None = None  # folder of video files with captions, or
    generate: dict | None = None  # what the procedural generator draws: num_clips, motions, num_frames, size, fps, seed
    caption: str | None = None  # for clips that have none; without it they are refused
    fps: float = 24.0  # frame rate that clips are resampled to; 0 = the model's own, which Wan takes if nothing is said
    training: TrainingConfig = field(default_factory=TrainingConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    resume: str | None = None  # "latest", or the folder of a state
    allow_changes: bool = False  # resume although clips or settings differ
    device: str | None = None  # cpu, cuda, …; without it CUDA where torch sees it
    overwrite: bool = False  # replace an output that exists
    kernels: str = "auto"  # backend of the fast operators: auto, torch or triton
    vae: str | None = None  # Wan: file or folder of its VAE; None takes that of a whole diffusers folder
    prompts: str | None = None  # Wan: file of the node Save Prompts, with every caption of the clips
    expert: str | None = None  # Wan 2.2 A14B: high_noise or low_noise, where no name of file or folder says it
    dtype: str | None = None  # Wan: what the base computes in, float32 or bfloat16; None follows the file
    motion: MotionOfClip | None = None  # learn how one clip moves: clips is a video file, or the first counts
    pose: PoseOfClips | None = None  # learn to follow poses: each clip has its poses beside it, clip.json
    said: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # names that the file gives, dotted

    def __post_init__(self):
        problems = []
        if (self.clips is None) == (self.generate is None):
            problems.append("either clips (a folder) or generate (what to draw) is needed, and not both")
        if not str(self.output).endswith(".safetensors"):
            problems.append(f"output is {self.output!r}; it must end with .safetensors")
        if self.motion is not None and self.pose is not None:
            problems.append("motion and pose are both given; a job learns one of the two")
        if self.generate is not None:
            problems += _unknown("generate", self.generate, [item.name for item in fields(Drawing)])
            problems += [] if problems else _untyped(self.generate)
        if problems:
            raise ConfigError("; ".join(problems))
        check_output_name(self.output)

    def says(self, name: str) -> bool:
        """Whether a setting, such as "fps" or "windows.num_frames", was given, by the file or by another value."""
        part, _, leaf = name.rpartition(".")
        owner = getattr(self, part) if part else self
        default = next(item.default for item in fields(owner) if item.name == leaf)
        return name in self.said or getattr(owner, leaf) != default

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
        problems = _unknown("the job", values, [item.name for item in fields(cls) if item.name != "said"])
        records = {"motion": MotionOfClip, "pose": PoseOfClips}
        parts = {"training": TrainingConfig, "windows": WindowConfig, **records}
        known = {"training": [*WRITTEN, *PARTS]} | {
            name: [item.name for item in fields(kind)] for name, kind in parts.items() if name != "training"
        }
        for name in parts:
            problems += _unknown(name, values.get(name) or {}, known[name])
        if problems:
            raise ConfigError("; ".join(problems))
        if "output" not in values:
            raise ConfigError("output is missing; name the .safetensors file that will hold the result")
        given = {name: values[name] for name in parts if values.get(name) is not None}
        made = {name: records[name](**check_fields(records[name], value)) if name in records
                else parts[name].from_dict(value) for name, value in given.items()}  # fmt: skip
        plain = {name: value for name, value in values.items() if name not in parts}
        said = frozenset([*plain, *(f"windows.{name}" for name in values.get("windows") or {}),
                          *(f"training.{name}" for name in flat_settings(values.get("training") or {}))])  # fmt: skip
        return cls(**check_fields(cls, plain), **made, said=said)


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


def _unknown(what: str, values, names) -> list[str]:
    """The first names that do not belong there, with the one that may be meant; what there is stands there once."""
    if not isinstance(values, dict):
        return [f"{what} is {str(values)[:40]!r}; names and values are needed"]
    lines, known = [], f"; there are: {', '.join(names)}"
    for name in [str(name)[:60] for name in values if name not in names][:LISTED]:
        near = difflib.get_close_matches(name, names, 1)
        lines.append(f"{what} does not know {name!r}" + (f"; did you mean {near[0]}?" if near else known))
        known = known if near else ""
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
