"""Small things to train in tests: a toy task, a data set of random latents, a tiny motion model."""

import torch
from pack.motion.data.latent_dataset import LatentDataset, SampleInfo, TextEntry
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec, SamplingDefaults
from pack.motion.training.config import TrainingConfig
from pack.motion.training.objectives.table import own_objective
from pack.motion.training.task import SampleKey
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.recipes.tiny import builtin_spec

TEXT = 12
SHAPE = (4, 3, 4, 4)
FULL = TrainingConfig.of(mode="full", num_steps=4, learning_rate=1e-3, warmup_steps=0)


def keys(count, step=0, seed=0):
    """Sample keys of one step."""
    return [SampleKey(seed, step, index) for index in range(count)]


def task_of(spec=None, shapes=(SHAPE,) * 4, config=FULL, data=None, seed=0):
    """A tiny motion model and random latents as the task that the settings ask for."""
    spec = spec or tiny_spec()
    trainee = LinearVideoTrainee(tiny_dit(spec, seed), spec, checkpointing=config.loop.gradient_checkpointing)
    return adapter_task(trainee, data or toy_dataset(*shapes), config)


class Answering:
    """Stands for a network whose head says `raw` whatever it is shown, which it keeps."""

    def __init__(self, raw, config):
        self.raw, self.config, self.seen = raw, config, None

    def parameters(self):
        return iter([torch.zeros((), dtype=self.raw.dtype)])

    def predict_raw(self, latents, timestep, conditions, *, run_block=None, raw=True):
        self.seen, self.timestep, self.conditions = latents, timestep, conditions
        return self.raw

    __call__ = predict_raw


def losses_of(raw, batch, spec, *, skip_head=None, **settings):
    """Losses of a batch where the head of a network of this spec says `raw`, and what it was shown."""
    trainee = LinearVideoTrainee(Answering(raw, spec.config), spec)
    trainee.module.skip_head = skip_head
    told = {"context": torch.zeros(len(raw), 1, TEXT), "motion_bucket_id": torch.zeros(len(raw), dtype=torch.long)}
    objective = own_objective(trainee, TrainingConfig.of(**settings).objective)
    return objective.loss(trainee, {**told, **batch}), trainee.module.seen


class ToyTask:
    """A small net that learns to turn a row round; `poison` and `fail` break it at a step (0, 1, …)."""

    def __init__(self, seed=0, *, width=16, poison=None, fail=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 8))
        self.poison, self.fail, self.seen = poison, fail or {}, []

    def parameters(self):
        return dict(self.net.named_parameters())

    def fingerprint(self):
        return {"toy": 1}

    def draw(self, keys):
        self.seen += keys
        rows = torch.stack([torch.randn(8, generator=key.generator()) for key in keys])
        return keys, torch.full_like(rows, torch.nan) if keys[0].step == self.poison else rows

    def loss(self, batch):
        keys, rows = batch
        if keys[0].step in self.fail:
            raise self.fail[keys[0].step]
        return (self.net(rows) - rows.flip(1)).square().mean(1)

    def describe(self, batch):
        return ", ".join(f"row {key.step}.{key.index}" for key in batch[0])


def tiny_spec(objective="i2v_residual", prediction="velocity", **flags):
    config = LinearVideoDiTConfig(
        in_channels=4, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, caption_channels=TEXT, mlp_ratio=2.0, prediction=prediction, **flags,
    )  # fmt: skip
    latent = LatentSpec(kind="svd", channels=4, spatial_ratio=8, scale_factor=0.5)
    return LinearVideoSpec(config=config, latent=latent, sampling=SamplingDefaults(), objective=objective)


def flow_spec():
    """The built-in model's own switches, with a small network."""
    full = builtin_spec()
    small = full.config.to_dict() | {
        "num_layers": 1, "num_attention_heads": 1, "num_cross_attention_heads": 1, "caption_channels": TEXT
    }  # fmt: skip
    return LinearVideoSpec(LinearVideoDiTConfig.from_dict(small), full.sampling, full.latent, full.dynamics)


def tiny_dit(spec, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearVideoDiT(spec.config)


def toy_dataset(*shapes, seed=0, record=None):
    """Random latents, one sample a shape; captions of different lengths, the first without a mask."""
    generator = torch.Generator().manual_seed(seed)
    latents = [torch.randn(shape, generator=generator) for shape in shapes]
    samples = [SampleInfo(f"clip {n}", f"caption {n % 2}", n % 20, tuple(shape)) for n, shape in enumerate(shapes)]

    def text(length, mask):
        return TextEntry(torch.randn(length, TEXT, generator=generator), mask, torch.randn(TEXT, generator=generator))

    texts = {"": text(2, None), "caption 0": text(2, None), "caption 1": text(3, torch.tensor([1.0, 1.0, 0.0]))}
    whole = {"fingerprint": "toy", "clips": [], "windows": {}, "encoders": "toy", "latent": {}}
    return LatentDataset(samples, texts, lambda index: {"latents": latents[index].clone()}, record or whole, "toy")
