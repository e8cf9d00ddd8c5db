"""What variants of Wan with 36 channels are shown of a start image: a video of it and grey, encoded, behind a mask.

Source: the published image-to-video code of Wan 2.1 and the host's WanImageToVideo, which agree.
"""

import torch
from torch import Tensor

from .config import MASK_CHANNELS

GREY = 0.5  # of the frames that nobody has seen


def start_video(first: Tensor, num_frames: int) -> Tensor:
    """Pixels (b, 3, 1, h, w) in [0, 1] of the start image -> (b, 3, num_frames, h, w): it, then grey."""
    grey = first.new_full((*first.shape[:2], num_frames - 1, *first.shape[3:]), GREY)
    return torch.cat((first, grey), dim=2)


def concat_latents(encoded: Tensor) -> Tensor:
    """Scaled latents (b, c, t, h, w) of a start video -> (b, 4 + c, t, h, w): a mask, 1 in latent frame 0, then they.

    The four channels of the mask are the four frames of a latent; of frame 0 all four are the start image.
    """
    mask = encoded.new_zeros(len(encoded), MASK_CHANNELS, *encoded.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat((mask, encoded), dim=1)
