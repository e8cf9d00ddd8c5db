"""Settings of a training run: one frozen record, every rule checked together, strict to and from plain values."""

import math
from dataclasses import asdict, dataclass

from ..errors import ConfigError
from ..records import check_fields

CHOICES = {
    "schedule": ("cosine", "constant"), "optimizer": ("adamw", "muon"), "sigma_sampling": ("logit_normal", "uniform"),
    "mode": ("lora", "full"), "precision": ("fp32", "bf16"),
}  # fmt: skip
MAX_SEED = 2**64 - 1
_RANGES = (
    ("num_steps", 1, 10**7), ("batch_size", 1, 4096), ("gradient_accumulation", 1, 4096), ("learning_rate", 0.0, 10.0),
    ("warmup_steps", 0, 10**7), ("weight_decay", 0.0, 10.0), ("max_gradient_norm", 0.0, 1e9), ("rank", 1, 4096),
    ("alpha", 0.0, 1e6), ("flow_weight", 0.0, 1e6), ("caption_dropout", 0.0, 1.0), ("top_noise_share", 0.0, 1.0),
    ("save_every", 0, 10**7), ("sample_every", 0, 10**7), ("seed", 0, MAX_SEED),
)  # fmt: skip
_BELOW_ONE = ("beta1", "beta2", "ema_decay")
# Settings that change what is saved or shown, and never a number of the training itself.
FREE_TO_CHANGE = ("save_every", "keep_states", "sample_every", "gradient_checkpointing")


@dataclass(frozen=True)
class TrainingConfig:
    """Numbers and switches of one run."""

    num_steps: int = 200  # optimizer steps in all, counted from the very start
    batch_size: int = 1  # samples a process takes through the network at once
    gradient_accumulation: int = 1  # such batches a step
    learning_rate: float = 1e-4  # at its highest, after the warm-up
    schedule: str = "cosine"  # cosine: half a wave down to 2 % of the peak; constant
    warmup_steps: int = 10  # steps over which the learning rate rises linearly
    weight_decay: float = 0.01  # decoupled, a step: learning rate x this
    beta1: float = 0.9  # AdamW's first moment
    beta2: float = 0.99  # AdamW's second moment
    optimizer: str = "adamw"  # muon: matrices of the blocks by Muon, the rest by AdamW
    max_gradient_norm: float = 1.0  # longer gradients are scaled down to this; 0 = never
    ema_decay: float = 0.0  # share of the running average that a step keeps; 0 = no average
    caption_dropout: float = 0.1  # share of samples trained with the empty prompt
    sigma_sampling: str = "logit_normal"  # noise levels before the shift: logit_normal or uniform
    shift: float | None = None  # flow shift of the noise levels; none takes the model's own
    top_noise_share: float = 0.0  # share of samples at sigma 0.999, where sampling starts
    mode: str = "lora"  # lora: train a small adapter; full: train all the weights
    rank: int = 16  # of the adapter
    alpha: float = 16.0  # adapter scale = alpha / rank
    targets: tuple[str, ...] = ("attn1", "attn_temporal", "attn2", "ff")  # parts of names of adapted layers, or globs
    precision: str = "fp32"  # bf16: autocast; weights and optimizer stay float32
    gradient_checkpointing: bool = False  # keep only the blocks' inputs and compute them twice: less memory
    flow_weight: float = 20.0  # of the flow loss, for models with a flow head
    seed: int = 0  # of everything drawn at random
    save_every: int = 100  # steps between saved states; 0 = only at the end
    keep_states: int = 2  # whole states kept; at least 2, since the newest may be damaged
    sample_every: int = 0  # steps between samples; 0 = none

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}"
                    for name, known in CHOICES.items() if getattr(self, name) not in known]
        problems += [f"{name} is {getattr(self, name)}; it must be {low:g} to {high:g}"
                     for name, low, high in _RANGES if not low <= getattr(self, name) <= high]
        problems += [f"{name} is {getattr(self, name)}; it must be 0 or more and below 1"
                     for name in _BELOW_ONE if not 0 <= getattr(self, name) < 1]
        if not self.learning_rate > 0:
            problems.append(f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.shift is not None and not 0 < self.shift <= 1000:
            problems.append(f"shift is {self.shift}; it must be above 0 and up to 1000, or none")
        if self.keep_states < 2:
            problems.append(f"keep_states is {self.keep_states}; it must be 2 or more: the newest may be half-written")
        if not isinstance(self.targets, tuple) or not all(isinstance(part, str) and part for part in self.targets):
            problems.append(f"targets is {self.targets!r}; it must be a list of parts of layer names")
        if self.mode == "lora" and not self.targets:
            problems.append("targets is empty; mode lora needs at least one part of a layer name, such as attn1")
        if problems:
            raise ConfigError("training: " + "; ".join(problems))

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up, then constant or half a cosine down to 2 % of the peak."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        wave = 0.51 + 0.49 * math.cos(math.pi * step / self.num_steps) if self.schedule == "cosine" else 1.0
        return self.learning_rate * warm * wave

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        """Build from plain JSON values. Raises ConfigError for unknown names, wrong types and bad values."""
        if not isinstance(values, dict) or "targets" not in values:
            return cls(**check_fields(cls, values))
        targets = values["targets"]
        if not isinstance(targets, (list, tuple)):
            raise ConfigError(f"TrainingConfig.targets is {str(targets)[:40]!r}; it needs a list of texts")
        rest = {name: value for name, value in values.items() if name != "targets"}
        return cls(**check_fields(cls, rest), targets=tuple(targets))

    def comparable(self) -> dict:
        """The settings that must be equal for a resumed run to be the same run."""
        free = (*FREE_TO_CHANGE, *(("num_steps",) if self.schedule == "constant" else ()))
        return {name: value for name, value in self.to_dict().items() if name not in free}
