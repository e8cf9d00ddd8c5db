"""How much memory one call of a network takes beside its weights, from sizes alone.

Counted in token tensors: tokens x width x bytes a number. The constants, here and in the rows of the architectures,
are what `tools/memory_factors.py` measures; a test holds them to the measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .linear_video.blocks import FEWEST_CHUNKS, UNCHUNKED_BYTES

HOST_UNIT = 0.01 * 2**20  # bytes a cell and byte of number size that a host's memory factor of 1 stands for
HALF, FULL = 0, 1  # of the pairs below: numbers of two bytes, float32

# In the Mix-FFN: token tensors, and copies of the part of the wide tensor that goes through it at once.
FFN_TOKENS = 3.5
FFN_WIDE = {"torch": (6.8, 2.9), "triton": (1.5, 1.5)}

Alive = dict[str, tuple[float, float]]  # token tensors by backend, for numbers of two bytes and for float32


def no_heads(config: Any) -> int:
    """Of networks that end with their tokens."""
    return 0


@dataclass(frozen=True)
class MixFFNMemory:
    """The estimate for networks whose blocks end in a Mix-FFN.

    attention: from config and whether torch makes an RMS norm in one operation, the token tensors alive in the widest
    moment of the attentions. head_values: numbers a latent cell that heads on the latents hold.
    """

    attention: Callable[[Any, bool], Alive]
    head_values: Callable[[Any], int] = no_heads

    def step_bytes(
        self, config: Any, shape: tuple[int, ...], *, itemsize: int = 2, kernels: str = "torch",
        fused_norms: bool = False,
    ) -> int:  # fmt: skip
        """Bytes that one call of the network needs beside its weights, gradients off.

        shape: (b, c, t, h, w) of the latents. itemsize: bytes of the numbers it computes in. kernels: the backend of
        the operators; all but "torch" counts as Triton's. fused_norms: torch makes an RMS norm in one operation. An
        estimate; workspaces of the device's libraries are not in it.
        """
        b, _, t, h, w = shape
        frames, tokens = b * t, (h // config.patch_size) * (w // config.patch_size)
        wide = 2 * config.hidden_width / config.width
        chunk = _at_once(frames, frames * tokens * 2 * config.hidden_width * itemsize)
        backend, size = "torch" if kernels == "torch" else "triton", FULL if itemsize >= 4 else HALF
        ffn = FFN_TOKENS + FFN_WIDE[backend][size] * wide * chunk
        passes = max(self.attention(config, fused_norms)[backend][size], ffn)
        stream = int(passes * frames * tokens * config.width * itemsize)
        return max(stream, self.head_values(config) * frames * h * w * itemsize)

    def factor(self, config: Any, kernels: str = "torch") -> float:
        """The host's memory per latent cell, in its unit of 0.01 MiB a byte of number size: large clips, bfloat16."""
        backend = "torch" if kernels == "torch" else "triton"
        cells = config.width * self.attention(config, False)[backend][HALF] / config.patch_size**2
        return max(cells, self.head_values(config)) / HOST_UNIT


def _at_once(frames: int, wide_bytes: int) -> float:
    """The part of all frames that goes through the FFN together; as MixFFN chooses it."""
    if wide_bytes <= UNCHUNKED_BYTES:
        return 1.0
    return max(1, min(frames // FEWEST_CHUNKS, frames * UNCHUNKED_BYTES // wide_bytes)) / max(frames, 1)
