"""What the nodes of pose videos hand on: a sequence made of pictures, and what is told of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...motion.errors import ConfigError, ShapeError
from ...motion.models.wan.spec import WanSpec
from ...motion.pose.renderer import RENDERER_ID
from ...motion.sequence.conditions import SequenceLatents, decode_target, encode_sequence
from ...motion.sequence.layout import PAPER_LATENTS, SequenceLayout
from ...motion.sequence.trained_as import TrainedAs
from ..training_run.encoders import check_vae
from .native_wan import SPACE, NativeWan

TRAINED = "motionblocks_sequence"  # attachment of a MODEL: what a file says of the sequences it was trained on
LENGTH = "motionblocks_sequence_frames"  # attachment: frames of the videos it was trained on
UNKNOWN = (
    "this MODEL does not say that it was trained to follow poses (core's LoRA loader keeps nothing of what files say); "
    "without a LoRA of Train Pose LoRA, or motionblocks-wan-pose, poses are not followed"
)


@dataclass(frozen=True, eq=False)
class PoseSequence:
    """What is needed to decode a pose video. given: (1, 16, given_latents, h, w), unscaled, on the CPU."""

    layout: SequenceLayout
    given: Tensor


def trained_as(model) -> TrainedAs | None:
    """What is known of how a MODEL reads sequences. Raises ConfigError for what it says and nobody knows."""
    told = model.get_attachment(TRAINED)
    return None if told is None else TrainedAs.of(told)


def chosen(found: TrainedAs | None, given: dict[str, str | None]) -> tuple[TrainedAs, list[str]]:
    """How a sequence is made: as given by field, and as trained where that is None; and what does not agree."""
    told, notes = found or TrainedAs(), [] if found else [UNKNOWN]
    for name, value in given.items():
        if value is None:
            continue
        if found and value != getattr(found, name):
            notes.append(f"{name} is {value}, but it was trained with {getattr(found, name)}: expect worse videos")
        told = replace(told, **{name: value})
    if told.renderer not in ("", str(RENDERER_ID)):
        notes.append(f"it was trained on skeletons of renderer {told.renderer}, and Draw Poses is renderer "
                     f"{RENDERER_ID}")
    return told, notes


def encode(vae, layout: SequenceLayout, reference: Tensor, skeletons: Tensor, *, with_grey: bool) -> SequenceLatents:
    """Latents on the CPU of IMAGEs (1, h, w, 3) and (t, h, w, 3). Raises ShapeError for a VAE of another space."""
    check_vae(vae, WanSpec())

    def latents(video: Tensor) -> Tensor:
        found = vae.encode(video[0].movedim(0, -1).contiguous())
        return (found.unsqueeze(2) if found.ndim == 4 else found).cpu()

    return encode_sequence(latents, layout, _video(reference), _video(skeletons), with_grey=with_grey)


def decode(vae, sequence: PoseSequence, made: Tensor, tile: int, on_video: Callable[[int, int], None]) -> Tensor:
    """IMAGE (b·num_frames, h, w, 3) of latents (b, 16, t, h, w). tile: px of a side, 0 = whole pictures.

    Time is never cut: a latent frame holds what stood before it. on_video(done, count).
    """
    check_vae(vae, WanSpec())
    given = sequence.given
    if made.ndim != 5 or made.shape[1] != given.shape[1] or made.shape[3:] != given.shape[3:]:
        raise ShapeError(f"samples are {tuple(made.shape)}, the sequence's latents {tuple(given.shape)}; connect the "
                         f"LATENT "
                         "of the sampler, and the sequence of the Pose Video that it was sampled with")  # fmt: skip

    def frames(latents: Tensor) -> Tensor:
        if tile:
            side = {"tile_x": tile // SPACE.spatial_ratio, "tile_y": tile // SPACE.spatial_ratio}
            found = vae.decode_tiled(latents, **side, overlap=max(1, side["tile_x"] // 4), tile_t=latents.shape[2] + 1)
        else:
            found = vae.decode(latents)
        found = found[0] if found.ndim == 5 else found
        return found.movedim(-1, 0).unsqueeze(0)

    videos = []
    for row, latents in enumerate(made):
        part = decode_target(frames, sequence.layout, given.to(latents), latents.unsqueeze(0))
        videos.append(part[0].movedim(0, -1))
        on_video(row + 1, len(made))
    return torch.cat(videos)


def plan(wan: NativeWan, layout: SequenceLayout, told: TrainedAs, width: int, height: int) -> list[str]:
    """The sequence in words."""
    count, tokens = layout.num_frames, layout.latent_frames * -(-width // 16) * -(-height // 16)
    lines = [
        f"{count} frames of {width}x{height} px, {wan.title}",
        f"{told.mode}: {layout.given_latents} latent frames are given (the reference and the poses), "
        f"{layout.target_latents} are made; {tokens} tokens at every call",
    ]
    if layout.padded_frames != count:
        lines.append(f"{count} frames do not fill latent frames: the last pose is repeated to {layout.padded_frames}, "
                     f"and "
                     f"{layout.padded_frames - count} frames are cut after decoding")  # fmt: skip
    return lines


def too_long(model, layout: SequenceLayout) -> list[str]:
    """A note for sequences longer than any that was trained."""
    trained = model.get_attachment(LENGTH)
    if trained is not None and layout.num_frames > trained:
        return [f"this model was trained on {trained} frames; poses are followed badly in longer videos: make them in "
                f"parts"]
    if layout.is_longer_than_trained:
        return [f"{layout.latent_frames} latent frames are more than the {PAPER_LATENTS} that Wan was trained on: "
                f"what is "
                "made drifts; make longer videos in parts"]  # fmt: skip
    return []


def check_sizes(reference: Tensor, skeletons: Tensor) -> None:
    """Refuse a reference (1, h, w, 3) and skeletons (t, h, w, 3) that are not of one usable size. Raises ShapeError."""
    (height, width), size = reference.shape[1:3], skeletons.shape[1:3]
    SPACE.check_size(width, height, "the reference")
    if tuple(size) != (height, width):
        raise ShapeError(f"skeletons are {size[1]}x{size[0]} px, the reference {width}x{height}; set width {width} "
                         f"and height "
                         f"{height} in Draw Poses, best after Retarget Poses with this reference")  # fmt: skip


def check_vision(wan: NativeWan, clip_vision_output) -> None:
    """Raises ConfigError where the MODEL reads CLIP vision tokens and there are none, or reads none."""
    if wan.reads_clip_vision and clip_vision_output is None:
        raise ConfigError(
            "this Wan also reads the reference through CLIP vision; connect clip_vision_output (CLIP Vision Encode of "
            "the reference, clip_vision_h), or take a Wan that does without, such as Wan 2.2 A14B"
        )


def _video(images: Tensor) -> Tensor:
    return images.movedim(-1, 0).unsqueeze(0)

