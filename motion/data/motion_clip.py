"""One clip, encoded in the three ways that its motion is learned from: the frames trained on, each alone, and all."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..models.latent_spaces import LatentSpace
from ..models.model_spec import ModelSpec
from .clips import Clip, digest
from .encoders import Encoders, TextEntry
from .latent_dataset import LatentDataset, SampleInfo, resize_short_side
from .sparse_frames import FramePlan

ALONE = "single frame"  # name of samples of one frame each


@dataclass(frozen=True, eq=False)
class MotionClip:
    """A clip of which frames are chosen and encoded.

    sparse, whole: "latents" (c, t, h, w) scaled, float32, of the frames trained on and of the whole window, and what
    else a model is shown of them. alone: (n, c, 1, h, w), the frames trained on, each encoded as a picture.
    """

    name: str
    caption: str
    plan: FramePlan
    space: LatentSpace
    sparse: dict[str, Tensor]
    whole: dict[str, Tensor]
    alone: Tensor
    first: Tensor  # (1, h, w, 3) in [0, 1], the first frame at the size that was encoded
    fingerprint: str  # changes with the frames, their choice and the VAE
    encoders: str  # fingerprint of these

    @property
    def size(self) -> str:
        """For people: "512x320 px, 17 of 81 frames"."""
        h, w = self.first.shape[1:3]
        return f"{w}x{h} px, {len(self.plan.sparse)} of {len(self.plan.window)} frames"

    def with_caption(self, caption: str) -> "MotionClip":
        """The same under another caption."""
        return replace(self, caption=caption)

    def dataset(self, spec: ModelSpec, text: TextEntry, places: Tensor) -> LatentDataset:
        """The clip as data to train on: one sample of the frames at their places (t,), then each frame alone.

        text: the encoded caption. Raises ConfigError for the latent space of another model.
        """
        if spec.space != self.space:
            raise ConfigError(f"the clip was encoded for {self.space.title}, this model works in {spec.space.title}; "
                              "prepare it with the VAE of this model")  # fmt: skip
        tensors = [{**self.sparse, "frame_places": places}, *({"latents": part} for part in self.alone)]
        names = [self.name, *(f"{ALONE} {index}" for index in self.plan.sparse)]
        samples = [SampleInfo(name, self.caption, 0, tuple(part["latents"].shape))
                   for name, part in zip(names, tensors)]  # fmt: skip

        def load(index: int) -> dict[str, Tensor]:
            return {name: value.clone() for name, value in tensors[index].items()}

        told = digest(*(f"{name} {_bits(value)}" for name, value in vars(text).items() if value is not None))
        record = {
            "fingerprint": digest(self.fingerprint, told),
            "clips": [{"name": self.name, "caption": self.caption, "fingerprint": self.fingerprint}],
            "windows": {"frames": list(self.plan.sparse), "places": places.tolist()},
            "encoders": f"{self.encoders} {told}", "latent": spec.latent_facts(),
        }  # fmt: skip
        report = f"{self.name}: {self.size}, caption {self.caption or '(none)'}"
        return LatentDataset(samples, {self.caption: text}, load, record, report)


def encode_motion_clip(
    clip: Clip, plan: FramePlan, encoders: Encoders, space: LatentSpace, *, resolution: int, caption: str | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> MotionClip:  # fmt: skip
    """Encode the frames of a plan. resolution: short side in px. caption: None takes the clip's own.

    on_step(done, total) may end it by raising. Raises ShapeError for a VAE that does not fit, and for NaN.
    """
    with torch.inference_mode(False), torch.no_grad():
        frames = resize_short_side(clip.frames(list(plan.window)), resolution, encoders.spatial_multiple)
        video = frames.movedim(0, 1).unsqueeze(0)
        chosen = [plan.window.index(index) for index in plan.sparse]
        few = video[:, :, chosen]
        total = len(chosen) + 2
        tell = on_step or (lambda done, total: None)
        tell(0, total)
        sparse = _encoded(few, encoders, space)
        tell(1, total)
        whole = sparse if len(chosen) == len(plan.window) else _encoded(video, encoders, space)
        alone = []
        for done, index in enumerate(chosen, start=2):
            tell(done, total)
            alone.append(_latents(video[:, :, index : index + 1], encoders, space))
        tell(total, total)
        single, first = torch.stack(alone), frames[:1].movedim(1, -1).contiguous().clone()
    mark = digest("motion clip", clip.fingerprint, str(plan.window), str(plan.sparse), str(tuple(frames.shape)),
                  encoders.fingerprint)  # fmt: skip
    return MotionClip(
        clip.name, clip.caption if caption is None else caption, plan, space, sparse, whole, single, first, mark,
        encoders.fingerprint,
    )  # fmt: skip


def _encoded(video: Tensor, encoders: Encoders, space: LatentSpace) -> dict[str, Tensor]:
    beside = encoders.encode_beside(video) if encoders.encode_beside is not None else {}
    made = {"latents": _latents(video, encoders, space), **beside}
    return {name: value.detach().to("cpu", torch.float32).clone() for name, value in made.items()}


def _latents(video: Tensor, encoders: Encoders, space: LatentSpace) -> Tensor:
    """Scaled latents (c, t, h, w) on the CPU."""
    latents = encoders.encode_frames(video)
    need = (1, space.channels, space.latent_frames(video.shape[2]))
    if latents.ndim != 5 or tuple(latents.shape[:3]) != need:
        raise ShapeError(f"the VAE gave latents {tuple(latents.shape)} of {video.shape[2]} frames; {need} and two "
                         f"sides are needed: connect the {space.title}")  # fmt: skip
    if not latents.isfinite().all():
        raise ShapeError("the VAE gave NaN or infinity; use it in float32 or bfloat16")
    return space.scaled(latents.detach().to("cpu", torch.float32))[0].clone()


def _bits(value: Tensor) -> str:
    raw = value.detach().to("cpu", torch.float32).contiguous()
    return digest(str(tuple(raw.shape)), raw.numpy().tobytes())
