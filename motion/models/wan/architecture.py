"""Wan as a row of the table of architectures."""

from dataclasses import dataclass

from ..architecture import AdapterPlaces, Architecture, MotionDefaults, TrainingDefaults
from ..step_memory import FULL, HALF, HOST_UNIT
from .config import IMAGE_TOKENS, IMAGE_WIDTH, WanConfig
from .spec import TEXT_TOKENS, WanSpec

# Token tensors alive while keys are normed or turned, which is in float32: for numbers of two bytes and for float32, by
# whether torch makes an RMS norm in one operation.
ATTENTION = {False: (10.1, 7.1), True: (7.1, 7.1)}
FFN_TOKENS, FFN_WIDE = 3.1, 2  # token tensors, and tensors of the hidden width, in the feed-forward
TURN_BYTES = 8  # of the rotary tables, a token and number of a head
# In a training step, what a block keeps for its backward pass, beside image tokens more; what its feed-forward holds in
# that pass comes on top, once. Counted for numbers of two bytes where torch makes an RMS norm of many operations.
KEPT_TOKENS, KEPT_WIDE, KEPT_IMAGE, BACK_WIDE = 17.3, 1.04, 2.2, 2.1


@dataclass(frozen=True)
class WanMemory:
    """The estimate for blocks of softmax attention that keeps no scores, and a feed-forward in one piece."""

    def step_bytes(
        self, config: WanConfig, shape: tuple[int, ...], *, itemsize: int = 2, kernels: str = "torch",
        fused_norms: bool = False,
    ) -> int:  # fmt: skip
        """Bytes that one call needs beside its weights, gradients off; arguments as in `MixFFNMemory`.

        Kernels make no difference: none is called.
        """
        b, _, t, h, w = shape
        tokens = b * t * (h // config.patch_size) * (w // config.patch_size)
        size = FULL if itemsize >= 4 else HALF
        alive = max(ATTENTION[fused_norms][size], _ffn(config))
        beside = TEXT_TOKENS * (config.caption_channels + config.width) if tokens else 0
        beside += IMAGE_TOKENS * (IMAGE_WIDTH + config.width) if config.image_tokens and tokens else 0
        turns = TURN_BYTES * config.attention_head_dim * tokens
        return int((alive * tokens * config.width + b * beside) * itemsize) + turns

    def training_bytes(
        self, config: WanConfig, shape: tuple[int, ...], *, checkpointing: bool, itemsize: int = 2
    ) -> int:  # fmt: skip
        """Bytes that a training step beside a frozen base needs beside its weights: what lives for the backward pass.

        shape: (b, c, t, h, w) of the latents.
        """
        b, _, t, h, w = shape
        tokens = b * t * (h // config.patch_size) * (w // config.patch_size)
        wide = config.hidden_width / config.width
        kept = KEPT_TOKENS + KEPT_WIDE * wide + KEPT_IMAGE * config.image_tokens
        blocks = config.num_layers + kept if checkpointing else config.num_layers * kept
        return int((blocks + BACK_WIDE * wide) * tokens * config.width * itemsize)

    def factor(self, config: WanConfig, kernels: str = "torch") -> float:
        """The host's memory per latent cell, in its unit of 0.01 MiB a byte of number size: large clips, bfloat16."""
        token = max(ATTENTION[False][HALF], _ffn(config)) * config.width + TURN_BYTES * config.attention_head_dim / 2
        return token / config.patch_size**2 / HOST_UNIT


def _ffn(config: WanConfig) -> float:
    return FFN_TOKENS + FFN_WIDE * config.hidden_width / config.width


def _motion(spec: WanSpec) -> MotionDefaults:
    """Those of the paper (MIVA, arXiv 2512.20000); a small Wan with words of its own learns in minutes."""
    if spec.text_tokens < TEXT_TOKENS:
        return MotionDefaults(num_steps=240, batch_size=5, learning_rate=6e-3, rank=16, top_noise_share=0.0, side=64)
    return MotionDefaults(num_steps=8000, batch_size=1, learning_rate=1e-5, rank=128, top_noise_share=0.0)


def _network() -> type:
    from .network import WanDiT

    return WanDiT


# A LoRA beside the attentions alone: what moves with what is decided there, and the feed-forwards, two thirds of a
# block's weights, would mostly learn how the clips look. 17 frames are 5 latent frames, one second at Wan's own 16 fps.
WAN = Architecture(
    name="wan_video",
    title="Wan",
    config=WanConfig,
    spec=WanSpec,
    network=_network,
    operators=(),
    memory=WanMemory(),
    adapters=AdapterPlaces(
        blocks="blocks", parts=("self_attn", "cross_attn", "ffn"), space="self_attn", time="", text="cross_attn",
        query="q",
    ),
    clean_first_frame=lambda config: not config.concat_channels,
    training=TrainingDefaults(num_frames=17, stride_min=1, stride_max=1, fps=16.0, targets=("self_attn", "cross_attn"),
                              motion=_motion),
)
