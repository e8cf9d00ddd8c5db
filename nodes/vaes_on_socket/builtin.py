"""The built-in latent space as a VAE of the host, and its clone that plays the motion on the start photo itself.

The codec has no weights and works frame by frame, so the host's tiling and out-of-memory retries are not needed: encode
and decode are replaced whole. Everything else (sizes, devices, previews) is the host's.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.sd
import torch
from einops import rearrange
from torch import Tensor

from ...motion.errors import ShapeError
from ...motion.layers.block_dct import APPEARANCE_CHANNELS
from ...motion.models.heads.flow_codec import LATENT_CHANNELS, FlowCodec
from ...motion.models.latent_spaces import SPACES
from ...motion.models.playback.photo_player import PhotoPlayer
from ...motion.pipeline import player_notes
from ..host import devices, pixels, progress

CELL = 8  # working pixels per latent cell
CHUNK = 64  # frames encoded at once


@contextmanager
def no_weights_expected():
    """Hold back the host's warning that a VAE file has no weights: the codec has none."""

    def passes(record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()

    logger = logging.getLogger()
    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


class BuiltinVAE(comfy.sd.VAE):
    """FlowCodec behind the VAE socket. photo: (3, h, w) in [0, 1] to decode onto, None = decode at working size."""

    latent_space = SPACES["builtin"]

    def __init__(self, codec: FlowCodec):
        with no_weights_expected():
            super().__init__(sd={})  # sets every default attribute of this host version
        self.codec, self.photo = codec, None
        self.edges, self.region, self.words, self.tell = None, None, (), None
        self.first_stage_model = torch.nn.Module()
        self.latent_channels, self.latent_dim, self.output_channels, self.not_video = LATENT_CHANNELS, 3, 3, False
        self.upscale_ratio = self.downscale_ratio = (lambda frames: frames, CELL, CELL)
        self.upscale_index_formula = self.downscale_index_formula = (1, CELL, CELL)
        self.crop_input, self.size = False, 0
        self.working_dtypes, self.vae_dtype = [torch.float32], torch.float32
        self.device, self.output_device = devices.vae_device(), devices.output_device()
        self.patcher = devices.new_patcher(self.first_stage_model, disable_dynamic=True)

    def bound_to(self, photo: Tensor) -> "BuiltinVAE":
        """A clone that decodes onto this photo (3, h, w); this VAE stays as it is."""
        clone = copy.copy(self)
        clone.photo = photo
        return clone

    def looking(self, edges: str | None, region: Tensor | None, words: tuple[str, ...], tell) -> "BuiltinVAE":
        """A clone that decodes with these edges ("crop", "mirror", None as in the first edition) and region (h, w).

        words: the motions asked for. tell(notes): called where a decoded video shows something else than the whole
        photo, or where a word did not find what it is about.
        """
        clone = copy.copy(self)
        clone.edges, clone.region, clone.words, clone.tell = edges, region, words, tell
        return clone

    def video_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the video decoded onto a photo: odd sides grow by one pixel, since encoders need even sides."""
        return height + height % 2, width + width % 2

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """IMAGE (t, h, w, c) of any size, or (b, t, h, w, c) -> latents (b, 200, t, cells, cells), flow 0."""
        batched = pixel_samples if pixel_samples.ndim == 5 else pixel_samples.unsqueeze(0)
        videos = [pixels.to_video(pixels.rgb_frames(frames, "pixels")) for frames in batched]
        return torch.cat([self._encode_video(video) for video in videos])

    def _encode_video(self, video: Tensor) -> Tensor:
        parts = [self.codec.encode(part.to(self.device)).to(self.output_device) for part in video.split(CHUNK, 2)]
        return torch.cat(parts, dim=2)

    def encode_tiled(self, pixel_samples: Tensor, *_unused, **_options) -> Tensor:
        """As `encode`: frames are small inside, so there is nothing to tile."""
        return self.encode(pixel_samples)

    def decode(self, samples_in: Tensor, vae_options=None, **_unused) -> Tensor:
        """Latents (b, 200, t, cells, cells) -> videos (b, t, h, w, 3) in [0, 1], on the host's output device.

        Raises ShapeError for latents of another space, NaN, and motion without the photo that moves.
        """
        if samples_in.ndim == 4:
            samples_in = samples_in.unsqueeze(2)
        self.codec.check(samples_in)
        if not samples_in.isfinite().all():
            raise ShapeError("the latent to decode holds NaN or infinity; sample again, with the model in fp32 or bf16")
        if self.photo is None:
            self._refuse_motion(samples_in)
            video = self.codec.decode(samples_in.to(self.device))
            return pixels.to_image(video).to(self.output_device)
        return self._decode_onto(samples_in.to(self.device), self.photo.to(self.device))

    def _refuse_motion(self, latents: Tensor) -> None:
        """Refuse latents whose flow is not zero: only the photo's own pixels can follow it. Raises ShapeError."""
        if latents[:, APPEARANCE_CHANNELS:].any():
            side = self.codec.working_size
            raise ShapeError(
                f"this latent holds motion and this vae has no photo to play it on: it would show a blurred square of "
                f"{side}x{side} px; connect the vae output of Photo to Video (MotionBlocks) to VAE Decode instead of "
                "the loader's"
            )

    def _decode_onto(self, latents: Tensor, photo: Tensor) -> Tensor:
        """Frame by frame, so that memory stays small, the bar moves and Cancel works."""
        b, _, t = latents.shape[:3]
        h, w = self.video_size(*photo.shape[-2:])
        devices.check_fits(f"decoding {b * t} frames of {w}x{h} px", b * t * h * w * 3 * 4)
        devices.make_room(20 * h * w * 3 * 4, self.device)
        video = torch.empty(b, t, h, w, 3, dtype=torch.float32, device=self.output_device)
        bar = progress.progress_bar(b * t)
        for row in range(b):
            for frame, shown in enumerate(self._frames(latents[row : row + 1], photo)):
                progress.throw_if_cancelled()
                video[row, frame] = shown.movedim(0, -1).to(self.output_device)
                bar.update(1)
        return video

    def _frames(self, latents: Tensor, photo: Tensor) -> Iterator[Tensor]:
        """Frames (3, h, w) of one video, one by one."""
        if self.edges is None:
            for frame in range(latents.shape[2]):  # by pairs, as the first edition did: to the bit
                pair = torch.cat((latents[:, :, :1], latents[:, :, frame : frame + 1]), dim=2)
                yield self.codec.decode_onto(pair[:, :, : frame + 1], photo)[0, :, -1]
            return
        region = None if self.region is None else self.region.to(photo.device)
        player = PhotoPlayer(self.codec, latents, photo, edges=self.edges, region=region)
        notes = player_notes(player, self.words)
        if notes and self.tell is not None:
            self.tell(notes)
        yield from player

    def decode_tiled(self, samples: Tensor, *_unused, **_options) -> Tensor:
        """As `decode`: it already works frame by frame."""
        return self.decode(samples)

    def get_sd(self) -> dict:
        """No weights."""
        return {}


class FramewiseVAE(comfy.sd.VAE):
    """A picture VAE that decodes every frame of a video latent; the host's own would decode the first only."""

    def decode(self, samples_in: Tensor, *arguments, **keywords) -> Tensor:
        """(b, c, t, h, w) -> (b, t, h, w, 3)."""
        return self._each_frame(super().decode, samples_in, *arguments, **keywords)

    def decode_tiled(self, samples: Tensor, *arguments, **keywords) -> Tensor:
        return self._each_frame(super().decode_tiled, samples, *arguments, **keywords)

    def _each_frame(self, decode, samples: Tensor, *arguments, **keywords) -> Tensor:
        if samples.ndim != 5:
            return decode(samples, *arguments, **keywords)
        pictures = decode(rearrange(samples, "b c t h w -> (b t) c h w"), *arguments, **keywords)
        return rearrange(pictures, "(b t) h w c -> b t h w c", t=samples.shape[2])


def for_video(vae):
    """The VAE to decode a video with: a picture VAE gets a framewise clone, others pass as they are."""
    if type(vae) is not comfy.sd.VAE or vae.latent_dim != 2:
        return vae
    clone = copy.copy(vae)
    clone.__class__ = FramewiseVAE
    return clone
