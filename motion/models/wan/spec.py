"""What is known of Wan weights beside the weights: sizes, latent space, how they are sampled."""

from dataclasses import dataclass, field

from ...errors import ConfigError
from ..latent_spaces import SPACES, LatentSpace
from ..model_spec import ModelSpec, SamplingDefaults
from .config import WanConfig

SPACE = SPACES["wan21"]
TEXT_TOKENS = 512  # of a prompt as Wan was trained with, the zeros behind a shorter one included


def published_sampling() -> SamplingDefaults:
    """The defaults of the published code. Timesteps stay fractions, as the host gives them to its own Wan."""
    return SamplingDefaults(
        shift=5.0, num_steps=50, guidance_scale=5.0, num_frames=81, fps=16.0, integer_timesteps=False
    )


@dataclass(frozen=True)
class WanSpec(ModelSpec):
    """Everything beside the weights. Raises ConfigError for channels that no VAE known here makes.

    text_tokens: a shorter prompt is filled up with zeros to so many; models with words of their own read it as it is.
    """

    config: WanConfig = field(default_factory=WanConfig)
    sampling: SamplingDefaults = field(default_factory=published_sampling)
    text_tokens: int = TEXT_TOKENS

    def __post_init__(self):
        found = (self.config.in_channels, self.config.patch_size)
        if found != (SPACE.channels, SPACE.multiple // SPACE.spatial_ratio):
            raise ConfigError(
                f"Wan with {found[0]} latent channels and patch {found[1]}: no VAE for it is known here; known are "
                f"{SPACE.channels} channels and patch {SPACE.multiple // SPACE.spatial_ratio}, of the {SPACE.title}"
            )

    @property
    def space(self) -> LatentSpace:
        """The latent space that the network works in."""
        return SPACE
