"""The linear video DiT as a row of the table of architectures."""

from ..architecture import AdapterPlaces, Architecture, MotionDefaults, TrainingDefaults
from ..model_spec import FAMILY, LinearVideoSpec
from ..step_memory import Alive, MixFFNMemory
from .config import LinearVideoDiTConfig

# Token tensors alive in the widest moment of the attentions; where RMS norms are in them, by whether torch makes each
# in one operation (newer ones on a card do) or through float32 copies.
PLAIN = {"torch": (18.1, 9.6), "triton": (5.1, 5.1)}
NORMED = {
    False: {"torch": (18.1, 9.6), "triton": (12.1, 8.1)}, True: {"torch": (18.1, 9.6), "triton": (7.1, 7.1)},
}  # fmt: skip
# The heads of the built-in models work on all latent channels, in tensors of the latents' size.
HEAD_LATENTS = 16.5


def _attention(config: LinearVideoDiTConfig, fused_norms: bool) -> Alive:
    return NORMED[fused_norms] if config.qk_norm else PLAIN


def _head_values(config: LinearVideoDiTConfig) -> int:
    return int(HEAD_LATENTS * config.in_channels) if config.flow_channels or config.skip_channels else 0


def _motion(spec: LinearVideoSpec) -> MotionDefaults:
    found = spec.space.kind == "builtin"
    return MotionDefaults(num_steps=240, batch_size=2, learning_rate=8e-3, rank=11, found=found)


def _network() -> type:
    from .network import LinearVideoDiT

    return LinearVideoDiT


LINEAR_VIDEO = Architecture(
    name=FAMILY,
    title="linear video model",
    config=LinearVideoDiTConfig,
    spec=LinearVideoSpec,
    network=_network,
    operators=("spatial_linear_attention", "temporal_cosine_attention", "gate_norm_modulate", "glu_depthwise"),
    memory=MixFFNMemory(_attention, _head_values),
    adapters=AdapterPlaces(blocks="transformer_blocks", parts=("attn1", "attn_temporal", "attn2", "ff")),
    training=TrainingDefaults(
        num_frames=16, stride_min=3, stride_max=10, fps=24.0, targets=("attn1", "attn_temporal", "attn2", "ff"),
        motion=_motion,
    ),
    read_spec=LinearVideoSpec.from_metadata,
)
