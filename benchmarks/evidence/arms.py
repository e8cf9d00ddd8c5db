"""Three ways to say what a video is, for one and the same network: whole frames, residuals, consecutive differences.

z are latents of N frames, z_1 the first. What is noised, predicted and sampled is x, N - 1 frames:

    direct      x_n = z_n              the network sees [z_1, x_sigma]
    residual    x_n = z_n - z_1        the network sees [z_1, z_1 + x_sigma]     (MiraMo §4)
    difference  x_n = z_n - z_(n-1)    the network sees [z_1, z_1 + x_sigma]

Everything else is equal: network, start weights, clips, noise levels, noise, steps, loss mean|v - (noise - x)|² over
the N - 1 frames. The network's head names x itself (not the velocity, whose white noise does not fit through a network
narrower than a latent cell); v = (x_sigma - x)/sigma follows from it, alike in the three arms.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from evidence_common import HELD_OUT_SEED
from pack.motion.data.procedural.camera import draw_scenes
from pack.motion.layers.block_dct import coefficients_to_pixels, pixels_to_coefficients
from pack.motion.metrics.dynamics import degree_to_bucket, ms_ssim
from pack.motion.models.conditions import Conditions
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import DynamicsSpec
from pack.motion.sampling.draw import draw_by
from pack.motion.sampling.schedules import shift_sigma
from torch import Tensor, nn

ARMS = ("direct", "residual", "difference")
PANS = ("pan left", "pan right", "pan up", "pan down")
CAPTIONS = (*PANS, "still")  # of the clips here; id 0 is the empty caption
FRAMES = 8  # N
STRIDE = 1  # generator frames from one clip frame to the next: those of the built-in model
SCALE = 2.0  # coefficients of colours in [-1, 1] -> about unit variance, as the paper's 0.41407 does for its VAE
SHIFT = 3.0
TEXT_WIDTH = 64
MIN_SIGMA = 0.1  # the velocity loss of an x head is |error|²/sigma²; below this it is not weighted up any more
DYNAMICS = DynamicsSpec(degree_max=0.12, measure_size=64)


@dataclass(frozen=True)
class Clips:
    """b clips with everything the network is told about them."""

    latents: Tensor  # (b, 192, FRAMES, 8, 8), scaled
    pictures: Tensor  # (b, 3, FRAMES, 64, 64) in [0, 1]
    caption_ids: Tensor  # (b,) of CAPTIONS, from 1
    bucket: Tensor  # (b,)
    way: Tensor  # (b, 2) true median motion of the content from first to last frame, px to the right and down


def draw_clips(captions: list[str], generator: torch.Generator) -> Clips:
    """Procedural clips with the given captions."""
    scenes = draw_scenes(len(captions), generator, motions=captions)
    pictures, flow = scenes.render((torch.arange(FRAMES) * STRIDE).expand(len(captions), -1))
    ids = torch.tensor([CAPTIONS.index(caption) + 1 for caption in captions])
    way = -flow[:, -1].flatten(2).median(-1).values  # the flow is backward
    return Clips(encode(pictures), pictures, ids, measure_bucket(pictures), way)


def draw_captions(num_clips: int, generator: torch.Generator) -> list[str]:
    return [CAPTIONS[int(index)] for index in torch.randint(len(CAPTIONS), (num_clips,), generator=generator)]


def held_out(num_each: int) -> Clips:
    """Clips no training draws, num_each of every caption."""
    return draw_clips([text for text in CAPTIONS for _ in range(num_each)],
                      torch.Generator().manual_seed(HELD_OUT_SEED + 77))


def encode(pictures: Tensor) -> Tensor:
    """(b, 3, t, 64, 64) in [0, 1] -> (b, 192, t, 8, 8)."""
    flat = rearrange(pictures, "b c t h w -> (b t) c h w") * 2 - 1
    return rearrange(pixels_to_coefficients(flat), "(b t) c h w -> b c t h w", t=pictures.shape[2]) * SCALE


def decode(latents: Tensor) -> Tensor:
    """Exact inverse of `encode`, cut to [0, 1]."""
    flat = coefficients_to_pixels(rearrange(latents / SCALE, "b c t h w -> (b t) c h w"))
    return rearrange(flat / 2 + 0.5, "(b t) c h w -> b c t h w", t=latents.shape[2]).clamp(0, 1)


def measure_bucket(pictures: Tensor) -> Tensor:
    """Dynamics bucket (b,) by MS-SSIM over three neighbouring pairs of frames."""
    early, late = ((pictures[:, :, [at + k for at in (0, 3, 6)]]).transpose(1, 2).flatten(0, 1) for k in (0, 1))
    return degree_to_bucket(1 - ms_ssim(early, late).view(len(pictures), 3).mean(1), DYNAMICS)


def to_target(arm: str, latents: Tensor) -> Tensor:
    """Latents (b, c, N, h, w) -> x (b, c, N - 1, h, w)."""
    later = latents[:, :, 1:]
    return later - {"direct": torch.zeros_like(later), "residual": latents[:, :, :1],
                    "difference": latents[:, :, :-1]}[arm]


def to_latents(arm: str, x: Tensor, first: Tensor) -> Tensor:
    """x (b, c, N - 1, h, w) and the first frame's latent (b, c, 1, h, w) -> latents (b, c, N, h, w)."""
    later = {"direct": lambda: x, "residual": lambda: first + x, "difference": lambda: first + x.cumsum(2)}[arm]()
    return torch.cat((first, later), 2)


