"""A training that makes a Wan follow poses, from settings to the task and what its files say: ours and the host's.

Source: FramePrompt, arXiv 2506.17301, Sec. 3 and 4 (preset "paper"; sizes, learning rate and shift are not in it).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..adapters.lora import LoRA
from ..choices import CLEAN_LEVEL, JOINT, ONE_LEVEL, SEPARATE
from ..data.encoders import TextEntry
from ..data.pose_clips import PoseSettings
from ..data.pose_dataset import PoseDataset
from ..errors import ConfigError
from ..models.model_spec import ModelSpec
from ..pose.renderer import RENDERER_ID
from ..sequence.trained_as import TrainedAs
from .config import TrainingConfig
from .objectives.known_start import KnownStart
from .objectives.noise_levels import NoiseLevels
from .tasks.pose_task import PoseTask
from .trainee import Trainee

SPEC_VERSION = "1"  # of the metadata below
SELF = ("*.self_attn.[qkvo]", "*.ffn.0", "*.ffn.2")  # layers that get a LoRA; q, k, v of pictures never
CROSS = ("*.cross_attn.[qkvo]",)
MAX_CAPTIONS = 100  # in a file


@dataclass(frozen=True)
class PoseTraining:
    """What is trained, beside the numbers of the training. clean_timestep: see `HalfFrames`. include_cross_attn: a LoRA
    also beside the layers that read the text.
    """

    clean_timestep: bool = False
    include_cross_attn: bool = True

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of layers that get a LoRA."""
        return SELF + CROSS if self.include_cross_attn else SELF


@dataclass(frozen=True)
class PosePreset:
    """Numbers that go together. samples: of `PoseSettings`; training: of `TrainingConfig`."""

    samples: dict
    training: dict

    def settings(self, **changes) -> PoseSettings:
        """How samples are drawn. Raises ConfigError and ShapeError."""
        return PoseSettings(**{**self.samples, **changes})

    def config(self, training: PoseTraining, **changes) -> TrainingConfig:
        """The training's numbers. Raises ConfigError."""
        told = {"sigma_sampling": "uniform", "shift": 5.0, "targets": training.targets, **self.training, **changes}
        return TrainingConfig.of(**{**told, "alpha": told.get("alpha", float(told["rank"]))})


PRESETS = {
    "paper": PosePreset(
        {"num_frames": 40, "width": 832, "height": 480, "mode": JOINT},
        {"num_steps": 3640, "rank": 128, "learning_rate": 1e-4, "batch_size": 1, "schedule": "constant",
         "gradient_checkpointing": True},
    ),
    "low memory": PosePreset(
        {"num_frames": 20, "width": 448, "height": 256, "mode": JOINT},
        {"num_steps": 3640, "rank": 32, "learning_rate": 1e-4, "batch_size": 1, "schedule": "constant",
         "gradient_checkpointing": True},
    ),
    "tiny": PosePreset(
        {"num_frames": 17, "width": 96, "height": 96, "mode": SEPARATE},
        {"num_steps": 300, "rank": 32, "learning_rate": 5e-3, "batch_size": 4, "shift": 3.0},
    ),
}  # fmt: skip


def preset_named(name: str) -> PosePreset:
    """A preset of PRESETS. Raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {str(name)[:40]!r}; it must be one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def pose_task(
    trainee: Trainee, data: PoseDataset, texts: Mapping[str, TextEntry], config: TrainingConfig, training: PoseTraining
) -> PoseTask:
    """The task that settings ask for. texts: of every caption and of the empty one. Raises ConfigError."""
    told, settings = config.adapter, data.settings
    if told.adapter != LoRA.kind:
        raise ConfigError(f"adapter is {told.adapter}; poses are learned by a LoRA: leave it at {LoRA.kind}")
    adapter = None
    if told.mode == "lora":
        adapter = LoRA(trainee.module, targets=told.targets, rank=told.rank, alpha=told.alpha, seed=config.loop.seed,
                       device=trainee.device)  # fmt: skip
    objective = KnownStart(
        NoiseLevels.of(config.objective, trainee.sampling), training.clean_timestep, settings.known_start
    )
    return PoseTask(
        trainee, adapter, data.dataset(trainee.spec, texts), objective, layout=settings.layout,
        caption_dropout=config.objective.caption_dropout, settings=asdict(training),
        notes=tuple(_notes(trainee.spec, data)),
    )  # fmt: skip


def pose_metadata(data: PoseDataset, training: PoseTraining, config: TrainingConfig) -> dict[str, str]:
    """What a file says of how it was made."""
    settings, many = data.settings, len(data.captions)
    as_trained = TrainedAs(
        settings.mode, CLEAN_LEVEL if training.clean_timestep else ONE_LEVEL, renderer=str(RENDERER_ID)
    )
    return {
        **as_trained.to_metadata(), "pose_training": SPEC_VERSION, "trained_size": data.size,
        "frames": str(settings.num_frames), "captions": json.dumps(data.captions[:MAX_CAPTIONS]),
        "pose_samples": json.dumps(settings.to_dict()), "num_captions": str(many),
        **({"rank": str(config.adapter.rank)} if config.adapter.mode == "lora" else {}),
    }  # fmt: skip


def _notes(spec: ModelSpec, data: PoseDataset) -> list[str]:
    notes = []
    if not getattr(spec.config, "concat_channels", 0):
        notes.append("this model reads no start video: reference and skeletons reach it as clean frames alone, which "
                     "is experimental")  # fmt: skip
    if "" in data.captions:
        count = sum(item.caption == "" for item in data.items)
        notes.append(f"{count} of {len(data.items)} samples have no caption: they are learned under the empty prompt")
    return notes
