"""What the user asked of a training of one clip's motion, checked before anything is computed."""

from dataclasses import dataclass, replace

from torch import Tensor

from ...motion.analysis.head_map import HeadMap
from ...motion.choices import EXPERTS, LOW_NOISE, WHOLE
from ...motion.data.encoders import TextEntry
from ...motion.data.motion_clip import MotionClip
from ...motion.errors import ConfigError
from ...motion.models.model_spec import ModelSpec
from ...motion.models.wan.experts import noise_range
from ...motion.training.config import TrainingConfig
from ...motion.training.head_classes import FIRST_SIGMA, LOW_SIGMA
from ...motion.training.motion_transfer import PRESETS, MotionSettings, context_of, preset_for, settings_for
from ..host import checks
from ..models.base import architecture_of, spec_of
from ..models.native_wan import NativeWan, native_wan
from ..sampling import flow_shift
from ..text_encoders.prompts import refuse_unread
from .encoders import check_vae
from .folders import RunFolders, plan_run
from .native_trainee import native_spec
from .settings import EXPERT_NAMES, SUFFIXES, parse_settings

PRESET = "preset"
FREE = ("seed", "batch_size", "learning_rate", "rank")  # widgets of which 0 is the preset's, but for the seed
SAME = ("sample_every", "save_every", "precision", "gradient_checkpointing")


@dataclass(frozen=True, eq=False)
class MotionRequest:
    """What the user asked for, checked."""

    model: object
    wan: NativeWan | None  # None for a linear video model
    spec: ModelSpec
    clip: MotionClip
    text: TextEntry
    config: TrainingConfig
    settings: MotionSettings
    folders: RunFolders
    head_map: HeadMap | None
    allow_changes: bool
    expert: str
    vae: object | None  # for samples
    sample_texts: tuple[TextEntry, TextEntry | None]  # positive, and negative where there is one
    notes: tuple[str, ...]

    @property
    def sigma(self) -> float:
        """The noise level at which heads are looked at."""
        return LOW_SIGMA if self.expert == LOW_NOISE else FIRST_SIGMA

    @property
    def starts_from_image(self) -> bool:
        """Whether the model is shown a start image."""
        return self.spec.least_frames > 1 if self.wan is None else self.wan.starts_from_image

    @property
    def loras(self) -> int:
        """Layers of the MODEL that carry LoRAs or other patches of weights."""
        return len(self.model.patches)


def read_motion_request(model, motion_clip, positive, values: dict) -> MotionRequest:
    """Check everything that can be checked before anything is computed. Raises ConfigError and ShapeError."""
    wan = None if _is_linear(model) else native_wan(model)
    spec = spec_of(model) if wan is None else native_spec(wan)
    clip = check_motion_clip(motion_clip, wan)
    head_map = values.get("head_map")
    if head_map is not None and not isinstance(head_map, HeadMap):
        raise ConfigError(f"head_map is {type(head_map).__name__}; connect Classify Attention Heads")
    clip.check_space(spec)
    preset = preset_for(checks.choose("preset", values.get("preset", "quick"), tuple(PRESETS)), spec)
    expert = checks.choose("expert", values.get("expert", WHOLE), EXPERTS)
    if wan is None and expert != WHOLE:
        raise ConfigError(f"expert is {expert}; that is for Wan 2.2: leave it at {WHOLE}")
    settings, notes = settings_for(spec, _settings(preset.settings, values), has_map=head_map is not None)
    vae = values.get("vae")
    if vae is not None:
        check_vae(vae, spec)
    sampled = values.get("sample_positive")
    read = wan_prompt_of if wan is not None else prompt_of
    sampled = read(positive if sampled is None else sampled, spec, "sample_positive")
    negative = values.get("sample_negative")
    negative = None if negative is None else read(negative, spec, "sample_negative")
    prefix = checks.whole_text("file_prefix", values.get("file_prefix", "my_clip_motion")).strip()
    return MotionRequest(
        model=model, wan=wan, spec=spec, clip=clip, text=read(positive, spec, "positive"), settings=settings,
        config=_config(preset, settings, values, None if wan is None else spec, expert, flow_shift(model)),
        folders=plan_run(prefix + SUFFIXES[expert], "lora", values.get("resume_from", "new")), head_map=head_map,
        allow_changes=bool(values.get("allow_changed_data", False)), expert=expert, vae=vae,
        sample_texts=(sampled, negative), notes=tuple(notes),
    )  # fmt: skip


