"""Training of the built-in model on procedural clips: batches, losses and the loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..motion.data.procedural.camera import Scenes, draw_scenes
from ..motion.errors import CheckpointError
from ..motion.layers.block_dct import APPEARANCE_CHANNELS
from ..motion.metrics.dynamics import degree_to_bucket, ms_ssim
from ..motion.models.conditions import Conditions
from ..motion.models.heads.flow_codec import FlowCodec
from ..motion.models.heads.flow_head import compose_clean
from ..motion.models.linear_video.network import LinearVideoDiT
from ..motion.models.model_spec import DynamicsSpec, LinearVideoSpec
from ..motion.text.encoder import MotionTextEncoder
from ..motion.text.vocabulary import MAX_MOTIONS, MotionVocabulary
from ..motion.training.muon import Muon
from .tiny import TEXT_WIDTH, BuiltinRecipe

MEASURED_PAIRS = (0, 5, 10)  # frame pairs (n, n+1) that stand for the whole clip's dynamics degree


@dataclass(frozen=True)
class Batch:
    """One step's inputs. Latents are scaled."""

    clean: Tensor  # (b, 200, t, 8, 8), frame 0 first
    frame_indices: Tensor  # (b, t)
    ids: Tensor  # (b, 8) prompt tokens
    bucket: Tensor  # (b,)
    sigma: Tensor  # (b,)
    noise: Tensor  # like clean


def measure_buckets(scenes: Scenes, spec: DynamicsSpec) -> Tensor:
    """Dynamics bucket of each scene (b,), by MS-SSIM over three neighbouring pairs of its frames."""
    frames = torch.tensor([n + k for n in MEASURED_PAIRS for k in (0, 1)])
    pictures, _ = scenes.render(frames.expand(len(scenes.captions), -1))
    b, t = pictures.shape[0], len(MEASURED_PAIRS)
    early, late = (pictures[:, :, k::2].transpose(1, 2).flatten(0, 1) for k in (0, 1))
    degree = 1 - ms_ssim(early, late).view(b, t).mean(1)
    return degree_to_bucket(degree, spec)


def label_scenes(scenes: Scenes, spec: DynamicsSpec, generator: torch.Generator) -> tuple[Scenes, Tensor]:
    """Give scenes their buckets; what measures as bucket 0 stands still, and half of "still" gets any bucket.

    A stopped scene keeps its caption: bucket 0 means no motion whatever the prompt says.
    """
    bucket = measure_buckets(scenes, spec)
    scenes = scenes.stopped(bucket == 0)
    any_bucket = torch.randint(spec.num_buckets, bucket.shape, generator=generator)
    still = torch.tensor([text == "still" for text in scenes.captions])
    swap = torch.rand(bucket.shape, generator=generator) < 0.5
    return scenes, torch.where(still & swap, any_bucket, bucket)


def draw_frame_indices(num_clips: int, num_targets: int, recipe: BuiltinRecipe, generator: torch.Generator) -> Tensor:
    """Frame 0 and random distinct later frames, ascending: (b, 1 + num_targets)."""
    rows = []
    for _ in range(num_clips):
        far = recipe.long_frames if float(torch.rand((), generator=generator)) < recipe.long_share else 16
        rows.append(torch.cat((torch.zeros(1, dtype=torch.long),
                               (torch.randperm(far - 1, generator=generator)[:num_targets] + 1).sort().values)))
    return torch.stack(rows)


def draw_sigma(num_clips: int, shift: float, recipe: BuiltinRecipe, generator: torch.Generator) -> Tensor:
    """Noise levels: uniform, then shifted; a share sits at 0.999. (b,)"""
    base = torch.rand(num_clips, generator=generator)
    sigma = shift * base / (1 + (shift - 1) * base)
    top = torch.rand(num_clips, generator=generator) < recipe.top_noise_share
    return torch.where(top, torch.tensor(0.999), sigma).clamp(0.02, 0.999)


def draw_batch(
    spec: LinearVideoSpec, recipe: BuiltinRecipe, num_clips: int, num_targets: int, generator: torch.Generator
) -> Batch:
    """Draw clips, label them and encode them."""
    scenes, bucket = label_scenes(draw_scenes(num_clips, generator), spec.dynamics, generator)
    frame_indices = draw_frame_indices(num_clips, num_targets, recipe, generator)
    pictures, flow = scenes.render(frame_indices)
    clean = spec.space.scaled(FlowCodec(spec.latent.working_size).encode(pictures, flow))
    dropped = torch.rand(num_clips, generator=generator) < recipe.caption_dropout
    vocabulary = MotionVocabulary()
    ids = [vocabulary.tokenize("" if drop else text) for drop, text in zip(dropped.tolist(), scenes.captions)]
    sigma = draw_sigma(num_clips, spec.sampling.shift, recipe, generator)
    noise = torch.randn(clean.shape, generator=generator)
    return Batch(clean, frame_indices, torch.tensor(ids), bucket, sigma, noise)


