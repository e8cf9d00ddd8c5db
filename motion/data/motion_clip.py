"""One clip, encoded in the three ways that its motion is learned from: the frames trained on, each alone, and all."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..layers.block_dct import APPEARANCE_CHANNELS
from ..metrics.dynamics import degree_to_bucket, dynamics_degree
from ..models.latent_spaces import LatentSpace
from ..models.model_spec import ModelSpec
from .clips import Clip, digest
from .encoders import Encoders, TextEntry
from .latent_dataset import LatentDataset, SampleInfo, flow_channels, resize_short_side
from .sparse_frames import FramePlan

ALONE = "single frame"  # name of samples of one frame each
SEEN_SIDE = 256  # px, largest short side of the frames whose motion is measured


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
    first: Tensor  # (1, h, w, 3) in [0, 1], the first frame as the encoder got it
    fingerprint: str  # changes with the frames, their choice and the VAE
    encoders: str  # fingerprint of these
    seen: Tensor | None = None  # (n, 3, h, w) uint8, the window, for models that are told how much moves in it

    @property
    def size(self) -> str:
        """For people: "512x320 px, 17 of 81 frames"."""
        h, w = (side * self.space.spatial_ratio for side in self.sparse["latents"].shape[2:])
        return f"{w}x{h} px, {len(self.plan.sparse)} of {len(self.plan.window)} frames"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(c, t, h, w) of the frames trained on, and of one alone."""
        return tuple(self.sparse["latents"].shape), tuple(self.alone[0].shape)

    def with_caption(self, caption: str) -> "MotionClip":
        """The same under another caption."""
        return replace(self, caption=caption)

    def bucket(self, spec: ModelSpec) -> int:
        """How much moves in the window, as this model is told it; 0 for one that is not."""
        if spec.dynamics is None or self.seen is None:
            return 0
        degree = dynamics_degree(self.seen.unsqueeze(0).float() / 255, measure_size=spec.dynamics.measure_size)
        return int(degree_to_bucket(degree, spec.dynamics))

    def check_space(self, spec: ModelSpec) -> None:
        """Raises ConfigError for the latent space of another model."""
        mine, needed, side = self.space, spec.space, self.sparse["latents"].shape[-1] * self.space.spatial_ratio
        if (mine.kind, mine.channels) != (needed.kind, needed.channels):
            raise ConfigError(f"the clip was encoded for {mine.title}, this model works in {needed.title}; prepare it "
                              "with the VAE of this model")  # fmt: skip
        if spec.working_size not in (None, side):
            raise ConfigError(f"the clip was encoded at {side} px, this model works at {spec.working_size}; prepare it "
                              "with the VAE that comes with this model")  # fmt: skip

    def dataset(self, spec: ModelSpec, text: TextEntry, places: Tensor, *, alone: bool = True) -> LatentDataset:
        """The clip as data to train on: one sample of the frames at their places (t,), then each frame alone.

        text: the encoded caption. alone: with the single frames. Raises ConfigError as `check_space`.
        """
        self.check_space(spec)
        scaled = _between(self.space, spec.space)
        moving = {**self.sparse, "latents": scaled(self.sparse["latents"]), "frame_places": places}
        tensors = [moving, *({"latents": scaled(part)} for part in self.alone if alone)]
        names = [self.name, *(f"{ALONE} {index}" for index in self.plan.sparse)]
        buckets = [self.bucket(spec), *(0 for _ in self.plan.sparse)]
        samples = [SampleInfo(name, self.caption, bucket, tuple(part["latents"].shape))
                   for name, bucket, part in zip(names, buckets, tensors)]  # fmt: skip

        def load(index: int) -> dict[str, Tensor]:
            return {name: value.clone() for name, value in tensors[index].items()}

        told = text.fingerprint
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

    The built-in space has a size of its own; what moves in it is encoded as its flow channels. on_step(done, total)
    may end it by raising. Raises ShapeError for a VAE that does not fit, and for NaN.
    """
    is_builtin = space.kind == "builtin"
    with torch.inference_mode(False), torch.no_grad():
        frames = clip.frames(list(plan.window))
        seen = (resize_short_side(frames, min(SEEN_SIDE, *frames.shape[2:])) * 255).round().to(torch.uint8)
        if not is_builtin:
            frames = resize_short_side(frames, resolution, encoders.spatial_multiple)
        video = frames.movedim(0, 1).unsqueeze(0)
        chosen = [plan.window.index(index) for index in plan.sparse]  # places in the window
        few = video[:, :, chosen]
        total = len(chosen) + 2
        tell = on_step or (lambda done, total: None)
        tell(0, total)
        sparse = _encoded(few, encoders, space)
        tell(1, total)
        whole = sparse if len(chosen) == len(plan.window) else _encoded(video, encoders, space)
        if is_builtin and space.channels > APPEARANCE_CHANNELS:
            side = whole["latents"].shape[-1] * space.spatial_ratio
            flow = flow_channels(clip, list(plan.window), frames, side)  # of all frames: each begins at the one before
            whole["latents"][APPEARANCE_CHANNELS:] = flow
            sparse["latents"][APPEARANCE_CHANNELS:] = flow[:, chosen]
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
        encoders.fingerprint, seen,
    )  # fmt: skip


def _between(mine: LatentSpace, needed: LatentSpace) -> Callable[[Tensor], Tensor]:
    """From latents scaled by one entry of a space to those of a model's own."""
    return (lambda latents: latents) if mine == needed else lambda latents: needed.scaled(mine.unscaled(latents))


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
