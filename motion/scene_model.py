"""The models that draw a video from words alone, bundled without any host: network, words, VAE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import ConfigError
from .io.networks.builtin_names import WEIGHTS
from .io.networks.builtin_wan import read_builtin_wan
from .io.vaes.small_vae import read_small_vae
from .models.conditions import Conditions
from .models.small_vae import SmallVAE
from .models.wan.network import WanDiT
from .models.wan.spec import WanSpec
from .sampling.draw import draw, make_noise
from .sampling.solvers import OnStep
from .text.scene_vocabulary import SceneVocabulary, word_vectors

VAE = WEIGHTS / "motionblocks-vae.safetensors"
SIDES = (64, 192)  # px that the drawn clips have
MAX_FRAMES = 33


@dataclass(frozen=True, eq=False)
class SceneModel:
    """Words in, video out."""

    spec: WanSpec
    dit: WanDiT
    vae: SmallVAE
    vocabulary: SceneVocabulary

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """The prompts as conditions, a row each; "" leaves all to the model. Raises ConfigError for unknown words."""
        vectors = word_vectors(self.vocabulary.size, self.spec.config.caption_channels)
        ids = torch.tensor([self.vocabulary.tokenize(prompt) for prompt in prompts])
        return Conditions(vectors[ids].to(next(self.dit.parameters()).device))

    @torch.no_grad()
    def draw_videos(
        self, prompts: Sequence[str], *, height: int = 64, width: int = 64, num_frames: int | None = None,
        num_steps: int | None = None, guidance_scale: float | None = None, seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:  # fmt: skip
        """Videos (b, t, h, w, 3) in [0, 1], one a prompt, from the noise of seed, seed + 1, … each.

        height, width: px, multiples of 16 from 64 to 192. num_frames: 4k + 1, up to 33; trained are 17, the default, as
        of num_steps and guidance_scale is the model's own. Raises ConfigError and ShapeError.
        """
        space, sampling = self.spec.space, self.spec.sampling
        frames = space.latent_frames(sampling.num_frames if num_frames is None else num_frames)
        space.check_size(width, height, "the video")
        if not (SIDES[0] <= min(height, width) and max(height, width) <= SIDES[1] and 4 * frames - 3 <= MAX_FRAMES):
            raise ConfigError(f"a video of {4 * frames - 3} frames, {width}x{height} px; this model draws up to "
                              f"{MAX_FRAMES} frames with sides of {SIDES[0]} to {SIDES[1]} px")  # fmt: skip
        shape = (1, space.channels, frames, height // space.spatial_ratio, width // space.spatial_ratio)
        told = self.encode(prompts)
        noise = torch.cat([make_noise(shape, seed + row) for row in range(len(prompts))]).to(told.context.device)
        latents = draw(
            self.dit, noise, told, sampling, negative=self.encode([""] * len(prompts)), num_steps=num_steps,
            guidance_scale=guidance_scale, on_step=on_step,
        )  # fmt: skip
        return self.decode(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (b, 16, t', h', w') -> videos (b, t, h, w, 3) in [0, 1]."""
        video = self.vae.decode(self.spec.space.unscaled(latents))
        return (video / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def load_scene_model(path: str | Path, *, vae: str | Path = VAE, device: str | torch.device = "cpu") -> SceneModel:
    """A model of a file that has words of its own, with its VAE, in float32. Raises CheckpointError."""
    file = read_builtin_wan(path)
    network = file.network().to(device)
    return SceneModel(file.spec, network, read_small_vae(vae).to(device).requires_grad_(False), file.vocabulary)