def wan_with_heads(model) -> NativeWan:
    """The plain Wan in a MODEL. Raises ConfigError, for models with layers of their own for time with their names."""
    if _is_linear(model):
        architecture = architecture_of(model)
        raise ConfigError(f"model is a {architecture.title}; {architecture.adapters.already_apart}")
    return native_wan(model)


def _is_linear(model) -> bool:
    """Whether it is one of ours that is trained here, with layers for space and for time."""
    architecture = architecture_of(model)
    return architecture is not None and architecture.training is not None and bool(architecture.adapters.time)


def check_motion_clip(clip, wan: NativeWan | None) -> MotionClip:
    """Raises ConfigError for what is no prepared clip, and for one without what this Wan is shown."""
    if not isinstance(clip, MotionClip):
        raise ConfigError(f"motion_clip is {type(clip).__name__}; connect Prepare Motion Clip")
    if wan is not None and wan.reads_clip_vision and "image_tokens" not in clip.sparse:
        raise ConfigError(
            "this Wan also reads its first frame through CLIP vision; connect clip_vision (Load CLIP Vision, "
            "clip_vision_h) to Prepare Motion Clip, or take a Wan that does without, such as Wan 2.2 A14B"
        )
    return clip


def wan_prompt_of(conditioning, spec: ModelSpec, what: str) -> TextEntry:
    """The text of a CONDITIONING of one prompt for Wan, which reads its values alone. Raises ConfigError."""
    values, _ = _prompt_of(conditioning, spec, what)
    return context_of(values)


def prompt_of(conditioning, spec: ModelSpec, what: str) -> TextEntry:
    """The text of a CONDITIONING of one prompt for a model of ours. Raises ConfigError."""
    values, told = _prompt_of(conditioning, spec, what)
    pooled = told.get("pooled_output")
    if getattr(spec.config, "pooled_text_embedding", False) and pooled is None:
        raise ConfigError(f"{what} has no pooled text, which the model reads; encode it with the CLIP of the model")
    return context_of(values, told.get("attention_mask"), pooled)


def _prompt_of(conditioning, spec: ModelSpec, what: str) -> tuple[Tensor, dict]:
    if not isinstance(conditioning, list) or len(conditioning) != 1:
        count = len(conditioning) if isinstance(conditioning, list) else type(conditioning).__name__
        raise ConfigError(f"{what} holds {count} prompts; one is needed: connect CLIP Text Encode directly")
    values, told = conditioning[0]
    refuse_unread([told])
    if not isinstance(values, Tensor) or values.shape[-1] != spec.config.caption_channels:
        width = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ConfigError(f"{what} is text of {width}; this model reads width {spec.config.caption_channels}: encode "
                          "it with the CLIP that belongs to the model")  # fmt: skip
    return values, told


def _settings(own: MotionSettings, values: dict) -> MotionSettings:
    heads, motion = values.get("heads", PRESET), values.get("motion_loss", PRESET)
    loss = own.loss if motion == PRESET else replace(own.loss, motion=motion)
    return replace(
        own, stage=values.get("stage", own.stage), heads=own.heads if heads == PRESET else heads, loss=loss,
        include_o=bool(values.get("include_o", True)), places=values.get("frame_places", own.places),
    )  # fmt: skip


def _config(preset, settings, values: dict, wan: ModelSpec | None, expert: str, shift: float) -> TrainingConfig:
    told = {name: values[name] for name in FREE if values.get(name)}
    told |= {name: values[name] for name in SAME if name in values}
    told |= {"shift": shift} if "shift" not in preset.training else {}
    more = parse_settings(values.get("more_settings", ""))
    steps = (values.get("spatial_steps", 0), values.get("temporal_steps", 0))
    for name, count in zip(("spatial_steps", "temporal_steps"), steps):
        checks.in_range(name, count, 0, 1_000_000)
    if wan is not None:
        told["sigma_min"], told["sigma_max"] = noise_range(wan.config, EXPERT_NAMES[expert])
    return preset.config(settings.stage, steps, **{**told, **more})
