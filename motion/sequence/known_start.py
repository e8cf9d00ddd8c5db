"""A target whose first frames are known, as where a long video goes on: they stand clean before those that are made.

Source: the clean prefix of specs after FramePrompt, arXiv 2506.17301, whose own joints between videos show.
"""

import torch
from torch import Tensor

from ..choices import JOINT
from ..models.wan.config import MASK_CHANNELS
from ..models.wan.start_video import GREY
from .conditions import Codec
from .layout import GROUP, SPACE, SequenceLayout


def known_frames(layout: SequenceLayout, known: int) -> int:
    """Frames of the target that its first `known` latent frames hold."""
    if not known:
        return 0
    return GROUP * known if layout.mode == JOINT else SPACE.frames(known)


def shown_behind(
    encode: Codec, layout: SequenceLayout, reference: Tensor, skeletons: Tensor, target: Tensor, known: int
) -> Tensor:
    """`SequenceLatents.shown` with the first `known` latent frames of the target in place of grey.

    reference: (b, 3, 1, h, w); skeletons and target: (b, 3, padded_frames, h, w). No later frame of the target reaches
    it. Returns (b, 16, latent_frames, h, w), of the VAE, not scaled.
    """
    count = known_frames(layout, known)
    begun = torch.cat((target[:, :, :count], torch.full_like(target[:, :, count:], GREY)), dim=2)
    if layout.mode == JOINT:
        return encode(torch.cat((reference, skeletons, begun), dim=2))
    return torch.cat([encode(part) for part in (reference, skeletons, begun)], dim=2)


def mask_behind(layout: SequenceLayout, known: int) -> Tensor:
    """(latent_frames,): 0 for what is given and known, 1 for what is made."""
    mask = layout.frame_mask()
    mask[: layout.given_latents + known] = 0
    return mask


def concat_behind(layout: SequenceLayout, shown: Tensor, known: int) -> Tensor:
    """`SequenceLayout.concat` of scaled latents (b, 16, latent_frames, h, w), with known frames given as well."""
    beside = layout.concat(shown)
    beside[:, :MASK_CHANNELS, : layout.given_latents + known] = 1
    return beside
