"""How much memory one call of a network takes beside its weights, from sizes alone.

Counted in token tensors: tokens x width x bytes a number. The constants are what `tools/memory_factors.py` measures;
a test holds them to the measurement.
"""

from .linear_video.blocks import FEWEST_CHUNKS, UNCHUNKED_BYTES
from .linear_video.config import LinearVideoDiTConfig
from .sana_video.config import SanaVideoConfig

HOST_UNIT = 0.01 * 2**20  # bytes a cell and byte of number size that a host's memory factor of 1 stands for
HALF, FULL = 0, 1  # of the pairs below: numbers of two bytes, float32

# Token tensors alive in the widest moment of the attentions; where RMS norms are in them, by whether torch makes each
# in one operation (newer ones on a card do) or through float32 copies.
FRAMES_AND_SITES = {"torch": (18.1, 9.6), "triton": (5.1, 5.1)}
FRAMES_AND_SITES_NORMED = {
    False: {"torch": (18.1, 9.6), "triton": (12.1, 8.1)}, True: {"torch": (18.1, 9.6), "triton": (7.1, 7.1)},
}  # fmt: skip
JOINT = {False: {"torch": (10.1, 6.2), "triton": (10.1, 6.1)}, True: {"torch": (8.1, 6.2), "triton": (5.1, 5.1)}}
# In the Mix-FFN: token tensors, and copies of the part of the wide tensor that goes through it at once.
FFN_TOKENS = 3.5
FFN_WIDE = {"torch": (6.8, 2.9), "triton": (1.5, 1.5)}
# The heads of the built-in models work on all latent channels, in tensors of the latents' size.
HEAD_LATENTS = 16.5

Config = LinearVideoDiTConfig | SanaVideoConfig


def step_bytes(
    config: Config, shape: tuple[int, ...], *, itemsize: int = 2, kernels: str = "torch", fused_norms: bool = False
) -> int:
    """Bytes that one call of the network needs beside its weights, gradients off.

    shape: (b, c, t, h, w) of the latents. itemsize: bytes of the numbers it computes in. kernels: the backend of the
    operators; all but "torch" counts as Triton's. fused_norms: torch makes an RMS norm in one operation. An estimate;
    workspaces of the device's libraries are not in it.
    """
    b, _, t, h, w = shape
    frames, tokens = b * t, (h // config.patch_size) * (w // config.patch_size)
    wide = 2 * config.hidden_width / config.width
    chunk = _at_once(frames, frames * tokens * 2 * config.hidden_width * itemsize)
    backend, size = "torch" if kernels == "torch" else "triton", FULL if itemsize >= 4 else HALF
    ffn = FFN_TOKENS + FFN_WIDE[backend][size] * wide * chunk
    passes = max(_attention(config, fused_norms)[backend][size], ffn)
    stream = int(passes * frames * tokens * config.width * itemsize)
    return max(stream, _head_values(config) * frames * h * w * itemsize)


def memory_factor(config: Config, kernels: str = "torch") -> float:
    """The host's memory per latent cell, in its unit of 0.01 MiB a byte of number size: a large clip in bfloat16."""
    backend = "torch" if kernels == "torch" else "triton"
    cells = config.width * _attention(config, False)[backend][HALF] / config.patch_size**2
    return max(cells, _head_values(config)) / HOST_UNIT


def _attention(config: Config, fused_norms: bool) -> dict[str, tuple[float, float]]:
    if isinstance(config, SanaVideoConfig):
        return JOINT[fused_norms]
    return FRAMES_AND_SITES_NORMED[fused_norms] if config.qk_norm else FRAMES_AND_SITES


def _at_once(frames: int, wide_bytes: int) -> float:
    """The part of all frames that goes through the FFN together; as MixFFN chooses it."""
    if wide_bytes <= UNCHUNKED_BYTES:
        return 1.0
    return max(1, min(frames // FEWEST_CHUNKS, frames * UNCHUNKED_BYTES // wide_bytes)) / max(frames, 1)


def _head_values(config: Config) -> int:
    """Numbers a latent cell that the flow and skip heads hold."""
    has_head = isinstance(config, LinearVideoDiTConfig) and (config.flow_channels or config.skip_channels)
    return int(HEAD_LATENTS * config.in_channels) if has_head else 0
