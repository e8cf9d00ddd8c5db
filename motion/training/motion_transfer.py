"""A training of one clip's motion, from settings to the task and what its files say: of Wan, ours and the host's, and
of linear video models, whose layers for space and for time stand where Wan has heads that look there.

Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3 and 4.1 (preset "paper"), and its released code ("quick").
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..adapters.head_lora import head_lora
from ..adapters.lora import LoRA, target_names
from ..analysis.head_map import HeadMap
from ..choices import ALL_HEADS, BOTH, PLACES, RELEASE, SECOND_HEADS, SPATIAL, STAGES, STRIDE, TEMPORAL
from ..data.encoders import TextEntry
from ..data.motion_clip import MotionClip
from ..errors import ConfigError
from ..models.architecture import AdapterPlaces
from ..models.architectures import ARCHITECTURES
from ..models.model_spec import ModelSpec
from .config import TrainingConfig
from .head_classes import FIRST_SIGMA, classify_heads, map_remarks
from .objectives.flow import Flow
from .objectives.motion_loss import Motion, MotionLoss
from .objectives.noise_levels import NoiseLevels
from .objectives.table import own_objective
from .tasks.motion_task import MotionTask
from .trainee import Trainee, WatchedTrainee

SPEC_VERSION = "1"  # of the metadata below
BEHIND = ".to_out"  # in the names of layers behind attention, of networks with layers for space and for time
# What a preset changes for such networks: fewer steps of fewer samples, most where sampling starts, which is where
# motion is decided.
LAYERED = {"tiny": ((100, 120), {"batch_size": 2, "learning_rate": 8e-3, "top_noise_share": 0.7})}


@dataclass(frozen=True)
class MotionSettings:
    """What is trained of a clip's motion, beside the numbers of the training itself. Raises ConfigError.

    stage: both LoRAs, or one alone. heads: of the second; where layers for space and for time are apart, temporal means
    those for time. include_o: LoRAs also beside the projection behind
    attention. places: where sparse frames stand in time. strength: at which the result is meant to be used.
    """

    stage: str = BOTH
    heads: str = ALL_HEADS
    include_o: bool = True
    places: str = STRIDE
    loss: MotionLoss = field(default_factory=MotionLoss)
    strength: float = 1.0

    def __post_init__(self):
        problems = [f"{name} is {str(value)[:40]!r}; it must be one of: {', '.join(known)}" for name, value, known in (
            ("stage", self.stage, STAGES), ("heads", self.heads, SECOND_HEADS), ("places", self.places, PLACES),
        ) if value not in known]  # fmt: skip
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def needs_map(self) -> bool:
        """Whether heads must be told apart."""
        return self.stage != TEMPORAL or self.heads == TEMPORAL


@dataclass(frozen=True)
class MotionPreset:
    """Numbers that go together. steps: of the spatial stage and of the temporal one."""

    steps: tuple[int, int]
    training: dict
    settings: MotionSettings

    def config(self, stage: str, steps: tuple[int, int] = (0, 0), **changes) -> TrainingConfig:
        """The training's numbers for a stage of STAGES; steps that are 0 are the preset's. Raises ConfigError."""
        first, second = (given or own for given, own in zip(steps, self.steps))
        first, second = (0 if stage == TEMPORAL else first), (0 if stage == SPATIAL else second)
        told = {"num_steps": first + second, "first_stage_steps": first, "caption_dropout": 0.0,
                "sigma_sampling": "uniform", **self.training, **changes}  # fmt: skip
        return TrainingConfig.of(**{**told, "alpha": told.get("alpha", float(told["rank"]))})


PRESETS = {
    "quick": MotionPreset(
        (1500, 1500),
        {"rank": 16, "learning_rate": 1e-4, "weight_decay": 0.1, "schedule": "constant", "shift": 5.0},
        MotionSettings(heads=TEMPORAL, loss=MotionLoss(weighting="bell"), strength=0.5),
    ),
    "paper": MotionPreset(
        (3000, 2000),
        {"rank": 128, "learning_rate": 1e-5, "weight_decay": 0.1, "schedule": "constant", "shift": 5.0},
        MotionSettings(heads=TEMPORAL, strength=0.5),
    ),
    "tiny": MotionPreset(
        (100, 200),
        {"rank": 8, "learning_rate": 5e-3, "batch_size": 6, "shift": 8.0},
        MotionSettings(loss=MotionLoss(weight=20.0)),  # what stands still is most of a sprite's error
    ),
}


def preset_for(name: str, spec: ModelSpec) -> MotionPreset:
    """A preset of PRESETS as a model takes it. Raises ConfigError.

    Where layers for space and for time are apart, the second stage trains those for time, at the model's own shift.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is {name[:40]!r}; it must be one of: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if not _layers(spec).time:
        return preset
    steps, changes = LAYERED.get(name, (preset.steps, {}))
    training = {key: value for key, value in preset.training.items() if key != "shift"}
    return MotionPreset(steps, {**training, **changes}, replace(preset.settings, heads=TEMPORAL))