class Network(nn.Module):
    """The transformer with an embedding a caption; the same start weights in every arm."""

    def __init__(self, seed: int, *, layers: int = 4, heads: int = 4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.dit = LinearVideoDiT(LinearVideoDiTConfig(
                in_channels=192, num_layers=layers, num_attention_heads=heads, num_cross_attention_heads=heads,
                caption_channels=TEXT_WIDTH, default_motion_bucket=10, frame_index_embedding=True,
                pooled_text_embedding=True, position_features=True))
            self.words = nn.Embedding(len(CAPTIONS) + 1, TEXT_WIDTH)
        nn.init.zeros_(self.dit.proj_out.weight)
        nn.init.zeros_(self.dit.proj_out.bias)

    def predict(self, arm: str, x_sigma: Tensor, sigma: Tensor, first: Tensor, ids: Tensor, bucket: Tensor) -> Tensor:
        """The clean x (b, c, N - 1, h, w) that x_sigma at sigma (b,) is said to come from."""
        moving = x_sigma if arm == "direct" else first + x_sigma
        text = self.words(ids)
        told = Conditions(text.unsqueeze(1), pooled=text, motion_bucket_id=bucket)
        out = self.dit.predict_raw(torch.cat((first, moving), 2), sigma * 1000, told)
        return out[:, :, 1:].float()


def draw_sigma(num: int, generator: torch.Generator) -> Tensor:
    """The paper's noise levels: logit-normal, cut to thousandths, shift 3. P(sigma > 0.99) = 2e-4."""
    index = (1000 * torch.sigmoid(torch.randn(num, generator=generator))).floor().clamp(1, 999)
    return shift_sigma(index / 1000, SHIFT)


def velocity_loss(network: Network, arm: str, clips: Clips, ids: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the velocity (b,), mean over the N - 1 frames."""
    level = sigma.view(-1, 1, 1, 1, 1)
    x = to_target(arm, clips.latents)
    clean = network.predict(arm, (1 - level) * x + level * noise, sigma, clips.latents[:, :, :1], ids, clips.bucket)
    return ((clean - x) / level.clamp_min(MIN_SIGMA)).square().flatten(1).mean(1)


@torch.no_grad()
def sample_latents(
    network: Network, arm: str, first: Tensor, ids: Tensor, bucket: Tensor, noise: Tensor, *, num_steps: int = 25
) -> Tensor:
    """Latents (b, c, N, h, w) from noise (b, c, N - 1, h, w), by the paper's solver and schedule, without guidance."""
    def denoise(state: Tensor, sigma: Tensor) -> Tensor:
        return network.predict(arm, state, sigma, first, ids, bucket)

    return to_latents(arm, draw_by(denoise, noise, num_steps=num_steps, shift=SHIFT), first)