def batch_loss(
    dit: LinearVideoDiT, encoder: MotionTextEncoder, batch: Batch, recipe: BuiltinRecipe, autocast: Callable
) -> tuple[Tensor, Tensor]:
    """Velocity loss on appearance plus weighted L1 on flow, residual frames only. Returns (loss, flow error in px).

    The network sees z1 + r_sigma with r = z - z1 and frame 0 clean (miramo §4); the warp is detached in the velocity
    loss, so flow learns from its own truth only.
    """
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    first = batch.clean[:, :, :1]
    noisy = first + (1 - sigma) * (batch.clean - first) + sigma * batch.noise
    noisy = torch.cat((first, noisy[:, :, 1:]), dim=2)
    with autocast():
        context, pooled, mask = encoder(batch.ids[:, :MAX_MOTIONS])  # the other keys are masked: the same, sooner
        told = Conditions(context, mask, pooled, batch.bucket, first, batch.frame_indices)
        raw = dit.predict_raw(noisy, batch.sigma * 1000, told)
    clean, _ = compose_clean(raw, first, batch.frame_indices, detach_warp=True)
    error = (clean - batch.clean)[:, :, 1:]
    appearance = (error[:, :APPEARANCE_CHANNELS] / sigma.clamp_min(0.1)).square().mean()
    index = batch.frame_indices[:, 1:].view(len(sigma), 1, -1, 1, 1).float()
    truth = batch.clean[:, APPEARANCE_CHANNELS:, 1:]
    weight = torch.where(truth.abs().amax((1, 2, 3, 4), keepdim=True) < 1e-3, recipe.still_weight, 1.0)
    flow = (weight * error[:, APPEARANCE_CHANNELS:].abs() / (index / 4).sqrt()).mean()
    return appearance + recipe.flow_weight * flow, error[:, APPEARANCE_CHANNELS:].detach().abs().mean() * 4


def few_keys_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention written out; with two keys it trains faster than the fused operator. As `torch_attention`."""
    query, key, value = (rearrange(x, "b n (nh dh) -> b nh n dh", nh=num_heads) for x in (query, key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weight = (scores if mask is None else scores + mask).softmax(-1)
    return rearrange(weight.to(value.dtype) @ value, "b nh n dh -> b n (nh dh)")


def build_networks(spec: LinearVideoSpec, seed: int, device="cpu") -> tuple[LinearVideoDiT, MotionTextEncoder]:
    """Fresh networks with weights drawn from the seed; the head starts at "nothing moves"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit = LinearVideoDiT(spec.config, attention=few_keys_attention)
        encoder = MotionTextEncoder(MotionVocabulary().size, TEXT_WIDTH)
    with torch.no_grad():
        dit.proj_out.weight.zero_()
        dit.proj_out.bias.zero_()
        frequency = torch.arange(8.0).view(-1, 1) + torch.arange(8.0)
        gain = torch.cat(((1 + frequency).flatten().clamp_max(8.0).repeat(3), torch.ones(8)))
        dit.first_frame_embed.proj.weight *= gain.view(1, -1, 1, 1)  # fine detail is faint: let it count
        dit.patch_embed.proj.weight *= 0.5  # at first mostly noise: keep it low
    return dit.to(device), encoder.to(device)


class Trainer:
    """One training run; `run` yields after every step so that the caller reports and stops it."""

    def __init__(self, spec: LinearVideoSpec, recipe: BuiltinRecipe, seed: int, device="cpu"):
        self.spec, self.recipe, self.device = spec, recipe, torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.dit, self.encoder = build_networks(spec, seed, self.device)
        self.parameters = [*self.dit.parameters(), *self.encoder.parameters()]
        self.average = [value.detach().clone() for value in self.parameters]
        self.optimizers = self._optimizers()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks and the modulation, AdamW for all the rest."""
        named = [*self.dit.named_parameters(), *self.encoder.named_parameters()]
        inside = {id(value) for name, value in named if value.ndim in (2, 4) and "conv_depth" not in name
                  and name.startswith("transformer_blocks") and "table" not in name}
        matrices = [value for _, value in named if id(value) in inside]
        others = [value for _, value in named if id(value) not in inside]
        settings = {"lr": self.recipe.learning_rate, "weight_decay": self.recipe.weight_decay}
        return [Muon(matrices, **settings), torch.optim.AdamW(others, betas=(0.9, 0.98), **settings)]

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 2 % of the peak."""
        warm = min(1.0, (step + 1) / self.recipe.warmup_steps)
        return self.recipe.learning_rate * warm * (0.51 + 0.49 * math.cos(math.pi * step / self.recipe.num_steps))

    def run(self, on_step: Callable[[int, float, float, float], None]) -> None:
        """Train; on_step(step, loss, flow error px, seconds). Raises CheckpointError when the loss is not finite."""
        edges, stages = 0.0, []
        for stage in self.recipe.stages:
            edges += stage.share
            stages.append((edges, stage))
        started = time.monotonic()
        for step in range(self.recipe.num_steps):
            stage = next((s for edge, s in stages if step < edge * self.recipe.num_steps), stages[-1][1])
            batch = draw_batch(self.spec, self.recipe, stage.num_clips, stage.num_targets, self.generator)
            loss, flow_error = self._step(step, batch)
            on_step(step, loss, flow_error, time.monotonic() - started)

    def _step(self, step: int, batch: Batch) -> tuple[float, float]:
        batch = Batch(**{name: value.to(self.device) for name, value in batch.__dict__.items()})
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate(step)
        loss, flow_error = batch_loss(self.dit, self.encoder, batch, self.recipe, self.autocast)
        self.dit.zero_grad(set_to_none=True)
        self.encoder.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_gradient_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise CheckpointError(f"loss {loss.item()} or gradient {norm.item()} is not finite at step {step}; lower "
                                  "the learning rate or take another seed")
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [value.detach() for value in self.parameters], 1 - decay)
        return loss.item(), flow_error.item()

    def averaged_state(self) -> tuple[dict, dict]:
        """State dicts of network and text encoder with the averaged weights."""
        with torch.no_grad():
            for value, mean in zip(self.parameters, self.average):
                value.copy_(mean)
        return self.dit.state_dict(), self.encoder.state_dict()
