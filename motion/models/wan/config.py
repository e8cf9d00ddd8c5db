"""Sizes of the Wan networks; the defaults are those of Wan 2.1 text to video with 1.3 billion parameters."""

from dataclasses import dataclass

from ...errors import ConfigError
from ..linear_video.config import NetworkConfig

FREQUENCIES = 256  # sinusoidal features of a timestep
IMAGE_WIDTH = 1280  # of the CLIP vision tokens
IMAGE_TOKENS = 257  # that CLIP makes of one image: a class token and 16x16 patches
MASK_CHANNELS = 4  # of the mask in front of a start video, one for each frame that a latent frame holds
EPS = 1e-6  # of the norms, but for those around the image tokens, which have torch's own

_RANGES = (
    ("in_channels", 1, 4096), ("patch_size", 1, 16), ("num_layers", 1, 200), ("num_attention_heads", 1, 512),
    ("attention_head_dim", 6, 512), ("hidden_width", 1, 2**20), ("caption_channels", 1, 65536),
    ("position_tokens", 0, 65536),
)  # fmt: skip


@dataclass(frozen=True)
class WanConfig(NetworkConfig):
    """Sizes of one network. A token is one latent frame deep."""

    in_channels: int = 16  # latent channels, in and out
    concat_channels: int = 0  # beside them: 0, or a start video's mask and latents, in_channels + 4
    image_tokens: bool = False  # text attention also reads CLIP vision tokens of the start image
    position_tokens: int = 0  # image tokens with an offset of their own: 514 in models from first to last image, else 0
    patch_size: int = 2  # latent cells per token, per side
    num_layers: int = 30
    num_attention_heads: int = 12
    attention_head_dim: int = 128  # rotated by frame 44, by row 42, by column 42
    hidden_width: int = 8960  # of the feed-forward
    caption_channels: int = 4096  # width of the text embeddings

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _RANGES if not low <= getattr(self, name) <= high]  # fmt: skip
        if self.attention_head_dim % 2:
            problems.append(f"attention_head_dim is {self.attention_head_dim}; rotation needs an even number")
        if self.concat_channels not in (0, self.in_channels + MASK_CHANNELS):
            problems.append(
                f"concat_channels is {self.concat_channels}; it must be 0, or {self.in_channels + MASK_CHANNELS} for a "
                f"start video's {MASK_CHANNELS} channels of mask and {self.in_channels} of latents"
            )
        if self.position_tokens and not self.image_tokens:
            problems.append(f"position_tokens is {self.position_tokens}; without image_tokens it must be 0")
        if problems:
            raise ConfigError("Wan config: " + "; ".join(problems))

    @property
    def axes(self) -> tuple[int, int, int]:
        """Numbers of a head that turn with the frame, the row and the column; rows and columns get a third each."""
        third = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * third, third, third


_LARGE = {"num_layers": 40, "num_attention_heads": 40, "hidden_width": 13824}
_START = {"concat_channels": 20}

# Both experts of an A14B model have the same sizes; those of its text to video equal the 14B model of Wan 2.1.
PUBLISHED = {
    "T2V 1.3B": WanConfig(),
    "Fun-InP 1.3B": WanConfig(image_tokens=True, **_START),
    "T2V 14B": WanConfig(**_LARGE),
    "I2V 14B": WanConfig(image_tokens=True, **_START, **_LARGE),
    "FLF2V 14B": WanConfig(image_tokens=True, position_tokens=2 * IMAGE_TOKENS, **_START, **_LARGE),
    "A14B T2V": WanConfig(**_LARGE),
    "A14B I2V": WanConfig(**_START, **_LARGE),
}
