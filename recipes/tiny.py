"""The recipe of `motionblocks-tiny`: what is built, and how it is trained. Everything is derived from one seed."""

from dataclasses import asdict, dataclass, field

from ..motion.models.linear_video.network import LinearVideoDiTConfig
from ..motion.models.model_spec import DynamicsSpec, LatentSpec, LinearVideoSpec, SamplingDefaults

TEXT_WIDTH = 64


def builtin_spec() -> LinearVideoSpec:
    """Network, latent space, sampling defaults and dynamics scale of the built-in model."""
    return LinearVideoSpec(
        config=LinearVideoDiTConfig(
            in_channels=200, num_layers=6, num_attention_heads=4, num_cross_attention_heads=4,
            caption_channels=TEXT_WIDTH, default_motion_bucket=12, flow_channels=8, concat_first_frame=True,
            first_frame_texture=True, frame_index_embedding=True, pooled_text_embedding=True,
            position_features=True, prediction="x0",
        ),
        sampling=SamplingDefaults(
            shift=9.0, num_steps=8, guidance_scale=1.0, num_frames=16, fps=8.0, integer_timesteps=False
        ),
        latent=LatentSpec(kind="builtin", channels=200, spatial_ratio=8, scale_factor=1.0, working_size=64),
        dynamics=DynamicsSpec(degree_max=0.06, measure_size=64),
    )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A part of the training with one batch shape."""

    share: float  # of all steps
    num_clips: int  # clips a step
    num_targets: int  # frames a clip beside frame 0


@dataclass(frozen=True)
class BuiltinRecipe:
    """Numbers of the training run; written into the weights' metadata."""

    num_steps: int = 520
    stages: tuple[Stage, ...] = field(default=(Stage(0.75, 24, 2), Stage(0.25, 12, 4)))
    learning_rate: float = 2.5e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.99
    flow_weight: float = 20.0  # of the L1 on the flow grid, beside the velocity loss
    still_weight: float = 4.0  # of the flow loss of clips in which nothing moves
    top_noise_share: float = 0.15  # samples at sigma 0.999, where sampling starts
    caption_dropout: float = 0.1
    long_share: float = 0.15  # samples whose target frames go up to long_frames
    long_frames: int = 32

    def to_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)
