"""Noise whose low frequencies already know the start image: DCTInit, and the FFT way it is compared with.

The start latent z1, repeated over all frames, is noised to level σ_τ with the same noise ε that is refined, and its low
frequencies replace those of ε. Both transforms are linear, so the result is ε + LP[a·z1 + (k - 1)·ε] with
(a, k) = (1 - σ_τ, σ_τ), where LP keeps the low frequencies. Source: MiraMo Eq. 10-12.

All N frames of the noise are refined alike. A residual model with a start image ignores frame 1 of its noise, so this
changes nothing there, and a model of whole frames gets what it needs. A latent (b, c, h, w) counts as one frame.
"""

import math

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..layers.block_dct import dct_matrix
from ..sampling.schedules import shift_sigma

DEFAULT_KEEP = 0.23
DEFAULT_TAU = 0.975
MIXINGS = ("flow", "ddpm")
FILTERS = ("gaussian", "butterworth", "ideal")
ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996 in floating point


def tau_to_sigma(tau: float, shift: float = 3.0, apply_shift: bool = True) -> float:
    """Noise level σ_τ in [0, 1] of the content: shift_sigma(tau, shift), or tau itself.

    tau in [0, 1], 1 = nothing of the start image is left. 0.975 at shift 3 gives 0.9915, the default.
    Raises ConfigError outside.
    """
    if not 0.0 <= tau <= 1.0:
        raise ConfigError(f"tau is {tau}; it must be 0 (clean start image) to 1 (pure noise); {DEFAULT_TAU} is usual")
    return float(shift_sigma(float(tau), shift)) if apply_shift else float(tau)


def kept_box(
    shape: tuple[int, ...], *, keep_height: float = DEFAULT_KEEP, keep_width: float = DEFAULT_KEEP,
    keep_time: float = 1.0,
) -> tuple[int, int, int]:  # fmt: skip
    """How many low frequencies (frames, rows, columns) of a latent DCTInit takes from the start image.

    shape: (..., t, h, w), or (b, c, h, w) for one frame; in latent cells. Each axis keeps floor(keep · size), at least
    1 unless keep is 0. The shares are of the latent grid: 0.23 keeps 9x14 of 40x64 cells, 3x5 of 15x24, and on the 8x8
    grid of the built-in model a single coefficient, the mean of each frame.
    Raises ConfigError for a share outside [0, 1], ShapeError for fewer than 3 axes.
    """
    if len(shape) < 3:
        raise ShapeError(f"latent shape is {tuple(shape)}; (b, c, t, h, w) or (b, c, h, w) is needed; add axes")
    frames = 1 if len(shape) == 4 else shape[-3]
    keeps = {"keep_time": (keep_time, frames), "keep_height": (keep_height, shape[-2])}
    keeps["keep_width"] = (keep_width, shape[-1])
    return tuple(_kept(name, share, size) for name, (share, size) in keeps.items())


def dct_init(
    first_latent: Tensor, noise: Tensor, *, sigma_tau: float, keep_height: float = DEFAULT_KEEP,
    keep_width: float = DEFAULT_KEEP, keep_time: float = 1.0, mixing: str = "flow",
) -> Tensor:  # fmt: skip
    """Refine noise with the low DCT frequencies of the start image.

    first_latent: (b or 1, c, 1 or t, h, w) or (b or 1, c, h, w), scaled as the model sees it; its frame 0 counts.
    noise: (b, c, t, h, w) or (b, c, h, w), unit normal. sigma_tau in [0, 1]: noise level of the content, see
    `tau_to_sigma`.
    keep_*: share of low frequencies along each axis, see `kept_box`; keep_time 1 keeps all, as the paper does, and then
    each frame is treated alone. mixing: "flow" (a, k) = (1 - σ, σ); "ddpm" (sqrt(1 - σ²), σ).
    Returns noise of the same shape, dtype and device; sums in float64. keep 0 returns noise itself unchanged.
    Raises ShapeError for shapes that do not fit or values that are not finite, ConfigError for settings out of range.
    Source: MiraMo Eq. 10-12 (orthonormal DCT-II over frame, height, width). Differs: keep_time below 1 is ours.
    """
    difference = _content_minus_noise(first_latent, noise, sigma_tau, mixing)
    box = kept_box(noise.shape, keep_height=keep_height, keep_width=keep_width, keep_time=keep_time)
    return (_wide(noise) + _low_pass_dct(difference, box)).to(noise.dtype) if all(box) else noise.clone()


def fft_init(
    first_latent: Tensor, noise: Tensor, *, sigma_tau: float, kind: str = "gaussian", stop_space: float = 0.25,
    stop_time: float = 0.25, order: int = 4, mixing: str = "flow",
) -> Tensor:  # fmt: skip
    """The baseline: the same exchange of low frequencies by a Fourier transform, which takes pictures as periodic.

    kind, stop_space, stop_time, order: see `fft_mask`. The other arguments, return and errors as `dct_init`.
    Source: Wu et al. 2023 (FreeInit), arXiv 2312.07537; Ren et al. 2024 (ConsistI2V), arXiv 2402.04324.
    """
    difference = _content_minus_noise(first_latent, noise, sigma_tau, mixing)
    volume = difference if noise.ndim == 5 else difference.unsqueeze(2)
    mask = fft_mask(volume.shape, kind=kind, stop_space=stop_space, stop_time=stop_time, order=order)
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(volume, dim=axes) * mask.to(volume)
    low = torch.fft.ifftn(spectrum, dim=axes).real.reshape(noise.shape)
    return (_wide(noise) + low).to(noise.dtype)


