"""Rotary places of the Wan networks: a head turns by frame, row and column, each anywhere on its axis.

Source: Su et al. 2021, arXiv 2104.09864, Eq. 34, on three axes as in the published Wan code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ....kernels.temporal_cosine_attention import rotary_angles
from ...choices import CENTER, OFF, PLACES, STRIDE
from ...errors import ConfigError


class WanRotary(NamedTuple):
    """Where the two numbers of each pair (2i, 2i+1) of a head go: (b or 1, n, 1, dh/2, 2) each."""

    first: Tensor  # cosine, sine
    second: Tensor  # -sine, cosine


def wan_rotary(
    frames: Tensor, rows: Tensor, columns: Tensor, axes: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> WanRotary:  # fmt: skip
    """The turns of tokens at all frames, rows and columns, in this order: n = t·h·w.

    frames: (t,) or (b, t), rows: (h,), columns: (w,): any real places, such as 0.5. axes: even numbers of a head that
    turn with each. Angles are float64 where the device has it, dtype is that of the tables.
    """
    angles = [rotary_angles(places, width) for places, width in zip((frames, rows, columns), axes, strict=True)]
    turns = [torch.stack((angle.cos(), angle.sin()), dim=-1).to(dtype) for angle in angles]  # (…, dh_axis/2, 2)
    t, h, w = (turn.shape[-3] for turn in turns)
    frame = turns[0].reshape(-1, t, 1, 1, *turns[0].shape[-2:])
    parts = (frame, turns[1][:, None], turns[2])
    first = torch.cat([part.expand(len(frame), t, h, w, *part.shape[-2:]) for part in parts], dim=-2)
    first = first.flatten(1, 3).unsqueeze(2)
    cosine, sine = first.unbind(-1)
    return WanRotary(first, torch.stack((-sine, cosine), dim=-1))


def turned(x: Tensor, rotary: WanRotary, num_heads: int) -> Tensor:
    """x (b, n, d), heads side by side, with its pairs turned, in x's type; computed in that of the tables.

    Both products take x as it is: numbers of two bytes become wide inside them, and no wide copy of x is made.
    """
    even, odd = x.unflatten(-1, (num_heads, -1, 2)).split(1, dim=-1)
    return (rotary.first * even).addcmul_(rotary.second, odd).flatten(2).to(x.dtype)


def sparse_places(mode: str, num_latents: int, whole_latents: int) -> Tensor:
    """Where the latent frames of sparse frames stand in time, (num_latents,) float32, on the axis of the whole clip's.

    mode: one of PLACES. stride: each where the last frame it holds stands; center: in the middle of the stretch it
    covers, as a latent frame of the whole clip stands for four; paper: Eq. 2 to the letter, i · F / F_s; off: 0, 1, 2 …
    Source: Follow-Your-Motion, arXiv 2506.05207, Sec. 3.3. Raises ConfigError.
    """
    if mode not in PLACES or not 2 <= num_latents <= whole_latents:
        raise ConfigError(f"places {str(mode)[:40]!r} of {num_latents} in {whole_latents} latent frames; modes are "
                          f"{', '.join(PLACES)}, and 2 or more of the whole are needed")  # fmt: skip
    index = torch.arange(num_latents, dtype=torch.float64)
    stride = (whole_latents - 1) / (num_latents - 1)
    if mode == OFF:
        places = index
    elif mode == STRIDE:
        places = index * stride
    elif mode == CENTER:  # latent j holds sampled frames 4j - 3 to 4j, whose middle is 4j - 1.5, as of a whole clip's
        places = (index * stride - 1.5 * (stride - 1) / 4).clamp_min(0)
    else:
        places = index * whole_latents / num_latents
    return places.float()
