"""What the loaders know of SANA-Video weights beside the weights: sizes, latent space, the published sampling."""

from dataclasses import dataclass, field

from ...errors import ConfigError
from ..latent_spaces import SPACES, LatentSpace
from ..model_spec import ModelSpec, SamplingDefaults
from .config import SanaVideoConfig
from .dims import SanaDims

SPACE_OF = {(16, 2): "wan21", (128, 1): "ltx2"}  # latent channels and patch side -> kind of latent space
ROWS = {"wan21": "SANA-Video 480p", "ltx2": "SANA-Video 720p"}  # of docs/models.md


def published_sampling() -> SamplingDefaults:
    """How the published weights are sampled; SANA-Video, arXiv 2509.24695, and the schedulers that come with them."""
    return SamplingDefaults(
        shift=8.0, num_steps=50, guidance_scale=6.0, num_frames=81, fps=16.0, integer_timesteps=True
    )


@dataclass(frozen=True)
class SanaVideoSpec(ModelSpec):
    """Everything beside the weights. integer_timesteps of `sampling` holds for text to video; a start image makes
    every latent frame have a timestep of its own, in float.
    """

    config: SanaVideoConfig = field(default_factory=SanaVideoConfig)
    sampling: SamplingDefaults = field(default_factory=published_sampling)

    def __post_init__(self):
        found = (self.config.in_channels, self.config.patch_size)
        if found not in SPACE_OF:
            known = ", ".join(f"{channels} with patch {patch}" for channels, patch in SPACE_OF)
            raise ConfigError(
                f"SANA-Video with {found[0]} latent channels and patch {found[1]}: no VAE for it is known here; known "
                f"are {known}"
            )

    @property
    def space(self) -> LatentSpace:
        """The latent space that the network works in."""
        return SPACES[SPACE_OF[self.config.in_channels, self.config.patch_size]]

    @property
    def row(self) -> str:
        """The row of docs/models.md that these weights belong to."""
        return ROWS[self.space.kind]


def sana_video_spec(dims: SanaDims) -> SanaVideoSpec:
    """The spec of weights of these sizes. Raises ConfigError for image models and for sizes that are not built."""
    if dims.family != "sana_video":
        raise ConfigError("this is a SANA image model; a SANA-Video model is needed")
    if dims.patch_size[0] != 1:
        raise ConfigError(f"patches of {dims.patch_size[0]} latent frames; 1 is needed, as in the published weights")
    return SanaVideoSpec(config=SanaVideoConfig(**dims.config_sizes()))
