"""The recipe of `motionblocks-small`: what is built from what."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..motion.builtin_model import load_builtin
from ..motion.data.procedural.scenes import WORDS
from ..motion.errors import ConfigError
from ..motion.io.networks.file_motions import file_motions
from ..motion.io.networks.linear_video import read_linear_video
from ..motion.models.linear_video.config import LinearVideoDiTConfig
from ..motion.models.linear_video.network import LinearVideoDiT
from ..motion.models.model_spec import DynamicsSpec, LatentSpec, LinearVideoSpec, SamplingDefaults
from ..motion.text.encoder import MotionTextEncoder
from .growth import PATCH, grown_embedding, grown_state
from .tiny import TEXT_WIDTH
from .tiny_trainer import few_keys_attention

PARENT = "motionblocks-tiny"


@dataclass(frozen=True)
class SmallRecipe:
    """Numbers of the training that the trainer's own settings do not hold; written into the weights' metadata."""

    num_targets: int = 2  # frames a clip beside frame 0
    flow_weight: float = 12.0  # of the L1 on the flow, beside the velocity loss
    still_weight: float = 2.0  # of that in scenes in which nothing moves
    moving_weight: float = 4.0  # of that where a part of the picture moves; elsewhere 1
    top_noise_share: float = 0.25  # samples at sigma 0.999, where sampling starts
    flow_shift: float = 4.0  # of the noise levels
    caption_dropout: float = 0.03
    stopped_share: float = 0.04  # samples with bucket 0, in which nothing moves whatever the prompt says
    long_share: float = 0.1  # camera and whole-picture samples whose frames go up to long_frames
    num_frames: int = 16
    long_frames: int = 32
    num_textures: int = 512
    words: tuple[str, ...] = field(default=WORDS)
    left_out: tuple[str, ...] = (  # words neither drawn nor written: not learned, or (rain, snow) by builtin_weather.py
        "grow", "shrink", "swirl", "ripple", "shake", "rain", "snow",
    )  # fmt: skip

    @property
    def taught(self) -> tuple[str, ...]:
        """The words that are drawn."""
        return tuple(word for word in self.words if word not in self.left_out)

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return {**asdict(self), "words": list(self.words), "left_out": list(self.left_out)}


def small_spec(num_layers: int = 8) -> LinearVideoSpec:
    """Network, latent space, sampling defaults and dynamics scale."""
    return LinearVideoSpec(
        config=LinearVideoDiTConfig(
            in_channels=200, patch_size=PATCH, num_layers=num_layers, num_attention_heads=4,
            num_cross_attention_heads=4, caption_channels=TEXT_WIDTH, default_motion_bucket=12, flow_channels=8,
            concat_first_frame=True, first_frame_texture=True, frame_index_embedding=True, pooled_text_embedding=True,
            position_features=True, prediction="x0",
        ),
        sampling=SamplingDefaults(
            shift=5.0, num_steps=8, guidance_scale=1.0, num_frames=16, fps=8.0, integer_timesteps=False
        ),
        latent=LatentSpec(kind="builtin", channels=200, spatial_ratio=8, scale_factor=1.0, working_size=128),
        dynamics=DynamicsSpec(degree_max=0.06, measure_size=64),
    )  # fmt: skip


def build_small(
    spec: LinearVideoSpec, recipe: SmallRecipe, seed: int, start: Path | None = None
) -> tuple[LinearVideoDiT, MotionTextEncoder]:
    """Network and text encoder that start as motionblocks-tiny does; new words and blocks drawn from the seed.

    start: a file of an earlier run to start from instead, with the spec's network and at least the words taught.
    """
    return _grown(spec, recipe, seed) if start is None else _read(spec, recipe, start)


def _read(spec: LinearVideoSpec, recipe: SmallRecipe, path: Path) -> tuple[LinearVideoDiT, MotionTextEncoder]:
    file = read_linear_video(path)
    words = file_motions(file.metadata)
    if not set(recipe.taught) <= set(words) <= set(recipe.words) or file.spec.config != spec.config:
        raise ConfigError(f"{path} has another network or other motions than the recipe; start from one that fits")
    dit, encoder = LinearVideoDiT(spec.config, attention=few_keys_attention), MotionTextEncoder(
        len(recipe.words) + 1, TEXT_WIDTH)
    dit.load_state_dict({name: value.float() for name, value in file.state_dict.items()})
    state = {name: value.float() for name, value in file.text_encoder.items()}
    rows = encoder.embedding.weight.detach().clone()
    rows[[0, *(recipe.words.index(word) + 1 for word in words)]] = state["embedding.weight"]
    encoder.load_state_dict({**state, "embedding.weight": rows})
    return dit, encoder


def _grown(spec: LinearVideoSpec, recipe: SmallRecipe, seed: int) -> tuple[LinearVideoDiT, MotionTextEncoder]:
    parent = load_builtin(PARENT)
    known = len(parent.vocabulary.words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit = LinearVideoDiT(spec.config, attention=few_keys_attention)
        encoder = MotionTextEncoder(len(recipe.words) + 1, TEXT_WIDTH)
    dit.load_state_dict(grown_state(parent.dit.state_dict(), dit.state_dict()))
    text, fresh = parent.text_encoder.state_dict(), encoder.state_dict()
    if recipe.words[:known] == parent.vocabulary.words:
        fresh["embedding.weight"] = grown_embedding(text["embedding.weight"], fresh["embedding.weight"])
    encoder.load_state_dict({**text, "embedding.weight": fresh["embedding.weight"]})
    return dit, encoder
