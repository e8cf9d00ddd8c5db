"""Settings of a training run: one frozen record of four parts, every rule checked together, strict to and from values.

Every setting has a name of its own, whatever its part, so files may hold them flat, as those of 0.1 do, or by part.
"""

import math
from dataclasses import dataclass, field, fields, replace

from ..errors import ConfigError
from ..limits import MAX_SEED
from ..records import check_fields

CHOICES = {
    "schedule": ("cosine", "constant"), "optimizer": ("adamw", "muon", "muon_bf16"),
    "sigma_sampling": ("logit_normal", "uniform"), "mode": ("lora", "full"), "precision": ("fp32", "bf16"),
    "adapter": ("lora", "miva"), "file_precision": ("own", "bf16", "fp16", "fp32"),
}  # fmt: skip
_RANGES = (
    ("num_steps", 1, 10**7), ("batch_size", 1, 4096), ("gradient_accumulation", 1, 4096), ("learning_rate", 0.0, 10.0),
    ("warmup_steps", 0, 10**7), ("weight_decay", 0.0, 10.0), ("max_gradient_norm", 0.0, 1e9), ("rank", 1, 4096),
    ("alpha", 0.0, 1e6), ("sigma_min", 0.0, 1.0), ("sigma_max", 0.0, 1.0), ("flow_weight", 0.0, 1e6),
    ("caption_dropout", 0.0, 1.0), ("top_noise_share", 0.0, 1.0), ("save_every", 0, 10**7), ("sample_every", 0, 10**7),
    ("seed", 0, MAX_SEED), ("blocks_on_cpu", 0, 1000), ("first_stage_steps", 0, 10**7),
)  # fmt: skip
_BELOW_ONE = ("beta1", "beta2", "ema_decay")
# Settings that change what is saved or shown, and never a number of the training itself.
FREE_TO_CHANGE = (
    "save_every", "keep_states", "sample_every", "gradient_checkpointing", "blocks_on_cpu", "file_precision",
)  # fmt: skip


