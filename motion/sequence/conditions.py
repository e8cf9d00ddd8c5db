"""The latents of one sequence: what is given of it, what a start-image model is shown beside it, and the way back.

Source: FramePrompt, arXiv 2506.17301, Sec. 3.2; what its text leaves out is as Wan's own image to video has it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import JOINT
from ..errors import ShapeError
from ..models.wan.start_video import GREY
from .layout import SPACE, SequenceLayout

Codec = Callable[[Tensor], Tensor]  # pixels (b, 3, t, h, w) in [0, 1] to VAE latents (b, 16, t', h', w'), or back


class SequenceLatents(NamedTuple):
    """Latents of the VAE, not scaled."""

    given: Tensor  # (b, 16, given_latents, h, w), the reference and the skeletons
    shown: Tensor  # (b, 16, latent_frames, h, w), those and grey in place of the target
    target: Tensor | None  # (b, 16, target_latents, h, w), of training clips


def encode_sequence(
    encode: Codec, layout: SequenceLayout, reference: Tensor, skeletons: Tensor, target: Tensor | None = None,
    *, with_grey: bool = True,
) -> SequenceLatents:  # fmt: skip
    """Encode what stands in a sequence.

    reference: (b, 3, 1, h, w); skeletons and target: (b, 3, num_frames, h, w), all in [0, 1] and of one size. No pixel
    of the target reaches `given` or `shown`: the VAE looks at nothing behind a frame. with_grey: False for models that
    read nothing beside the sequence; `shown` is `given` then. Raises ShapeError for parts that do not fit.
    """
    check_parts(layout, reference, skeletons, target)
    skeletons = layout.padded(skeletons)
    grey = torch.full_like(skeletons, GREY)
    if layout.mode == JOINT:
        shown = encode(torch.cat((reference, skeletons, grey) if with_grey else (reference, skeletons), dim=2))
        given = shown[:, :, : layout.given_latents]
        made = None
        if target is not None:
            whole = encode(torch.cat((reference, skeletons, layout.padded(target)), dim=2))
            made = whole[:, :, layout.given_latents :]
        return SequenceLatents(given, shown, made)
    given = torch.cat((encode(reference), encode(skeletons)), dim=2)
    shown = torch.cat((given, encode(grey)), dim=2) if with_grey else given
    return SequenceLatents(given, shown, None if target is None else encode(layout.padded(target)))


def decode_target(decode: Codec, layout: SequenceLayout, given: Tensor, made: Tensor) -> Tensor:
    """Frames (b, 3, num_frames, h, w) of what was made, from latents of the VAE.

    Joint latents are decoded with what stands before them: alone they would give three frames less, and others at the
    start. decode: latents to pixels. Raises ShapeError for latents of another layout.
    """
    for name, latents, count in (("given", given, layout.given_latents), ("made", made, layout.target_latents)):
        if latents.ndim != 5 or latents.shape[2] != count:
            raise ShapeError(f"{name} latents are {tuple(latents.shape)}; {count} latent frames of them are needed")
    if layout.mode == JOINT:
        return decode(torch.cat((given, made), dim=2))[:, :, -layout.padded_frames :][:, :, : layout.num_frames]
    return decode(made)[:, :, : layout.num_frames]


def check_parts(layout: SequenceLayout, reference: Tensor, skeletons: Tensor, target: Tensor | None = None) -> None:
    """Raises ShapeError for parts of other sizes, counts or channels than the sequence has."""
    width, height = reference.shape[-1], reference.shape[-2]
    SPACE.check_size(width, height, "the reference")
    many = layout.num_frames
    for name, part, count in (("reference", reference, 1), ("skeletons", skeletons, many), ("target", target, many)):
        if part is None:
            continue
        if part.ndim != 5 or part.shape[1:3] != (3, count) or part.shape[3:] != (height, width):
            raise ShapeError(f"{name}: {tuple(part.shape)}; (b, 3, {count}, {height}, {width}) is needed, the size of "
                             "the reference and the frames of the poses")  # fmt: skip
        if len(part) != len(reference):
            raise ShapeError(f"{name}: {len(part)} of them beside {len(reference)} references; make the batches equal")