def motion_task(
    trainee: Trainee | WatchedTrainee, clip: MotionClip, text: TextEntry, config: TrainingConfig,
    settings: MotionSettings, *, head_map: HeadMap | None = None, sigma: float = FIRST_SIGMA, loras: int = 0,
    on_look: Callable[[int, int], None] | None = None,
) -> tuple[MotionTask, HeadMap | None]:  # fmt: skip
    """The task that settings ask for, and the map of heads it goes by; without a given one the heads are looked at.

    text: the clip's encoded caption. sigma: at which heads are looked at. loras: patched layers of the base, for the
    record. A model that begins with a picture gets no spatial stage: that picture hands over the looks. One with layers
    for space and for time has no map. Raises ConfigError and ShapeError.
    """
    settings, notes = settings_for(trainee.spec, settings, has_map=head_map is not None)
    layers = _layers(trainee.spec)
    if config.objective.caption_dropout:
        raise ConfigError("caption_dropout is above 0; the motion of one clip is learned under its caption alone")
    if config.adapter.mode != "lora" or config.adapter.adapter != "lora":
        raise ConfigError("the motion of one clip is learned by LoRAs; leave mode and adapter at lora")
    first = config.loop.first_stage_steps if settings.stage != TEMPORAL else 0
    if settings.stage == TEMPORAL and config.loop.first_stage_steps:
        taken = config.loop.num_steps - config.loop.first_stage_steps
        raise ConfigError(f"first_stage_steps is {config.loop.first_stage_steps}, and there is no spatial stage; set "
                          f"it to 0 and num_steps to {taken}")  # fmt: skip
    if loras:
        notes.append(f"{loras} layers of the model carry LoRAs or other patches: the motion is learned beside them, "
                     "and belongs to them")
    if not clip.caption and layers.time:
        notes.append("the clip has no caption: it is learned, and drawn, under the empty prompt")
    elif not clip.caption:
        notes.append("the clip has no caption: what it shows cannot be told from how it moves; name what is seen")
    if settings.needs_map and not layers.time:
        if head_map is None:
            row = {name: value.unsqueeze(0) for name, value in clip.whole.items()}
            row["context"] = text.context.unsqueeze(0)
            head_map = classify_heads(trainee, row, sigmas=(sigma,), loras=loras, on_look=on_look, rule=RELEASE)
        notes += map_remarks(head_map, trainee)
        head_map.check_both()
    else:
        head_map = None
    told = config.adapter
    make = {"rank": told.rank, "alpha": told.alpha, "device": trainee.device}

    def lora_of(stage: str, seed: int) -> LoRA:
        every = stage == TEMPORAL and settings.heads == ALL_HEADS
        if layers.time:
            targets = (layers.space, layers.time) if every else (layers.space if stage == SPATIAL else layers.time,)
            names = [name for name in target_names(trainee.module, tuple(f".{target}." for target in targets))
                     if settings.include_o or BEHIND not in name]  # fmt: skip
            return LoRA(trainee.module, parts=dict.fromkeys(names), seed=seed, **make)
        chosen = torch.ones(_heads(trainee), dtype=torch.bool) if every else head_map.temporal
        chosen = ~chosen if stage == SPATIAL else chosen
        return head_lora(trainee.module, chosen, include_o=settings.include_o, seed=seed, **make)

    spatial = lora_of(SPATIAL, config.loop.seed) if settings.stage != TEMPORAL else None
    temporal = lora_of(TEMPORAL, config.loop.seed + 1) if settings.stage != SPATIAL else None
    places = clip.plan.places(settings.places)
    if told_dynamics(clip, trainee.spec):
        notes.append(f"the clip moves at dynamics {clip.bucket(trainee.spec)}: draw with the same")
    own = None if trainee.own_objective == Flow.name else own_objective(trainee, config.objective)
    objective = Motion(NoiseLevels.of(config.objective, trainee.sampling), settings.loss, own)
    shared = {**asdict(settings), "loss": asdict(settings.loss), "heads of": head_map and head_map.fingerprint}
    shared.pop("strength")
    task = MotionTask(
        trainee, spatial, temporal, clip.dataset(trainee.spec, text, places, alone=spatial is not None), objective,
        border=first, settings=shared, notes=tuple(notes),
    )  # fmt: skip
    return task, head_map


