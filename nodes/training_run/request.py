"""What the user asked of a training, checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

from ...motion.adapters.lora import LoRA
from ...motion.adapters.miva import MIVA, check_masked
from ...motion.choices import HIGH_NOISE, LOW_NOISE, WHOLE
from ...motion.data.clips import ClipCollection
from ...motion.data.windows import WindowConfig
from ...motion.errors import ConfigError
from ...motion.models.architectures import ARCHITECTURES
from ...motion.models.model_spec import ModelSpec
from ...motion.models.wan.config import WanConfig
from ...motion.models.wan.experts import ALL_LEVELS, may_be_expert
from ...motion.training.config import TrainingConfig
from ..host import pixels
from ..models.base import architecture_of, spec_of
from ..models.native_wan import NativeWan, find_native_wan, native_wan
from ..sampling import flow_shift
from .folders import RunFolders, plan_run
from .native_trainee import ADAPTERS_ONLY, native_spec
from .settings import for_expert, read_settings

NO_TEXT = "no text encoder is connected: the empty prompt is zeros, which only the sample before the training reads"
LARGEST = 3  # times its own side that a model of small pictures is trained at; what is larger becomes its own


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked."""

    model: object
    clip: object | None  # None: the empty prompt is zeros, which nothing reads beside a motion adapter
    vae: object
    clips: ClipCollection
    spec: ModelSpec
    config: TrainingConfig
    windows: WindowConfig
    folders: RunFolders
    allow_changes: bool
    photo: Tensor | None  # (1, h, w, 3) in [0, 1]
    sample_text: str
    shift: float
    wan: NativeWan | None = None  # the host's own Wan, where it is one
    expert: str = WHOLE
    clip_vision: object | None = None  # the host's CLIP_VISION, where the model reads it
    told: Mapping[str, str] = field(default_factory=dict)  # of the file of weights, what the user says of it
    notes: tuple[str, ...] = ()  # what the user is told, before the training and in its report

    @property
    def clean_first_frame(self) -> bool:
        """Whether the start image is shown as a clean first frame: of a motion adapter whose model reads none."""
        is_motion = _kind_of(self.config) == MIVA.kind
        return is_motion and ARCHITECTURES.of(self.spec).clean_first_frame(self.spec.config)

    @property
    def starts_from_image(self) -> bool:
        """Whether the model is shown a start image."""
        if self.clean_first_frame:
            return True
        return self.wan.starts_from_image if self.wan is not None else self.spec.objective != "t2v"


def read_request(model, clip, vae, clips, settings: dict, *, adapter: str = LoRA.kind, told=None) -> Request:
    """Check everything that can be checked before anything is computed. Raises ConfigError and ShapeError.

    adapter: what the node trains in mode lora; a motion adapter takes the model's own numbers where the settings are 0.
    """
    wan = _wan_of(model)
    spec = spec_of(model) if wan is None else native_spec(wan)
    check_clips(clips)
    if clip is None:
        _check_no_text(spec, adapter)
    own = {}
    if adapter == MIVA.kind:
        settings, own = _for_motion(spec, settings)
        clips = clips.without_captions()
    expert, clip_vision = settings.get("expert", WHOLE), settings.get("clip_vision")
    if wan is None and (expert != WHOLE or clip_vision is not None):
        raise ConfigError(f"expert and clip_vision are for Wan; leave expert at {WHOLE} and clip_vision unconnected")
    read = read_settings(settings, flow_shift(model), own)
    if read.config.adapter.adapter != adapter:
        raise ConfigError(
            f"more_settings says adapter = {read.config.adapter.adapter}; a LoRA is trained by Train Motion Model, a "
            "motion adapter by Train Motion Adapter: take the line out, or use the other node"
        )
    if read.config.adapter.masked:
        check_masked(spec.config)
        clips.check_masks()
    if wan is not None:
        read = for_expert(read, expert, spec.config)
        _check_wan(wan, read.config.adapter.mode, clip_vision)
    photo = settings.get("sample_photo")
    request = Request(
        model=model, clip=clip, vae=vae, clips=clips, spec=spec, config=read.config, windows=read.windows,
        folders=plan_run(read.file_prefix, _kind_of(read.config), read.resume_from),
        allow_changes=read.allow_changes, photo=None if photo is None else pixels.start_photo(photo, "sample_photo"),
        sample_text=read.sample_text, shift=read.shift, wan=wan, expert=expert, clip_vision=clip_vision,
        told=dict(told or {}),
        notes=((NO_TEXT,) if clip is None else ()) + (() if wan is None else _notes(read.config, spec.config, expert)),
    )  # fmt: skip
    if photo is not None and not request.starts_from_image:
        raise ConfigError("this model makes videos from text alone; leave sample_photo unconnected")
    return request


