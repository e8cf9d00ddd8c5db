"""Samples drawn while a model trains: three frames side by side, for the live preview and the samples output."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...motion.data.latent_dataset import LatentDataset, TextEntry, resize_short_side
from ...motion.models.conditions import Conditions
from ...motion.models.model_spec import ModelSpec
from ..vaes_on_socket.builtin import BuiltinVAE, for_video

LONGEST = 384  # px, long side of a sample's frame in the strip
SHOWN = 3  # frames in a strip: first, middle, last


@dataclass(frozen=True)
class SamplePlan:
    """What is drawn each time, always from the same noise, so that only the training makes a difference."""

    spec: ModelSpec
    vae: object
    photo: Tensor | None  # (1, 3, 1, h, w) in [0, 1]; None for text-to-video models
    text: TextEntry
    empty: TextEntry
    shift: float
    seed: int
    shape: tuple[int, ...] = ()  # (c, t, h, w) of the latents; this and the bucket come from the data
    bucket: int = 0
    beside: Callable[[Tensor], dict[str, Tensor]] | None = None  # of `Encoders`, what else the model sees of the photo
    levels: tuple[float, float] = (0.0, 1.0)  # the least and the largest noise that the model knows
    num_steps: int | None = None  # None: the model's own
    clean_first_frame: bool = False  # the photo is shown as a clean first frame
    clean: Tensor | None = None  # (1, c, t, h, w) scaled: where the largest noise level leaves something of a clip

    def of(self, dataset: LatentDataset) -> "SamplePlan":
        """The same with the size of the first sample and the middle motion bucket of all."""
        buckets = sorted(sample.motion_bucket_id for sample in dataset.samples)
        clean = dataset.sample(0)["latents"].unsqueeze(0) if self.levels[1] < 1 else None
        return replace(self, shape=dataset.samples[0].shape, bucket=buckets[len(buckets) // 2], clean=clean)

    def draw(self, network, device: torch.device) -> Tensor:
        """A strip (h, w, 3) in [0, 1]: first, middle and last frame of a sampled video. Call without gradients."""
        space, shape = self.spec.space, self.shape
        first = None if self.photo is None or self.beside is not None else self._first(device)
        shape = shape if first is None else (*shape[:2], *first.shape[3:])
        latents = space.unscaled(self._sample(network, first, shape, device))
        if space.temporal_ratio == 1:
            frames = self._decode(latents[:, :, _first_middle_last(shape[1])])
        else:  # a latent frame alone is no frame
            frames = self._decode(latents)
            frames = frames[_first_middle_last(len(frames))]
        return torch.cat(list(frames), dim=1).clamp(0, 1)

    def _first(self, device: torch.device) -> Tensor:
        """Scaled latents of the photo (1, c, 1, h, w)."""
        photo = self._fitted(self.shape) if self.clean_first_frame else self.photo
        if isinstance(self.vae, BuiltinVAE):
            latents = self.vae.codec.encode(photo)
        else:
            with torch.inference_mode():
                latents = self.vae.encode(photo[0].movedim(0, -1).contiguous())
            latents = latents.unsqueeze(2) if latents.ndim == 4 else latents[:, :, :1]
        return self.spec.space.scaled(latents.clone().to(device, torch.float32))

    def _sample(self, network, first: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
        from ...motion.conditioning.motion_bucket import motion_bucket
        from ...motion.sampling.clean_first_frame import CleanFirstFrame
        from ...motion.sampling.draw import draw, make_noise

        buckets = getattr(self.spec.config, "motion_buckets", 0)
        bucket = motion_bucket(self.bucket, buckets) if buckets else None
        seen = self._seen(shape, device)
        positive = replace(_told(self.text, device), motion_bucket_id=bucket, **seen)
        sampling = self.spec.sampling
        if self.clean_first_frame:
            network = CleanFirstFrame(network, first)
        else:
            positive = replace(positive, first_latent=first)
        made = draw(
            network, make_noise((1, *shape), self.seed).to(device), positive, sampling,
            negative=positive.with_text_of(_told(self.empty, device)), shift=self.shift,
            num_steps=self.num_steps, levels=self.levels,
            clean=None if self.clean is None else self.clean.to(device),
        )  # fmt: skip
        return network.put_into(made) if self.clean_first_frame else made

    def _seen(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """What the model sees of the photo beside the latents, a row each."""
        if self.photo is None or self.beside is None:
            return {}
        made = self.beside(self._fitted(shape).expand(-1, -1, self.spec.space.frames(shape[1]), -1, -1))
        return {name: value.unsqueeze(0).to(device) for name, value in made.items()}

    def _fitted(self, shape: tuple[int, ...]) -> Tensor:
        """The middle of the photo at the size of these latents, (1, 3, 1, h, w)."""
        from ...motion.scene_model import fit_picture

        cell = self.spec.space.spatial_ratio
        return fit_picture(self.photo[0, :, 0], (shape[3] * cell, shape[2] * cell)).unsqueeze(2)

    def _decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (1, c, t, h, w) -> frames (t, h, w, 3) on the CPU."""
        if isinstance(self.vae, BuiltinVAE):
            video = self.vae.codec.decode_onto(latents.cpu(), self.photo[0, :, 0])
            return video[0].movedim(0, -1)
        return decoded(self.vae, latents)


def decoded(vae, latents: Tensor) -> Tensor:
    """Unscaled latents (1, c, t, h, w) of a VAE of video or pictures -> frames (t, h, w, 3) on the CPU."""
    with torch.inference_mode():
        frames = for_video(vae).decode(latents.cpu())
    frames = frames[0] if frames.ndim == 5 else frames
    return frames.cpu().float().clone()


def sample_photo(photo: Tensor, spec: ModelSpec, resolution: int, multiple: int) -> Tensor:
    """A photo (1, h, w, 3) or frame in [0, 1] at the size samples are drawn at: (1, 3, 1, h, w)."""
    frames = photo.movedim(-1, 1).float()
    if spec.space.kind != "builtin":
        return resize_short_side(frames, resolution, multiple).movedim(0, 1).unsqueeze(0).clone()
    shrink = min(1.0, LONGEST / max(frames.shape[-2:]))
    return resize_short_side(frames, max(1, round(shrink * min(frames.shape[-2:])))).movedim(0, 1).unsqueeze(0).clone()


def to_jpeg(strip: Tensor):
    """A strip (h, w, 3) in [0, 1] as what the host's progress bar shows."""
    from PIL import Image

    pixels = (strip.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
    return "JPEG", Image.fromarray(pixels.numpy()), 3 * LONGEST


def _told(text: TextEntry, device: torch.device) -> Conditions:
    """One prompt, a batch of one."""
    parts = (text.context, text.attention_mask, text.pooled)
    return Conditions(*(None if part is None else part.unsqueeze(0) for part in parts)).to(device)


def _first_middle_last(count: int) -> list[int]:
    return sorted({0, count // 2, count - 1})[:SHOWN]
