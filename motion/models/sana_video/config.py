"""Sizes of the SANA-Video network; the defaults are those of the published 2B model for 480p."""

from dataclasses import dataclass

from ...errors import ConfigError
from ..linear_video.config import NetworkConfig

NO_ADAPTERS = "its attention keeps one state for all frames and none along them"  # why none goes into its blocks

_RANGES = (
    ("in_channels", 1, 4096), ("patch_size", 1, 16), ("num_layers", 1, 200), ("num_attention_heads", 1, 512),
    ("attention_head_dim", 2, 512), ("num_cross_attention_heads", 1, 512), ("caption_channels", 1, 65536),
    ("mlp_ratio", 0.1, 16),
)  # fmt: skip


@dataclass(frozen=True)
class SanaVideoConfig(NetworkConfig):
    """Sizes of one network. Frames are never joined: a token is one latent frame deep."""

    in_channels: int = 16  # latent channels, in and out; 16 = Wan 2.1 VAE
    patch_size: int = 2  # latent cells per token, per side
    num_layers: int = 20
    num_attention_heads: int = 20  # of the linear attention
    attention_head_dim: int = 112  # rotated by frame 40, by row 36, by column 36
    num_cross_attention_heads: int = 20
    caption_channels: int = 2304  # width of the text embeddings
    mlp_ratio: float = 3.0  # Mix-FFN hidden width / token width, before the gate doubles it
    qk_norm: bool = True  # RMS norm over the full width of q and k, in both attentions

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _RANGES if not low <= getattr(self, name) <= high]  # fmt: skip
        if self.attention_head_dim % 2:
            problems.append(f"attention_head_dim is {self.attention_head_dim}; rotation needs an even number")
        if not problems and self.width % self.num_cross_attention_heads:
            problems.append(
                f"width {self.width} does not divide by {self.num_cross_attention_heads} cross heads; use a divisor"
            )
        if problems:
            raise ConfigError("SANA-Video config: " + "; ".join(problems))

    @classmethod
    def for_720p(cls) -> "SanaVideoConfig":
        """The published 2B model for 720p: latents of the LTX-2 VAE, one cell a token."""
        return cls(in_channels=128, patch_size=1)
