"""Sizes of the public SANA networks, image and video, as their weight files tell them."""

import math
from dataclasses import dataclass

from ...errors import ConfigError

FAMILIES = ("sana", "sana_video")
_LIMITS = (
    ("in_channels", 1, 4096), ("num_layers", 1, 200), ("num_attention_heads", 1, 512), ("attention_head_dim", 2, 512),
    ("num_cross_attention_heads", 1, 512), ("caption_channels", 1, 65536), ("hidden_width", 1, 2**20),
)  # fmt: skip


@dataclass(frozen=True)
class SanaDims:
    """Sizes of one network. The defaults are those of SANA-0.6B."""

    family: str = "sana"  # sana: images; sana_video: SANA-Video
    in_channels: int = 32  # latent channels, in and out
    patch_size: tuple[int, int, int] = (1, 1, 1)  # latent frames, rows and columns per token
    num_layers: int = 28
    num_attention_heads: int = 36  # of the linear attention
    attention_head_dim: int = 32
    num_cross_attention_heads: int = 16
    caption_channels: int = 2304  # width of the text embeddings
    hidden_width: int = 2880  # of the Mix-FFN, before the gate doubles it
    qk_norm: bool = False  # RMS norm over the full width of q and k: SANA-1.5 and SANA-Video

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _LIMITS if not low <= getattr(self, name) <= high]
        if self.family not in FAMILIES:
            problems.append(f"family is {self.family!r}; it must be one of {', '.join(FAMILIES)}")
        if len(self.patch_size) != 3 or not all(1 <= side <= 16 for side in self.patch_size):
            problems.append(f"patch_size is {self.patch_size}; it must be three sides of 1 to 16")
        if not problems and self.width % self.num_cross_attention_heads:
            problems.append(f"width {self.width} does not divide by {self.num_cross_attention_heads} cross heads")
        if problems:
            raise ConfigError("SANA sizes: " + "; ".join(problems))

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def config_sizes(self) -> dict:
        """The sizes by the names that the configs of both our networks have."""
        return {
            "in_channels": self.in_channels,
            "patch_size": self.patch_size[1],
            "num_layers": self.num_layers,
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "num_cross_attention_heads": self.num_cross_attention_heads,
            "caption_channels": self.caption_channels,
            "mlp_ratio": ratio_of(self.hidden_width, self.width),
            "qk_norm": self.qk_norm,
        }


def ratio_of(hidden_width: int, width: int) -> float:
    """The mlp_ratio from which a config computes exactly this hidden width, which it rounds down."""
    ratio = hidden_width / width
    return ratio if int(ratio * width) == hidden_width else math.nextafter(ratio, math.inf)
