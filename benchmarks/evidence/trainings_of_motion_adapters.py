"""The trainings of e9_motion_adapters.py: adapters of one motion each, kept as files and made where missing."""

import json
import statistics
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from clips_of_motion_adapters import make_clips
from evidence_common import load_model
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.data.latent_dataset import build_latent_dataset, builtin_encoders
from pack.motion.data.windows import WindowConfig
from pack.motion.io.adapters.adapter_file import read_adapter
from pack.motion.training.config import TrainingConfig
from pack.motion.training.run import TrainingPlan, TrainingRun
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trained_weights import write_trained
from pack.motion.training.trainees.linear_video import LinearVideoTrainee

RANKS = {"miva": 11, "lora": 4}  # the largest below 5 % of the base
RATES = (2e-3, 5e-3, 1.2e-2, 3e-2)  # tried for both on TUNED
TUNED, TUNING_STEPS = "sway", 60
STEPS, BATCH, LAST = 120, 2, 20
SEEDS = (0, 1, 2)
ABLATIONS = {  # of MIVA, on TUNED, seed 0
    "λ fixed at one half": "half", "joint instead of separate reads": "joint", "without cross-frame reads": "no_cfa",
    "without the prompt's network": "no_ca", "without LoRA along the frames": "no_tsa",
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """One training. kind: miva, lora or a value of ABLATIONS."""

    kind: str
    motion: str
    seed: int = 0
    steps: int = STEPS
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.kind}_{self.motion}_s{self.seed}_n{self.steps}_r{self.rate:g}"


class FixedHalf(MIVA):
    """MIVA whose λ stays at one half."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in super().parameters().items() if ".lam." not in name}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value.detach() for name, value in super().parameters().items()}


class Trainings:
    """Adapters in a folder, trained where they are missing."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def model(self):
        return load_model()

    def tuning(self) -> list[Training]:
        """Short trainings of both kinds at every rate."""
        return [Training(kind, TUNED, 0, TUNING_STEPS, rate) for rate in RATES for kind in RANKS]

    def path(self, training: Training) -> Path:
        return self.folder / f"{training.name}.safetensors"

    def load(self, training: Training):
        """The adapter, trained if need be, and what its file tells of its training."""
        path = self.path(training)
        if not path.is_file():
            self.train(training)
        found = read_adapter(path)
        return found.build(self.model.dit), json.loads(found.metadata["e9"])

    def train(self, training: Training) -> None:
        """Make the file."""
        model, before = self.model, time.process_time()
        trainee = LinearVideoTrainee(model.dit, model.spec)
        config = TrainingConfig.of(
            adapter="lora" if training.kind == "lora" else "miva", num_steps=training.steps, batch_size=BATCH,
            learning_rate=training.rate, warmup_steps=5, sigma_sampling="uniform", top_noise_share=0.7, save_every=0,
            rank=RANKS.get(training.kind, RANKS["miva"]), alpha=float(RANKS.get(training.kind, RANKS["miva"])),
            caption_dropout=1.0, seed=training.seed,
        )  # fmt: skip
        data = dataset(training.motion)
        adapter = own_adapter(training, model.dit)

        def write(task, metadata):
            write_trained(self.path(training), task, metadata)
            return self.path(training)

        run = TrainingRun(TrainingPlan(config, lambda _: adapter_task(trainee, data, config, adapter), None))
        run.run()
        told = {"seconds": time.process_time() - before, "loss": statistics.fmean(run.trainer.losses[-LAST:]),
                "bucket": bucket(data), "parameters": sum(x.numel() for x in run.task.adapter.tensors().values())}
        self.folder.mkdir(parents=True, exist_ok=True)
        write(run.task, {"e9": json.dumps(told)})
        print(training.name, {name: round(value, 3) for name, value in told.items()}, flush=True)


def own_adapter(training: Training, dit) -> MIVA | None:
    """The adapter of an ablation; None for what the trainer makes by itself."""
    rank = RANKS["miva"]
    plain = {"rank": rank, "alpha": float(rank)}
    if training.kind == "half":
        return FixedHalf(dit, MIVAConfig(**plain), seed=training.seed)
    if training.kind == "joint":
        return MIVA(dit, MIVAConfig(**plain, mode="joint"), seed=training.seed)
    if training.kind.startswith("no_"):
        parts = tuple(part for part in ("cfa", "ca", "tsa") if part != training.kind.removeprefix("no_"))
        return MIVA(dit, MIVAConfig(**plain, parts=parts), seed=training.seed)
    return None


@lru_cache(maxsize=1)
def dataset(motion: str):
    """Ten clips of a motion, encoded, their flow estimated."""
    model = load_model()
    return build_latent_dataset(make_clips(motion), model.spec, builtin_encoders(model),
                                WindowConfig(num_frames=8, stride_min=1, stride_max=1, windows_per_clip=1),
                                cache_folder=None)  # fmt: skip


def bucket(data) -> int:
    """The median of the clips' motion buckets."""
    return int(statistics.median(sample.motion_bucket_id for sample in data.samples))

