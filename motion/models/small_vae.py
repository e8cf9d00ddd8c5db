"""The VAE of motionblocks-wan: the latents of Wan 2.1's VAE in shape, rule and scale, in a network of a few MB.

The first frame has a latent frame of its own, every four that follow share one; nothing looks ahead. A cell of 8x8 px
is 192 numbers in the first frame and 768 in a group of four. A linear map to 16 channels and back (it starts as the
principal components of the clips it is trained on) carries most of it; causal convolutions between cells add the rest.
Latents come out in the mean and deviation of Wan 2.1's, so that whatever is made for those takes them.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from .latent_spaces import SPACES, check_multiple

SPACE = SPACES["wan21"]
CELL, GROUP, RGB = SPACE.spatial_ratio, SPACE.temporal_ratio, 3
FIRST_NUMBERS, GROUP_NUMBERS = RGB * CELL**2, GROUP * RGB * CELL**2  # of a cell
_RANGES = (
    ("encoder_width", 1, 4096), ("encoder_blocks", 0, 100), ("decoder_width", 1, 4096), ("decoder_blocks", 0, 100),
)  # fmt: skip


@dataclass(frozen=True)
class SmallVAEConfig:
    """Sizes of the convolutions of both ways."""

    encoder_width: int = 64
    encoder_blocks: int = 2
    decoder_width: int = 160
    decoder_blocks: int = 4

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _RANGES if not low <= getattr(self, name) <= high]  # fmt: skip
        if problems:
            raise ConfigError("VAE config: " + "; ".join(problems))


class Cells(nn.Module):
    """A layer that reads or writes cells: one matrix for the first frame, one for groups of four."""

    def __init__(self, inputs: tuple[int, int], outputs: tuple[int, int], *, dtype=None, device=None):
        super().__init__()
        make = {"dtype": dtype, "device": device}
        self.first = nn.Conv2d(inputs[0], outputs[0], 1, **make)
        self.group = nn.Conv2d(inputs[1], outputs[1], 1, **make)

    def forward(self, first: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """first (b, n, h, w), groups (b, t, m, h, w) -> the same with other numbers a cell."""
        made = self.group(groups.flatten(0, 1)).unflatten(0, groups.shape[:2])
        return self.first(first), made


class CausalBlock(nn.Module):
    """x plus what a 3x3 convolution over this latent frame and the one before it finds."""

    def __init__(self, width: int, *, dtype=None, device=None):
        super().__init__()
        make = {"dtype": dtype, "device": device}
        self.around = nn.Conv2d(2 * width, width, 3, padding=1, **make)
        self.mix = nn.Conv2d(width, width, 1, **make)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, c, h, w) -> the same."""
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)
        found = self.around(torch.cat((before, x), dim=2).flatten(0, 1))
        return x + self.mix(nn.functional.gelu(found)).unflatten(0, x.shape[:2])


class SmallVAE(nn.Module):
    """Videos to latents and back. Raises ShapeError for sizes and frame counts that it would have to cut."""

    def __init__(self, config: SmallVAEConfig | None = None, *, dtype=None, device=None):
        super().__init__()
        self.config = config or SmallVAEConfig()
        make, channels = {"dtype": dtype, "device": device}, SPACE.channels
        pixels, latents = (FIRST_NUMBERS, GROUP_NUMBERS), (channels, channels)
        wide, deep = self.config.encoder_width, self.config.decoder_width
        self.to_latents = Cells(pixels, latents, **make)
        self.encoder_in = Cells(pixels, (wide, wide), **make)
        self.encoder = nn.ModuleList(CausalBlock(wide, **make) for _ in range(self.config.encoder_blocks))
        self.encoder_out = nn.Conv2d(wide, channels, 1, **make)
        self.decoder_in = nn.Conv2d(channels, deep, 1, **make)
        self.decoder = nn.ModuleList(CausalBlock(deep, **make) for _ in range(self.config.decoder_blocks))
        self.decoder_out = Cells((deep, deep), pixels, **make)
        self.to_pixels = Cells(latents, pixels, **make)
        self.register_buffer("mean", torch.zeros(channels, **make))  # of what the encoder makes of its own clips
        self.register_buffer("deviation", torch.ones(channels, **make))

    def encode(self, video: Tensor) -> Tensor:
        """video (b, 3, t, h, w) in [-1, 1], t = 4k + 1, sides divisible by 8 -> latents (b, 16, k + 1, h/8, w/8)."""
        check_axes(video, "the video", RGB)
        check_multiple(video.shape[-1], video.shape[-2], CELL, "the video", SPACE.title)
        SPACE.latent_frames(video.shape[2])
        centred = (self.encode_cells(video) - _row(self.mean)) / _row(self.deviation)
        return SPACE.unscaled(centred.movedim(2, 1))

    def decode(self, latents: Tensor) -> Tensor:
        """latents (b, 16, k + 1, h, w) -> video (b, 3, 4k + 1, 8h, 8w), about [-1, 1], not clipped."""
        check_axes(latents, "latents", SPACE.channels)
        cells = SPACE.scaled(latents).movedim(1, 2) * _row(self.deviation) + _row(self.mean)
        return self.decode_cells(cells)

    def encode_cells(self, video: Tensor) -> Tensor:
        """As `encode`, in the numbers of the linear map: (b, t', 16, h', w')."""
        first, groups = to_cells(video)
        linear = torch.cat(_joined(*self.to_latents(first, groups)), dim=1)
        x = torch.cat(_joined(*self.encoder_in(first, groups)), dim=1)
        for block in self.encoder:
            x = block(x)
        return linear + self.encoder_out(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def decode_cells(self, cells: Tensor) -> Tensor:
        """As `decode`, of the numbers of the linear map (b, t', 16, h', w')."""
        x = self.decoder_in(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])
        for block in self.decoder:
            x = block(x)
        linear = self.to_pixels(cells[:, 0], cells[:, 1:])
        found = self.decoder_out(x[:, 0], x[:, 1:])
        return to_video(linear[0] + found[0], linear[1] + found[1])


def to_cells(video: Tensor) -> tuple[Tensor, Tensor]:
    """(b, 3, 4k + 1, h, w) -> the first frame (b, 192, h/8, w/8) and the groups (b, k, 768, h/8, w/8)."""
    first = rearrange(video[:, :, 0], "b c (h p) (w q) -> b (c p q) h w", p=CELL, q=CELL)
    groups = rearrange(video[:, :, 1:], "b c (t g) (h p) (w q) -> b t (g c p q) h w", g=GROUP, p=CELL, q=CELL)
    return first, groups


def to_video(first: Tensor, groups: Tensor) -> Tensor:
    """The way back of `to_cells`."""
    start = rearrange(first, "b (c p q) h w -> b c 1 (h p) (w q)", p=CELL, q=CELL)
    rest = rearrange(groups, "b t (g c p q) h w -> b c (t g) (h p) (w q)", g=GROUP, p=CELL, q=CELL)
    return torch.cat((start, rest), dim=2)


def check_axes(values: Tensor, what: str, channels: int) -> None:
    """Refuse what is no video or no latents of this space. Raises ShapeError."""
    if values.ndim != 5 or values.shape[1] != channels or not values.shape[2]:
        raise ShapeError(f"{what} are {tuple(values.shape)}; (b, {channels}, t, h, w) is needed, t 1 or more")


def _joined(first: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    return first.unsqueeze(1), groups


def _row(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
