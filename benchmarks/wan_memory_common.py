"""Bytes alive during a training step of a Wan network of published size, counted on the meta device.

Nothing is computed. Held from the start: the base on the device, the LoRA and the step's samples. Blocks on the CPU
are real tensors there, which are never touched, and become bytes of the device when they are fetched. Attention books
what a fused kernel keeps for its backward pass: its three inputs, its answer and a float32 a token and head.
"""

from dataclasses import dataclass, replace

import torch
from builtin_common import mount_pack
from ledger_common import Ledger
from torch import Tensor, nn

mount_pack()

from pack.motion.adapters.lora import LoRA  # noqa: E402
from pack.motion.models.stored_layers import StoredLayers, StoredLinear  # noqa: E402
from pack.motion.models.wan.config import IMAGE_TOKENS, IMAGE_WIDTH, PUBLISHED, WanConfig  # noqa: E402
from pack.motion.models.wan.network import WanDiT  # noqa: E402
from pack.motion.models.wan.spec import SPACE, WanSpec  # noqa: E402
from pack.motion.training.config import TrainingConfig  # noqa: E402
from pack.motion.training.objectives.flow import Flow  # noqa: E402
from pack.motion.training.objectives.noise_levels import NoiseLevels  # noqa: E402
from pack.motion.training.optimizers import build_optimizers  # noqa: E402
from pack.motion.training.trainees.wan import WanTrainee  # noqa: E402

WIDTH, HEIGHT, TEXT = 832, 480, 512
FP8 = torch.float8_e4m3fn


class FusedAttention(torch.autograd.Function):
    """Softmax attention as a fused kernel's memory sees it."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
        out = torch.empty_like(q)
        sums = torch.empty(*q.shape[:2], num_heads, dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def fused_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    return FusedAttention.apply(q, k, v, num_heads)


@dataclass(frozen=True)
class Step:
    """One training step. layers: fewer blocks than published ones have, None for all."""

    title: str
    base: str = "bf16"  # or "fp8": Linears of the blocks with a scale each
    frames: int = 17
    checkpointing: bool = True
    blocks_on_cpu: int = 0
    rank: int = 16
    layers: int | None = None

    @property
    def config(self) -> WanConfig:
        config = PUBLISHED[self.title]
        return config if self.layers is None else replace(config, num_layers=self.layers)


def base_of(step: Step) -> WanDiT:
    """The frozen network, as `frozen_wan` makes it of such a file."""
    network = WanDiT(step.config, operations=StoredLayers, attention=fused_attention, dtype=torch.bfloat16,
                     device="meta").requires_grad_(False)  # fmt: skip
    for layer in network.blocks.modules():
        if step.base == "fp8" and isinstance(layer, StoredLinear):
            layer.weight = nn.Parameter(layer.weight.to(FP8), requires_grad=False)
            layer.weight_scale = torch.empty((), device="meta")
    for block in network.blocks[len(network.blocks) - step.blocks_on_cpu :]:
        block.to_empty(device="cpu")
    return network


def samples(config: WanConfig, frames: int) -> dict[str, Tensor]:
    """A batch of one clip as the data set and the objective draw it."""
    size = (SPACE.latent_frames(frames), HEIGHT // SPACE.spatial_ratio, WIDTH // SPACE.spatial_ratio)

    def empty(*shape: int) -> Tensor:
        return torch.empty(1, *shape, device="meta")

    told = {"latents": empty(SPACE.channels, *size), "noise": empty(SPACE.channels, *size), "sigma": empty(),
            "context": empty(TEXT, config.caption_channels)}  # fmt: skip
    if config.concat_channels:
        told["concat_latents"] = empty(config.concat_channels, *size)
    if config.image_tokens:
        told["image_tokens"] = empty(IMAGE_TOKENS, IMAGE_WIDTH)
    return told


def step_ledger(step: Step) -> Ledger:
    """One step, the optimizer's included; `held` of the ledger are the bytes there from the start."""
    trainee = WanTrainee(
        base_of(step), WanSpec(step.config), checkpointing=step.checkpointing, blocks_on_cpu=step.blocks_on_cpu
    )
    lora = LoRA(
        trainee.module, targets=trainee.own_targets, rank=step.rank, alpha=float(step.rank), device=trainee.device
    )
    batch, parameters = samples(step.config, step.frames), lora.parameters()
    (optimizer,) = build_optimizers(parameters, TrainingConfig().optimizer, None)
    ledger = Ledger()
    weights = [value for value in [*trainee.module.parameters(), *trainee.module.buffers()] if value.is_meta]
    ledger.hold(*weights, name="base")
    ledger.hold(*parameters.values(), *batch.values())
    ledger.held = ledger.live
    with trainee.session(frozen=True), lora.attached(), ledger:
        Flow(NoiseLevels()).loss(trainee, batch).sum().backward()
        optimizer.step()
    return ledger