@dataclass(frozen=True)
class LoopConfig:
    """Steps, batches, what is saved and when."""

    num_steps: int = 200  # optimizer steps in all, counted from the very start
    batch_size: int = 1  # samples a process takes through the network at once
    gradient_accumulation: int = 1  # such batches a step
    ema_decay: float = 0.0  # share of the running average that a step keeps; 0 = no average
    precision: str = "fp32"  # bf16: autocast; weights and optimizer stay float32
    gradient_checkpointing: bool = False  # keep only the blocks' inputs and compute them twice: less memory
    seed: int = 0  # of everything drawn at random
    save_every: int = 100  # steps between saved states; 0 = only at the end
    keep_states: int = 2  # whole states kept; at least 2, since the newest may be damaged
    sample_every: int = 0  # steps between samples; 0 = none
    blocks_on_cpu: int = 0  # of the network's blocks, kept off the device but while they are computed; mode lora
    first_stage_steps: int = 0  # of num_steps; behind them the learning rate begins anew; 0 = one stage


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients."""

    learning_rate: float = 1e-4  # at its highest, after the warm-up
    schedule: str = "cosine"  # cosine: half a wave down to 2 % of the peak; constant
    warmup_steps: int = 10  # steps over which the learning rate rises linearly
    weight_decay: float = 0.01  # decoupled, a step: learning rate x this
    beta1: float = 0.9  # AdamW's first moment
    beta2: float = 0.99  # AdamW's second moment
    optimizer: str = "adamw"  # muon: matrices of the blocks by Muon, the rest by AdamW; muon_bf16: the same, faster
    max_gradient_norm: float = 1.0  # longer gradients are scaled down to this; 0 = never


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained."""

    mode: str = "lora"  # lora: train a small adapter; full: train all the weights
    rank: int = 16  # of the adapter
    alpha: float = 16.0  # adapter scale = alpha / rank
    # Parts of names of adapted layers, or globs; none: those of the model's architecture.
    targets: tuple[str, ...] = ("attn1", "attn_temporal", "attn2", "ff")
    adapter: str = "lora"  # in mode lora: lora, beside layers; miva, one motion inside blocks, in place of the prompt
    masked: bool = False  # of miva: also learn where the subject is, from clips with masks
    file_precision: str = "own"  # number type of its file; own: bf16 for miva, fp32 for lora; trained in float32


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is drawn for a sample, and how errors are weighed."""

    caption_dropout: float = 0.1  # share of samples trained with the empty prompt
    sigma_sampling: str = "logit_normal"  # noise levels before the shift: logit_normal or uniform
    shift: float | None = None  # flow shift of the noise levels; none takes the model's own
    top_noise_share: float = 0.0  # share of samples at sigma 0.999, where sampling starts
    sigma_min: float = 0.0  # least noise level that is trained, after the shift
    sigma_max: float = 1.0  # largest; models that share the work with another train their part alone
    flow_weight: float = 20.0  # of the flow loss, for models with a flow head


PARTS = {"loop": LoopConfig, "optimizer": OptimizerConfig, "adapter": AdapterConfig, "objective": ObjectiveConfig}
PART_OF = {item.name: part for part, kind in PARTS.items() for item in fields(kind)}  # by setting
# The order settings have in files; states and weights of 0.1 hold them so.
WRITTEN = (
    "num_steps", "batch_size", "gradient_accumulation", "learning_rate", "schedule", "warmup_steps", "weight_decay",
    "beta1", "beta2", "optimizer", "max_gradient_norm", "ema_decay", "caption_dropout", "sigma_sampling", "shift",
    "top_noise_share", "mode", "rank", "alpha", "targets", "precision", "gradient_checkpointing", "flow_weight", "seed",
    "save_every", "keep_states", "sample_every", "sigma_min", "sigma_max", "blocks_on_cpu",
    "adapter", "first_stage_steps", "file_precision", "masked",
)  # fmt: skip
# Younger than 0.1: in files only where they are not at their defaults.
LATER = ("sigma_min", "sigma_max", "blocks_on_cpu", "adapter", "first_stage_steps", "file_precision", "masked")


@dataclass(frozen=True)
class TrainingConfig:
    """Numbers and switches of one run. Raises ConfigError that names all bad settings at once."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self):
        now = self._values()
        problems = [f"{name} is {now[name]!r}; it must be one of {', '.join(known)}"
                    for name, known in CHOICES.items() if now[name] not in known]
        problems += [f"{name} is {now[name]}; it must be {low:g} to {high:g}"
                     for name, low, high in _RANGES if not low <= now[name] <= high]
        problems += [f"{name} is {now[name]}; it must be 0 or more and below 1"
                     for name in _BELOW_ONE if not 0 <= now[name] < 1]
        if not now["learning_rate"] > 0:
            problems.append(f"learning_rate is {now['learning_rate']}; it must be above 0")
        if now["shift"] is not None and not 0 < now["shift"] <= 1000:
            problems.append(f"shift is {now['shift']}; it must be above 0 and up to 1000, or none")
        if not now["sigma_min"] < now["sigma_max"]:
            problems.append(f"sigma_min is {now['sigma_min']}, sigma_max {now['sigma_max']}; the first must be below")
        if now["first_stage_steps"] > now["num_steps"]:
            problems.append(f"first_stage_steps is {now['first_stage_steps']}, of num_steps {now['num_steps']} in all")
        if now["keep_states"] < 2:
            problems.append(
                f"keep_states is {now['keep_states']}; it must be 2 or more: the newest may be half-written"
            )
        if now["blocks_on_cpu"] and not now["gradient_checkpointing"]:
            problems.append(
                f"blocks_on_cpu is {now['blocks_on_cpu']}; it needs gradient_checkpointing true: without it the "
                "backward pass would keep every block on the device all the same"
            )
        if now["adapter"] != "lora" and now["mode"] != "lora":
            problems.append(f"adapter is {now['adapter']}, mode {now['mode']}; an adapter is trained in mode lora")
        if now["masked"] and now["adapter"] != "miva":
            problems.append(f"masked is true, adapter {now['adapter']}; masks are learnt by adapter: miva")
        if now["file_precision"] != "own" and now["mode"] != "lora":
            problems.append(f"file_precision is {now['file_precision']}, mode full; it is of an adapter's file: own")
        if now["blocks_on_cpu"] and now["mode"] != "lora":
            problems.append(f"blocks_on_cpu is {now['blocks_on_cpu']}; those blocks are only read: it needs mode lora")
        targets = now["targets"]
        if not isinstance(targets, tuple) or not all(isinstance(part, str) and part for part in targets):
            problems.append(f"targets is {targets!r}; it must be a list of parts of layer names")
        if problems:
            raise ConfigError("training: " + "; ".join(problems))

    @classmethod
    def of(cls, **settings) -> "TrainingConfig":
        """Build from settings by their own names. Raises ConfigError."""
        return cls().changed(**settings)

    def changed(self, **settings) -> "TrainingConfig":
        """The same with other values of some settings, by their own names. Raises ConfigError."""
        unknown = sorted(set(settings) - set(PART_OF))
        if unknown:
            raise ConfigError(f"training does not know {', '.join(unknown[:5])}; known: {', '.join(WRITTEN)}")
        parts = {part: replace(getattr(self, part), **_belonging(part, settings)) for part in PARTS}
        return type(self)(**parts)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up, then constant or half a cosine down to 2 % of the peak.

        A first stage has a rise and a wave of its own.
        """
        optimizer, num_steps, border = self.optimizer, self.loop.num_steps, self.loop.first_stage_steps
        if border:
            step, num_steps = (step, border) if step < border else (step - border, num_steps - border)
        warm = min(1.0, (step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
        wave = 0.51 + 0.49 * math.cos(math.pi * step / num_steps) if optimizer.schedule == "cosine" else 1.0
        return optimizer.learning_rate * warm * wave

    def to_dict(self) -> dict:
        """Plain JSON values, flat, in the order of `WRITTEN`."""
        plain, own = self._plain(), TrainingConfig()._plain()
        return {name: value for name, value in plain.items() if name not in LATER or value != own[name]}

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """Build from plain JSON values, flat or by part (`loop`, `optimizer`, …).

        Raises ConfigError for unknown names, wrong types and bad values, and for a setting that is given twice.
        """
        flat, checked = flat_settings(values), {}
        if unknown := sorted(str(name)[:40] for name in set(flat) - set(PART_OF)):
            raise ConfigError(f"training does not know {', '.join(unknown[:5])}; a newer pack may have made this")
        for part, kind in PARTS.items():
            given = _belonging(part, flat)
            targets = given.pop("targets", None)
            checked |= check_fields(kind, given)
            if targets is not None:
                if not isinstance(targets, (list, tuple)):
                    raise ConfigError(f"training.targets is {str(targets)[:40]!r}; it needs a list of texts")
                checked["targets"] = tuple(targets)
        return cls.of(**checked)

    def comparable(self) -> dict:
        """The settings that must be equal for a resumed run to be the same run."""
        free = (*FREE_TO_CHANGE, *(("num_steps",) if self.optimizer.schedule == "constant" else ()))
        return {name: value for name, value in self._plain().items() if name not in free}

    def _plain(self) -> dict:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._values().items()}

    def _values(self) -> dict:
        return {name: getattr(getattr(self, PART_OF[name]), name) for name in WRITTEN}


def flat_settings(values: dict) -> dict:
    """Settings that may stand by part, as settings by name. Raises ConfigError for one that is given twice."""
    if not isinstance(values, dict):
        raise ConfigError(f"training is {str(values)[:40]!r}; names and values are needed")
    flat = {name: value for name, value in values.items() if not _is_part(name, value)}
    for part in (name for name, value in values.items() if _is_part(name, value)):
        for name, value in values[part].items():
            if PART_OF.get(name) != part:
                near = f"; it belongs to {PART_OF[name]}" if name in PART_OF else ""
                raise ConfigError(f"training.{part} does not know {str(name)[:60]!r}{near}; it has: "
                                  f"{', '.join(item.name for item in fields(PARTS[part]))}")
            if name in flat:
                raise ConfigError(f"training: {name} is given twice, by itself and in {part}; keep one")
            flat[name] = value
    return flat


def _is_part(name, value) -> bool:
    return name in PARTS and isinstance(value, dict)  # `optimizer: muon` is a setting, `optimizer: {…}` a part


def _belonging(part: str, settings: dict) -> dict:
    return {name: value for name, value in settings.items() if PART_OF.get(name) == part}
