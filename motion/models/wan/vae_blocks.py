"""Blocks of the Wan 2.1 VAE: causal convolutions, norms, attention inside a frame, and what changes the size.

Each takes a chunk of a clip (b, c, t, h, w) and a `Past`, in which it finds what it kept of the chunk before.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

REACH = 2  # frames before its own that a causal kernel of three sees


class Past:
    """What the layers keep of the frames before a chunk. begins: whether the chunk holds the clip's first frame."""

    def __init__(self):
        self.begins = True
        self._kept: dict[nn.Module, Tensor] = {}

    def keep(self, layer: nn.Module, frames: Tensor, count: int) -> None:
        """Remember the last `count` frames for this layer, in memory of their own."""
        self._kept[layer] = frames[:, :, -count:].clone()

    def before(self, layer: nn.Module, frames: Tensor, count: int) -> Tensor:
        """These frames behind the last `count` that the layer saw, zeros where it saw fewer; keeps the newest."""
        seen = self._kept.get(layer, frames[:, :, :0])
        b, c, t, h, w = seen.shape
        joined = torch.cat((frames.new_zeros(b, c, count - t, h, w), seen, frames), dim=2)
        self.keep(layer, joined, count)
        return joined


def causal_conv(before: int, after: int) -> nn.Conv3d:
    """A 3x3x3 convolution for `causal`."""
    return nn.Conv3d(before, after, 3, padding=(0, 1, 1))


def causal(conv: nn.Conv3d, frames: Tensor, past: Past) -> Tensor:
    """A convolution that sees each frame and those before it; before a clip there are zeros."""
    reach = conv.kernel_size[0] - 1
    return conv(past.before(conv, frames, reach) if reach else frames)


def run(layers: nn.Sequential, frames: Tensor, past: Past) -> Tensor:
    """Layers in a row, those over time causal."""
    for layer in layers:
        frames = causal(layer, frames, past) if isinstance(layer, nn.Conv3d) else layer(frames)
    return frames


class ChannelNorm(nn.Module):
    """Each place's channels scaled to a root mean square of gamma. axes: those after the channels."""

    def __init__(self, width: int, *, axes: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * axes))

    def forward(self, values: Tensor) -> Tensor:
        """(b, c, …) -> the same."""
        return F.normalize(values, dim=1) * (self.gamma * len(self.gamma) ** 0.5)


def head(before: int, after: int) -> nn.Sequential:
    """What ends both halves."""
    return nn.Sequential(ChannelNorm(before, axes=3), nn.SiLU(), causal_conv(before, after))


class Residual(nn.Module):
    """Two causal convolutions beside a straight way."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(before, axes=3), nn.SiLU(), causal_conv(before, after),
            ChannelNorm(after, axes=3), nn.SiLU(), nn.Identity(), causal_conv(after, after),
        )  # fmt: skip
        self.shortcut = nn.Identity() if before == after else nn.Conv3d(before, after, 1)

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        """(b, before, t, h, w) -> (b, after, t, h, w)."""
        return run(self.residual, frames, past) + self.shortcut(frames)


class Attention(nn.Module):
    """Softmax attention of one head between the cells of a frame; frames do not see each other."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width, axes=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        """(b, c, t, h, w) -> the same; keeps nothing of the past."""
        b, _, _, h, _ = frames.shape
        pictures = rearrange(frames, "b c t h w -> (b t) c h w")
        qkv = rearrange(self.to_qkv(self.norm(pictures)), "bt (three c) h w -> three bt 1 (h w) c", three=3)
        mixed = F.scaled_dot_product_attention(*qkv.unbind())
        mixed = self.proj(rearrange(mixed, "bt 1 (h w) c -> bt c h w", h=h))
        return frames + rearrange(mixed, "(b t) c h w -> b c t h w", b=b)


class Downsample(nn.Module):
    """Halves both sides; with in_time also pairs of frames, of which the clip's first is none."""

    def __init__(self, width: int, *, in_time: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))
        self.time_conv = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1)) if in_time else None

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        """(b, c, t, h, w) -> (b, c, t or t/2, h/2, w/2); the first chunk has a frame more before and after."""
        frames = _each_frame(self.resample, frames)
        if self.time_conv is None:
            return frames
        first, rest = _first_and_rest(frames, past)
        if past.begins:
            past.keep(self.time_conv, first, 1)
        if not rest.shape[2]:
            return first
        return torch.cat((first, self.time_conv(past.before(self.time_conv, rest, 1))), dim=2)


class Upsample(nn.Module):
    """Doubles both sides and halves the channels; with in_time also makes two of every frame but the clip's first."""

    def __init__(self, width: int, *, in_time: bool):
        super().__init__()
        nearest = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(nearest, nn.Conv2d(width, width // 2, 3, padding=1))
        self.time_conv = nn.Conv3d(width, 2 * width, (3, 1, 1)) if in_time else None

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        """(b, c, t, h, w) -> (b, c/2, t or 2t, 2h, 2w); of the first chunk's frames, the first stays one."""
        if self.time_conv is not None:
            first, rest = _first_and_rest(frames, past)
            if rest.shape[2]:
                pairs = causal(self.time_conv, rest, past)
                frames = torch.cat((first, rearrange(pairs, "b (two c) t h w -> b c (t two) h w", two=2)), dim=2)
        return _each_frame(self.resample, frames)


def _first_and_rest(frames: Tensor, past: Past) -> tuple[Tensor, Tensor]:
    """The clip's first frame, where the chunk holds it, and the others, along t."""
    count = int(past.begins)
    return frames[:, :, :count], frames[:, :, count:]


def _each_frame(layers: nn.Module, frames: Tensor) -> Tensor:
    """Layers for pictures, on every frame."""
    pictures = layers(rearrange(frames, "b c t h w -> (b t) c h w"))
    return rearrange(pictures, "(b t) c h w -> b c t h w", b=len(frames))
