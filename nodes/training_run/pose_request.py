"""What the user asked of a training on poses, checked before anything is computed."""

from dataclasses import dataclass

from ...motion.choices import EXPERTS, WHOLE
from ...motion.data.encoders import TextEntry
from ...motion.data.pose_dataset import PoseDataset
from ...motion.errors import ConfigError
from ...motion.models.model_spec import ModelSpec
from ...motion.models.wan.experts import ALL_LEVELS, may_be_expert, noise_range
from ...motion.training.config import TrainingConfig
from ...motion.training.pose_training import PRESETS, PoseTraining, preset_named
from ..host import checks
from ..models.native_wan import NativeWan, native_wan
from .encoders import check_vae, text_entry
from .folders import RunFolders, plan_run
from .native_trainee import ADAPTERS_ONLY, native_spec
from .settings import EXPERT_NAMES, SUFFIXES, parse_settings

FREE = ("seed", "steps", "batch_size", "learning_rate", "rank")  # widgets of which 0 is the preset's, but for the seed
SAME = ("sample_every", "save_every", "precision", "caption_dropout", "mode")
NAMES = {"steps": "num_steps"}  # of the library, where they differ


@dataclass(frozen=True, eq=False)
class PoseRequest:
    """What the user asked for, checked. texts: every caption of the data and the empty one, encoded."""

    model: object
    wan: NativeWan
    spec: ModelSpec
    data: PoseDataset
    texts: dict[str, TextEntry]
    config: TrainingConfig
    training: PoseTraining
    folders: RunFolders
    allow_changes: bool
    expert: str
    vae: object | None  # for samples
    notes: tuple[str, ...]


def read_pose_request(model, dataset, clip, values: dict) -> PoseRequest:
    """Check everything that can be checked before anything is computed. Raises ConfigError and ShapeError."""
    wan = native_wan(model)
    spec = native_spec(wan)
    if not isinstance(dataset, PoseDataset):
        raise ConfigError(f"dataset is {type(dataset).__name__}; connect Build Pose Dataset")
    dataset.check_model(spec)
    if clip is None:
        raise ConfigError("clip is empty: the checkpoint that was loaded holds no text encoder; load the model's own")
    preset = preset_named(checks.choose("preset", values.get("preset", "paper"), tuple(PRESETS)))
    expert = checks.choose("expert", values.get("expert", WHOLE), EXPERTS)
    training = PoseTraining(bool(values.get("clean_timestep", False)), bool(values.get("include_cross_attn", True)))
    config = _config(preset, training, values, spec, expert)
    if config.adapter.mode != "lora":
        raise ConfigError(f"mode is {config.adapter.mode}; {ADAPTERS_ONLY}")
    vae = values.get("vae")
    if vae is not None:
        check_vae(vae, spec)
    prefix = checks.whole_text("file_prefix", values.get("file_prefix", "my_poses")).strip()
    texts = {caption: text_entry(clip, caption, spec) for caption in ("", *dataset.captions)}
    return PoseRequest(
        model=model, wan=wan, spec=spec, data=dataset, texts=texts, config=config, training=training,
        folders=plan_run(prefix + SUFFIXES[expert], "lora", values.get("resume_from", "new")),
        allow_changes=bool(values.get("allow_changed_data", False)), expert=expert, vae=vae,
        notes=tuple(_notes(model, config, spec, expert)),
    )  # fmt: skip


def _config(preset, training: PoseTraining, values: dict, spec: ModelSpec, expert: str) -> TrainingConfig:
    told = {NAMES.get(name, name): values[name] for name in FREE if values.get(name)}
    told |= {name: values[name] for name in SAME if name in values}
    if values.get("gradient_checkpointing"):
        told["gradient_checkpointing"] = True
    told["sigma_min"], told["sigma_max"] = noise_range(spec.config, EXPERT_NAMES[expert])
    more = parse_settings(values.get("more_settings", ""))
    if "targets" in more or "mode" in more:
        raise ConfigError("more_settings: targets and mode are chosen by include_cross_attn and preset; take them out")
    return preset.config(training, **{**told, **more})


def _notes(model, config: TrainingConfig, spec: ModelSpec, expert: str):
    """What the user is told before the training and in its report."""
    levels = (config.objective.sigma_min, config.objective.sigma_max)
    if expert == WHOLE and levels == (0.0, 1.0) and may_be_expert(spec.config):
        yield f"{ALL_LEVELS}set expert"
    if model.patches:
        yield (f"{len(model.patches)} layers of the model carry LoRAs or other patches: poses are learned beside them, "
               "and belong to them")  # fmt: skip