def motion_metadata(
    clip: MotionClip, settings: MotionSettings, stage: str, head_map: HeadMap | None, loras: int = 0, *, rank: int = 0,
    spec: ModelSpec | None = None,
) -> dict[str, str]:  # fmt: skip
    """What a file says of how it was made. stage: of this file. rank: of its LoRA. spec: of the model."""
    told = {
        "motion_transfer": SPEC_VERSION, "stage": stage, "trained_size": clip.size, "caption": clip.caption,
        "heads": settings.heads if stage == TEMPORAL else SPATIAL, "frame_places": settings.places,
        "motion_loss": json.dumps(asdict(settings.loss)), "frames": json.dumps(list(clip.plan.sparse)),
        "suggested_strength": f"{settings.strength:g}",
    }  # fmt: skip
    told |= {"rank": str(rank)} if rank else {}
    told |= {} if spec is None else told_dynamics(clip, spec)
    if head_map is not None:
        told |= {"head_map": head_map.to_json(), "head_map_fingerprint": head_map.fingerprint}
    return told | ({"base_patches": str(loras)} if loras else {})


def told_dynamics(clip: MotionClip, spec: ModelSpec) -> dict[str, str]:
    """How much the clip moves, "dynamics", for a model that is told it; nothing for others."""
    hears = spec.dynamics is not None and getattr(spec.config, "motion_buckets", 0)
    return {"dynamics": str(clip.bucket(spec))} if hears else {}


def settings_for(
    spec: ModelSpec, settings: MotionSettings, *, has_map: bool = False
) -> tuple[MotionSettings, list[str]]:
    """Settings as a model takes them, and what is told of that. has_map: of heads, by the user. Raises ConfigError."""
    if has_map and _layers(spec).time:
        raise ConfigError(f"head_map is given, and the model is a {ARCHITECTURES.of(spec).title}; "
                          f"{_layers(spec).already_apart}")  # fmt: skip
    begins = getattr(spec.config, "concat_channels", 0) or spec.least_frames > 1
    if not begins or settings.stage == TEMPORAL:
        return settings, []
    if settings.stage == SPATIAL:
        raise ConfigError("this model begins with a picture, which hands over the looks: it has no spatial stage; set "
                          "stage to temporal")  # fmt: skip
    return replace(settings, stage=TEMPORAL), [
        "this model begins with a picture, which hands over the looks: the spatial stage is left out"
    ]


def _layers(spec: ModelSpec) -> AdapterPlaces:
    return ARCHITECTURES.of(spec).adapters


def _heads(trainee: WatchedTrainee) -> tuple[int, int]:
    config = trainee.spec.config
    return config.num_layers, config.num_attention_heads


def context_of(values: Tensor, mask: Tensor | None = None, pooled: Tensor | None = None) -> TextEntry:
    """A prompt as any encoder gives it, (1, n, d) or (n, d), on the CPU in float32. Raises ConfigError.

    mask: (1, n) or (n,); pooled: (1, d) or (d,), of models that read them.
    """
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or not values.isfinite().all():
        raise ConfigError(f"the prompt is {tuple(values.shape)} or not finite; one prompt (1, n, d) is needed")
    with torch.inference_mode(False):
        parts = (values, None if mask is None else mask.reshape(-1), None if pooled is None else pooled.reshape(-1))
        return TextEntry(*(None if part is None else part.detach().to("cpu", torch.float32).clone() for part in parts))
