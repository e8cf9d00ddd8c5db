"""Noise whose frames are alike, as motion adapters were published with: MIVA's Algorithm 1.

    ε_f <- α ε_1 + (1 - α) ε_f for f >= 2        then DCTInit with the start image, see noise_init.py
Nothing is scaled afterwards, so frames 2..N have deviation √(α² + (1 - α)²): 0.951 at α = 0.05.
Source: MIVA, arXiv 2512.20000, Algorithm 1; the mixing is LAMP's, with α = 0.2 there.
"""

from torch import Tensor

from ..errors import ConfigError, ShapeError
from .noise_init import DEFAULT_KEEP, DEFAULT_TAU, dct_init

DEFAULT_SHARE = 0.05


def share_first_noise(noise: Tensor, share: float = DEFAULT_SHARE) -> Tensor:
    """Mix frame 1 of noise (b, c, t, h, w) into the others. share: α in [0, 1]; 0 returns it as it is.

    Raises ConfigError and ShapeError.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share is {share}; it must be 0 (every frame its own noise) to 1 (all the same)")
    if noise.ndim != 5:
        raise ShapeError(f"noise is {tuple(noise.shape)}; that of a video, (b, c, t, h, w), is needed")
    if not share:
        return noise
    made = share * noise[:, :, :1] + (1 - share) * noise
    made[:, :, :1] = noise[:, :, :1]
    return made


def adapter_noise(
    first_latent: Tensor, noise: Tensor, *, share: float = DEFAULT_SHARE, keep: float = DEFAULT_KEEP,
    sigma_tau: float = DEFAULT_TAU, mixing: str = "flow",
) -> Tensor:  # fmt: skip
    """Algorithm 1: frames mixed, then their low frequencies exchanged. keep: share of rows and columns.

    first_latent, noise, sigma_tau, mixing, errors: as in `dct_init`. Frame 1 is refined like the others; models that
    are shown the start image there do not read it.
    """
    mixed = share_first_noise(noise, share)
    return dct_init(first_latent, mixed, sigma_tau=sigma_tau, keep_height=keep, keep_width=keep, mixing=mixing)
