"""The Wan 2.1 VAE: causal in time, 4x smaller in time, 8x in space, 16 channels; names as in the host's files.

Source: Wan Team 2025, arXiv 2503.20314, section 4.1. A clip's first frame goes through alone, as a photo does; every
later latent frame stands for four frames and sees none after them. So a clip may come in chunks: each layer keeps the
few frames that its kernel reaches back to, and memory does not grow with the clip.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ShapeError
from ..latent_spaces import SPACES, check_multiple
from .vae_blocks import Attention, Downsample, Past, Residual, Upsample, causal, causal_conv, head, run

SPACE = SPACES["wan21"]
WIDTH = 96  # of the published weights
MAX_WIDTH = 1024
WIDTHS = (1, 2, 4, 4)  # times the width, from the finest stage to the coarsest
HALVES_TIME = (False, True, True)  # between those stages
BLOCKS = 2  # residual blocks a stage of the encoder; the decoder has one more


class Encoder(nn.Module):
    """(b, 3, t, h, w) -> (b, 32, t', h/8, w/8): mean and log-variance of the latents, before the last 1x1 layer."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width * factor for factor in WIDTHS]
        self.conv1 = causal_conv(3, widths[0])
        layers, before = [], widths[0]
        for stage, after in enumerate(widths):
            for _ in range(BLOCKS):
                layers.append(Residual(before, after))
                before = after
            if stage < len(HALVES_TIME):
                layers.append(Downsample(after, in_time=HALVES_TIME[stage]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(before)
        self.head = head(before, 2 * SPACE.channels)

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        """One chunk; past: what the layers keep of those before it."""
        hidden = causal(self.conv1, frames, past)
        for block in (*self.downsamples, *self.middle):
            hidden = block(hidden, past)
        return run(self.head, hidden, past)


class Decoder(nn.Module):
    """(b, 16, t', h', w') -> (b, 3, t, 8h', 8w')."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width * factor for factor in reversed(WIDTHS)]
        self.conv1 = causal_conv(SPACE.channels, widths[0])
        self.middle = _middle(widths[0])
        layers, before = [], widths[0]
        for stage, after in enumerate(widths):
            for _ in range(BLOCKS + 1):
                layers.append(Residual(before, after))
                before = after
            if stage < len(HALVES_TIME):
                layers.append(Upsample(after, in_time=HALVES_TIME[-1 - stage]))
                before = after // 2
        self.upsamples = nn.Sequential(*layers)
        self.head = head(before, 3)

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        """One chunk; past: what the layers keep of those before it."""
        hidden = causal(self.conv1, latents, past)
        for block in (*self.middle, *self.upsamples):
            hidden = block(hidden, past)
        return run(self.head, hidden, past)


def _middle(width: int) -> nn.Sequential:
    return nn.Sequential(Residual(width, width), Attention(width), Residual(width, width))


class WanVAE(nn.Module):
    """Video to unscaled latents and back. `SPACES["wan21"]` says how a model scales them.

    width: channels at full size; 96 in the published weights. Raises ConfigError for a width outside 1 to 1024.
    """

    def __init__(self, width: int = WIDTH, *, device=None, dtype: torch.dtype | None = None):
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
            raise ConfigError(f"width is {str(width)[:60]}; a Wan VAE is 1 to {MAX_WIDTH} wide; use {WIDTH}")
        both = 2 * SPACE.channels
        with torch.device(device or torch.get_default_device()):
            self.encoder = Encoder(width)
            self.conv1 = nn.Conv3d(both, both, 1)
            self.conv2 = nn.Conv3d(SPACE.channels, SPACE.channels, 1)
            self.decoder = Decoder(width)
        self.to(dtype=dtype)

    @torch.no_grad()
    def encode(self, video: Tensor, *, chunk: int | None = 1) -> Tensor:
        """Unscaled latents of a video: the mean of the posterior, nothing is drawn, so equal videos give equal latents.

        video: (b, 3, t, h, w) in [-1, 1], t = 4k + 1, h and w multiples of 8, on any device and of any floating type.
        chunk: latent frames that are made at once after the first; None makes all at once, in memory that grows with t.
        Returns (b, 16, k + 1, h/8, w/8) of the video's type, on its device. Raises ShapeError and ConfigError.
        """
        _check_axes(video, "video", 3)
        b, _, t, h, w = video.shape
        num_latent_frames = SPACE.latent_frames(t)
        check_multiple(w, h, SPACE.spatial_ratio, "video", SPACE.title, SPACE.where)
        cell = SPACE.spatial_ratio
        latents = video.new_empty(b, SPACE.channels, num_latent_frames, h // cell, w // cell)

        def encoded(frames: Tensor, past: Past) -> Tensor:
            return self.conv1(self.encoder(frames, past))[:, : SPACE.channels]

        return self._in_chunks(encoded, video, latents, chunk, SPACE.temporal_ratio, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, chunk: int | None = 1) -> Tensor:
        """Video of unscaled latents, near [-1, 1] and not clamped.

        latents: (b, 16, t, h, w), on any device and of any floating type. chunk: latent frames at once after the first;
        None takes all at once, in memory that grows with t.
        Returns (b, 3, 4t - 3, 8h, 8w) of the latents' type, on their device. Raises ShapeError and ConfigError.
        """
        _check_axes(latents, "latents", SPACE.channels)
        b, _, t, h, w = latents.shape
        cell, step = SPACE.spatial_ratio, SPACE.temporal_ratio
        SPACE.latent_frames(step * (t - 1) + 1)
        video = latents.new_empty(b, 3, step * (t - 1) + 1, h * cell, w * cell)
        return self._in_chunks(lambda part, past: self.decoder(self.conv2(part), past), latents, video, chunk, 1, step)

    def _in_chunks(
        self, call: Callable[[Tensor, Past], Tensor], source: Tensor, target: Tensor, chunk: int | None, taken: int,
        given: int,
    ) -> Tensor:  # fmt: skip
        """Fill target: the first frame alone, then `taken` frames of source for each `given` ones, `chunk` times."""
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ConfigError(f"chunk is {str(chunk)[:60]}; a number of latent frames from 1 is needed; use 1")
        weight, past, total = self.conv1.weight, Past(), source.shape[2]
        begin, end, filled = 0, 1 if chunk else total, 0
        while begin < total:
            made = call(source[:, :, begin:end].to(weight), past)
            target[:, :, filled : filled + made.shape[2]] = made
            begin, end, filled = end, end + taken * (chunk or 1), filled + made.shape[2]
            past.begins = False
        return target


def _check_axes(values: Tensor, what: str, channels: int) -> None:
    """Refuse other axes, empty ones and whole numbers. Raises ShapeError."""
    if values.ndim != 5 or values.shape[1] != channels or not values.numel():
        raise ShapeError(
            f"{what} is {tuple(values.shape)}; (batch, {channels}, frames, height, width), none of them 0, is needed; "
            "move its axes there, and add a batch of 1 where there is none"
        )
    if not values.is_floating_point():
        raise ShapeError(f"{what} is {values.dtype}; floating point is needed; use {what}.float()")