def fft_mask(
    shape: tuple[int, ...], *, kind: str = "gaussian", stop_space: float = 0.25, stop_time: float = 0.25, order: int = 4
) -> Tensor:
    """Low-pass filter over the frequencies of (t, h, w), in the order of torch.fft.fftn (zero frequency first).

    With frequencies in [-1, 1] and ρ² = (stop_space/stop_time)²·f_t² + f_y² + f_x²: gaussian exp(-ρ²/(2·stop_space²)),
    butterworth 1/(1 + (ρ²/stop_space²)^order), ideal ρ² <= stop_space². A stop of 0 keeps nothing.
    shape: (..., t, h, w). Returns (t, h, w) float64 on the CPU. Raises ConfigError for settings out of range.
    Source: FreeInit. Differs: odd sizes are centred on the zero frequency; "ideal" cuts at stop_space, not at its root.
    """
    if kind not in FILTERS:
        raise ConfigError(f"filter is {kind!r}; known filters are {', '.join(FILTERS)}")
    for name, stop in (("stop_space", stop_space), ("stop_time", stop_time)):
        if not 0.0 <= stop <= 1.0:
            raise ConfigError(f"{name} is {stop}; it must be 0 to 1; 0.25 is usual")
    if not 1 <= order <= 64:
        raise ConfigError(f"order is {order}; it must be 1 to 64; 4 is usual")
    t, h, w = shape[-3:]
    if not stop_space or not stop_time:
        return torch.zeros(t, h, w, dtype=torch.float64)
    f_t, f_y, f_x = (2 * torch.fft.fftfreq(size, dtype=torch.float64) for size in (t, h, w))
    time = (f_t / stop_time).square().view(-1, 1, 1)
    rho = time + (f_y / stop_space).square().view(-1, 1) + (f_x / stop_space).square()  # ρ² / stop_space²
    if kind == "gaussian":
        return torch.exp(-rho / 2)
    return 1 / (1 + rho**order) if kind == "butterworth" else (rho <= 1).double()


def _kept(name: str, share: float, size: int) -> int:
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"{name} is {share}; it must be 0 (nothing) to 1 (everything); {DEFAULT_KEEP} is usual")
    return 0 if share == 0 else max(1, math.floor(share * size + ROUNDING))


def _low_pass_dct(values: Tensor, box: tuple[int, int, int]) -> Tensor:
    """Project onto the lowest DCT frequencies of the last three axes; an axis that keeps everything is left alone."""
    for kept, axis in zip(box, (-3, -2, -1)):
        is_missing = axis == -3 and values.ndim == 4
        if is_missing or kept == values.shape[axis]:
            continue
        basis = dct_matrix(values.shape[axis])[:kept]
        values = (values.movedim(axis, -1) @ (basis.T @ basis).to(values)).movedim(-1, axis)
    return values


def _content_minus_noise(first_latent: Tensor, noise: Tensor, sigma_tau: float, mixing: str) -> Tensor:
    """a·z1 + (k - 1)·ε for every frame, in float64 where the device has it."""
    _check_pair(first_latent, noise)
    if mixing not in MIXINGS:
        raise ConfigError(f"mixing is {mixing!r}; known are {', '.join(MIXINGS)}")
    if not 0.0 <= sigma_tau <= 1.0:
        raise ConfigError(f"sigma_tau is {sigma_tau}; it must be 0 (clean) to 1 (noise); 0.9915 is usual at shift 3")
    amount = 1 - sigma_tau if mixing == "flow" else math.sqrt(1 - sigma_tau**2)
    start = first_latent[:, :, :1] if noise.ndim == 5 else first_latent
    return amount * _wide(start.to(noise.device)) + (sigma_tau - 1) * _wide(noise)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.device.type == "mps" else values.double()


def _check_pair(first_latent: Tensor, noise: Tensor) -> None:
    if noise.ndim not in (4, 5) or not noise.numel():
        raise ShapeError(
            f"noise is {tuple(noise.shape)}; a non-empty (b, c, t, h, w) or (b, c, h, w) is needed; use a latent node"
        )
    given, wanted = tuple(first_latent.shape), tuple(noise.shape)
    fits = len(given) == len(wanted) and given[0] in (1, wanted[0])
    fits = fits and (given[1], *given[-2:]) == (wanted[1], *wanted[-2:])
    if not fits or (len(given) == 5 and given[2] not in (1, wanted[2])):
        raise ShapeError(
            f"start latent is {given}, noise {wanted}; channels, height and width must agree and the start latent has "
            "1 frame or as many as the noise; encode the start image with the VAE of this model"
        )
    for name, values in (("start latent", first_latent), ("noise", noise)):
        if not values.is_floating_point() or not values.isfinite().all():
            raise ShapeError(f"{name} ({values.dtype}) must hold finite floating-point values; check its source")
