"""The arms of arms.py as something the pack's own trainer trains."""

import hashlib
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from arms import Clips, Network, draw_captions, draw_clips, draw_sigma, velocity_loss
from torch import Tensor, nn

POOL_SEED = 4_242_001  # of the training clips, the same for all arms and seeds


class Batch(NamedTuple):
    """One step's inputs."""

    clips: Clips
    ids: Tensor  # (b,) captions told, 0 where dropped
    sigma: Tensor  # (b,)
    noise: Tensor  # (b, 192, FRAMES - 1, 8, 8)
    picks: list[int]


def draw_pool(num_clips: int, *, part: int = 16) -> Clips:
    """The training clips."""
    generator = torch.Generator().manual_seed(POOL_SEED)
    parts = [draw_clips(draw_captions(part, generator), generator) for _ in range(num_clips // part)]
    return Clips(*(torch.cat([getattr(one, field.name) for one in parts]) for field in fields(Clips)))


@dataclass(frozen=True)
class ArmTask:
    """Velocity loss of one arm. What is drawn depends on the key alone: arms of one seed see the same numbers."""

    arm: str
    network: Network
    pool: Clips
    caption_dropout: float

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def fingerprint(self) -> dict:
        pixels = self.pool.pictures[:, :, -1, 31, 31].double().numpy().tobytes()
        return {"arm": self.arm, "clips": hashlib.sha256(pixels).hexdigest()[:16]}

    def draw(self, keys) -> Batch:
        picks, sigma, noise, kept = [], [], [], []
        for key in keys:
            generator = key.generator()
            picks.append(int(torch.randint(len(self.pool.bucket), (), generator=generator)))
            sigma.append(draw_sigma(1, generator))
            kept.append(float(torch.rand((), generator=generator)) >= self.caption_dropout)
            noise.append(torch.randn(self.pool.latents[0, :, 1:].shape, generator=generator))
        clips = Clips(*(getattr(self.pool, field.name)[picks] for field in fields(Clips)))
        return Batch(clips, clips.caption_ids * torch.tensor(kept), torch.cat(sigma), torch.stack(noise), picks)

    def loss(self, batch: Batch) -> Tensor:
        return velocity_loss(self.network, self.arm, batch.clips, batch.ids, batch.sigma, batch.noise)

    def describe(self, batch: Batch) -> str:
        return f"{self.arm}: clips {', '.join(map(str, batch.picks))}"
