"""Frames of a finished video brought to the mean and deviation of its first, channel by channel (AdaIN).

    z_f <- (z_f - μ_f) / σ_f · σ_1 + μ_1        over height and width, σ² unbiased + 1e-8
Source: MIVA, arXiv 2512.20000, its only post-processing; once, after the last step.
"""

from torch import Tensor

from ..errors import ConfigError, ShapeError

VARIANCE_FLOOR = 1e-8


def match_first_frame(latents: Tensor, strength: float = 1.0) -> Tensor:
    """Latents (b, c, t, h, w) -> the same shape and dtype; sums in float32 or wider. Frame 1 keeps every bit.

    strength: 0 leaves all as it is, 1 matches whole. Raises ConfigError and ShapeError.
    """
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"strength is {strength}; it must be 0 (as it is) to 1 (matched)")
    if latents.ndim != 5 or latents.shape[-1] * latents.shape[-2] < 2:
        raise ShapeError(f"the latent is {tuple(latents.shape)}; that of a video, (b, c, t, h, w), is needed")
    wide = latents if latents.dtype.itemsize >= 4 else latents.float()
    mean = wide.mean((-2, -1), keepdim=True)
    deviation = (wide.var((-2, -1), keepdim=True) + VARIANCE_FLOOR).sqrt()
    matched = (wide - mean) / deviation * deviation[:, :, :1] + mean[:, :, :1]
    out = (wide + strength * (matched - wide)).to(latents.dtype)
    out[:, :, :1] = latents[:, :, :1]
    return out
