"""Our extension: a skip from the noisy latent to the clean estimate, for what no token can carry (not in the paper).

A token of a few hundred numbers cannot hold the detail of the hundreds of noisy pixels it stands for. So what is left
of the noisy residual after the rest of the network has spoken, x = (1 - σ)·q + σ·ε, goes to the answer past the
tokens: q = gate·(c_skip·x + c_out·F(c_in·x)). c_in, c_skip and c_out come from σ and the data's deviation as in EDM
(arXiv 2206.00364, Table 1), here for the flow interpolation; F is a small convolutional net that sees the noisy
residual, the picture behind it and the neighbouring frames; the gate follows the prompt, and dynamics 0 shuts it.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...layers.block_dct import APPEARANCE_CHANNELS, coefficients_to_pixels, pixels_to_coefficients
from ...layers.embeddings import sinusoid

REACH = (1, 2, 4, 2, 1)  # dilations: a place sees about 20 px around it
FOLD = 2  # px a side that become channels
HIDDEN, FEATURES = 128, 64
CLOSED = 0.05  # a gate below this is shut: the words without such detail stay what they are, to the bit


def scalings(sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """(c_in, c_skip, c_out) at sigma for x = (1 - σ)·q + σ·ε and q of the deviation: c_in·x and F have unit size."""
    signal = (1 - sigma) * deviation
    total = (signal.square() + sigma.square()).sqrt()
    return 1 / total, signal * deviation / total.square(), deviation * sigma / total


class SkipHead(nn.Module):
    """Adds to a clean estimate what the noisy latent says about the rest. Latents are those of the built-in space."""

    def __init__(self, config, *, operations, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        width, colours = config.skip_channels, 3 * FOLD**2
        self.deviation, self.width, self.default_bucket = config.skip_deviation, width, config.default_motion_bucket
        self.is_residual = not config.flow_channels
        self.conv_in = operations.Conv2d(2 * colours, width, 3, padding=1, **factory)
        self.convs = nn.ModuleList(
            operations.Conv2d(width, width, 3, padding=reach, dilation=reach, **factory) for reach in REACH
        )
        self.conv_out = operations.Conv2d(width, colours, 3, padding=1, **factory)
        self.linear_1 = operations.Linear(config.caption_channels + 3 * FEATURES, HIDDEN, **factory)
        self.linear_2 = operations.Linear(HIDDEN, 2 * width * len(REACH), **factory)
        self.linear_gate = operations.Linear(config.caption_channels, 1, **factory)

    def forward(
        self, clean: Tensor, seen: Tensor, sigma: Tensor, first_latent: Tensor, indices: Tensor, pooled: Tensor,
        bucket: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """clean: (b, 200, t, h, w), the estimate so far; where there is no flow head, of the residual alone.

        seen: the network's input z1 + r_σ, like clean. sigma, bucket: (b,). first_latent: (b, 200, 1 or t, h, w).
        indices: (t,) or (b, t). pooled: (b, caption_channels). Returns the estimate, float32; frame 0 and the flow
        channels stay, and so does everything where the gate is shut.
        """
        bucket = torch.full_like(sigma, self.default_bucket) if bucket is None else bucket
        clean = clean.float() + first_latent[:, :, :1].float() if self.is_residual else clean.float()
        gate = self.gate(pooled.to(seen.dtype), bucket)
        if clean.shape[2] < 2 or not gate.any():
            return clean
        level = sigma.float().view(-1, 1, 1, 1, 1)
        picture = clean[:, :APPEARANCE_CHANNELS, 1:]
        start = first_latent[:, :APPEARANCE_CHANNELS, :1].float()
        rest = seen[:, :APPEARANCE_CHANNELS, 1:].float() - level * start - (1 - level) * picture
        scales = self.scales(sigma, indices.expand(len(clean), -1)[:, 1:], pooled, bucket, seen.dtype)
        found = self.estimate(to_pixels(rest), to_pixels(picture), sigma.float(), scales)
        clean = clean.clone()
        clean[:, :APPEARANCE_CHANNELS, 1:] += to_coefficients(gate.view(-1, 1, 1, 1, 1) * found)
        return clean

    def gate(self, pooled: Tensor, bucket: Tensor) -> Tensor:
        """How far the prompt opens the skip, (b,) float32 in 0 to 1; exactly 0 below CLOSED and at bucket 0."""
        opened = self.linear_gate(pooled)[:, 0].float().sigmoid()
        return torch.where((opened < CLOSED) | (bucket < 1), 0.0, opened)

    def scales(
        self, sigma: Tensor, indices: Tensor, pooled: Tensor, bucket: Tensor, dtype: torch.dtype
    ) -> Tensor:  # fmt: skip
        """Scales and shifts of the layers: (b, t, layers, 2, width). indices: (b, t); the others as in `forward`."""
        whole = torch.cat([pooled.to(dtype), *(sinusoid(x, FEATURES).to(dtype) for x in (1000 * sigma, bucket))], -1)
        whole = whole.unsqueeze(1).expand(-1, indices.shape[1], -1)
        features = torch.cat((whole, sinusoid(indices, FEATURES).to(dtype)), -1)
        return self.linear_2(F.silu(self.linear_1(features))).unflatten(-1, (len(REACH), 2, self.width))

    def estimate(self, rest: Tensor, picture: Tensor, sigma: Tensor, scales: Tensor) -> Tensor:
        """c_skip·x + c_out·F(c_in·x): noisy rest, picture (b, 3, t, h, w), in [-1, 1] -> the same shape, float32."""
        t = rest.shape[2]
        c_in, c_skip, c_out = (value.view(-1, 1, 1, 1, 1) for value in scalings(sigma, self.deviation))
        x = torch.cat((rest * c_in, picture), 1).to(scales.dtype)
        x = self.conv_in(F.pixel_unshuffle(rearrange(x, "b c t h w -> (b t) c h w"), FOLD))
        for conv, layer in zip(self.convs, scales.flatten(0, 1)[..., None, None].unbind(1)):
            x = x + F.silu(conv(neighbours(x, t)) * (1 + layer[:, 0]) + layer[:, 1])
        answer = rearrange(F.pixel_shuffle(self.conv_out(x), FOLD), "(b t) c h w -> b c t h w", t=t)
        return c_skip * rest + c_out * answer.float()


def neighbours(x: Tensor, t: int) -> Tensor:
    """A quarter of the channels from the frame before, a quarter from the frame after: (b·t, c, h, w)."""
    x = x.unflatten(0, (-1, t))
    part = x.shape[2] // 4
    before = F.pad(x[:, :-1, :part], (0, 0, 0, 0, 0, 0, 1, 0))
    after = F.pad(x[:, 1:, part : 2 * part], (0, 0, 0, 0, 0, 0, 0, 1))
    return torch.cat((before, after, x[:, :, 2 * part :]), 2).flatten(0, 1)


def to_pixels(coefficients: Tensor) -> Tensor:
    """(b, 192, t, h, w) -> (b, 3, t, 8h, 8w)."""
    t = coefficients.shape[2]
    pixels = coefficients_to_pixels(rearrange(coefficients, "b c t h w -> (b t) c h w"))
    return rearrange(pixels, "(b t) c h w -> b c t h w", t=t)


def to_coefficients(pixels: Tensor) -> Tensor:
    """The inverse of `to_pixels`."""
    t = pixels.shape[2]
    coefficients = pixels_to_coefficients(rearrange(pixels, "b c t h w -> (b t) c h w"))
    return rearrange(coefficients, "(b t) c h w -> b c t h w", t=t)