def _check_no_text(spec: ModelSpec, adapter: str) -> None:
    """Raises ConfigError where something reads the prompt, so that a text encoder is needed."""
    if adapter != MIVA.kind:
        raise ConfigError(
            "clip is empty: the checkpoint that was loaded holds no text encoder; load the model's own"
        )
    if getattr(spec.config, "pooled_text_embedding", False):
        raise ConfigError(
            "this model also reads the prompt as a whole, which adapters do not replace; connect clip, for the "
            "built-in models that of Load Built-in Motion Model"
        )


def _kind_of(config: TrainingConfig) -> str:
    """What is trained, as `WEIGHT_FOLDERS` knows it."""
    told = config.adapter
    return MIVA.kind if told.mode == "lora" and told.adapter == MIVA.kind else told.mode


def _for_motion(spec: ModelSpec, settings: dict) -> tuple[dict, dict]:
    """Settings of a motion adapter with the model's own numbers where they are 0, and those without a widget.

    Raises ConfigError for models beside which none is trained, and of sizes that no numbers were found for.
    """
    row = ARCHITECTURES.of(spec)
    if row.training.motion is None:
        raise ConfigError(
            f"model is {row.title}, beside which no motion adapter is trained yet; train a LoRA for it with Train "
            "Motion Model, or take Wan or a model of Load Built-in Motion Model"
        )
    defaults = row.training.motion(spec)
    asked = [name for name in ("steps", "batch_size", "learning_rate", "rank") if not settings.get(name)]
    if asked and not defaults.found:
        raise ConfigError(
            f"{', '.join(asked)}: 0 leaves the choice to the model, and only built-in ones have numbers of their own; "
            "set all of them: the paper's for large models are 8000 steps of 1 at 1e-5, rank 128"
        )
    own = asdict(defaults)
    own["steps"], side, _ = own.pop("num_steps"), own.pop("side"), own.pop("found")
    if side and settings.get("resolution", 0) > LARGEST * side:
        settings = {**settings, "resolution": side}
    fixed = {name: own.pop(name) for name in ("sigma_sampling", "top_noise_share")}
    chosen = {name: settings.get(name) or value for name, value in own.items()}
    return {**settings, **chosen, "mode": "lora"}, {**fixed, "adapter": MIVA.kind}


def _wan_of(model) -> NativeWan | None:
    """The host's own Wan in a MODEL, None for one of ours that is trained here. Raises ConfigError for all others."""
    architecture = architecture_of(model)
    if architecture is not None and architecture.training is not None:
        return None
    if architecture is None and (find_native_wan(model) is not None or "wan" in type(model.model).__name__.lower()):
        return native_wan(model)
    raise ConfigError(
        "model is not a linear video model that is trained here (SANA-Video is not); connect one from Load Motion "
        "Model, Inflate Image Model or Load Built-in Motion Model, or Wan from Load Diffusion Model, or train others "
        "with the core node Train LoRA"
    )


def _notes(config: TrainingConfig, sizes: WanConfig, expert: str) -> tuple[str, ...]:
    """What the user is told of the noise levels that are trained of a Wan."""
    levels = (config.objective.sigma_min, config.objective.sigma_max)
    if expert != WHOLE or levels != (0.0, 1.0) or not may_be_expert(sizes):
        return ()
    return (f"{ALL_LEVELS}set expert to {HIGH_NOISE} or {LOW_NOISE}",)


def _check_wan(wan: NativeWan, mode: str, clip_vision) -> None:
    """Raises ConfigError for what the host's own Wan cannot do, and for a start image it would read half of."""
    if mode != "lora":
        raise ConfigError(f"mode is {mode}; {ADAPTERS_ONLY}")
    if wan.reads_clip_vision and clip_vision is None:
        raise ConfigError(
            "this Wan also reads its start image through CLIP vision; connect clip_vision (Load CLIP Vision, "
            "clip_vision_h), or train a Wan that does without, such as Wan 2.2 A14B"
        )
    if clip_vision is not None and not wan.reads_clip_vision:
        raise ConfigError("this Wan reads no CLIP vision; leave clip_vision unconnected")


def check_clips(clips) -> None:
    """Raises ConfigError for anything but a clip collection."""
    if not isinstance(clips, ClipCollection):
        raise ConfigError(f"clips is {type(clips).__name__}; connect the clips output of Load Clips or Generate Clips")
