"""Sizes and switches of the linear video DiT."""

from dataclasses import dataclass

from ....kernels.temporal_cosine_attention import ALGORITHMS
from ...errors import ConfigError
from ...records import PlainRecord

PREDICTIONS = ("velocity", "x0")


class NetworkConfig(PlainRecord):
    """What the configs of our networks share: widths."""

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def hidden_width(self) -> int:
        return int(self.mlp_ratio * self.width)


@dataclass(frozen=True)
class LinearVideoDiTConfig(NetworkConfig):
    """Sizes and switches of one network. The defaults are the paper's: SANA-0.6B with temporal layers."""

    in_channels: int = 32  # latent channels, in and out
    patch_size: int = 1  # latent cells per token, per side
    num_layers: int = 28
    num_attention_heads: int = 36  # of the linear attentions
    attention_head_dim: int = 32
    num_cross_attention_heads: int = 16
    caption_channels: int = 2304  # width of the text embeddings
    mlp_ratio: float = 2.5  # Mix-FFN hidden width / token width, before the gate doubles it
    qk_norm: bool = False  # RMS norm over the full width of q and k (SANA-1.5)
    motion_buckets: int = 20  # 0 = the network is not told how much motion
    default_motion_bucket: int = 15  # used when the caller names none
    temporal_form: str = "auto"  # auto, linear or direct: equal results, different cost
    # Our extensions; all off equals MiraMo exactly.
    flow_channels: int = 0  # last latent channels are a backward-flow grid that warps the first frame
    concat_first_frame: bool = False  # the first frame's latents are added to every frame through a patch embed
    first_frame_texture: bool = False  # AdaLN also sees how strong each latent channel of the first frame is
    frame_index_embedding: bool = False  # AdaLN also sees the frame's index
    pooled_text_embedding: bool = False  # AdaLN also sees a pooled prompt
    position_features: bool = False  # tokens also see their place in the picture
    prediction: str = "velocity"  # velocity, or x0: the network gives clean latents and we convert
    skip_channels: int = 0  # width of the skip head, which carries fine detail past the tokens
    skip_deviation: float = 0.2  # deviation of what the skip head carries, in colours of -1 to 1

    def __post_init__(self):
        problems = [f"{name} is {getattr(self, name)}; it must be {low} to {high}"
                    for name, low, high in _RANGES if not low <= getattr(self, name) <= high]
        if not problems and self.width % self.num_cross_attention_heads:
            problems.append(f"width {self.width} does not divide by {self.num_cross_attention_heads} cross heads")
        if self.attention_head_dim % 2:
            problems.append(f"attention_head_dim is {self.attention_head_dim}; rotation needs an even number")
        if not 0.1 <= self.mlp_ratio <= 16:
            problems.append(f"mlp_ratio is {self.mlp_ratio}; it must be 0.1 to 16")
        if self.temporal_form not in ALGORITHMS:
            problems.append(f"temporal_form is {self.temporal_form!r}; it must be one of {', '.join(ALGORITHMS)}")
        if self.prediction not in PREDICTIONS:
            problems.append(f"prediction is {self.prediction!r}; it must be one of {', '.join(PREDICTIONS)}")
        if self.flow_channels and ((self.flow_channels, self.in_channels) != (8, 200) or self.patch_size > 2):
            problems.append("the flow head needs flow_channels 8, in_channels 200 and patch_size 1 or 2")
        if self.flow_channels and self.prediction != "x0":
            problems.append("the flow head needs prediction x0")
        fits = (self.in_channels, self.prediction) == (200, "x0")
        if self.skip_channels and not (fits and self.concat_first_frame and self.pooled_text_embedding):
            problems.append("the skip head needs in_channels 200, prediction x0, concat_first_frame and "
                            "pooled_text_embedding")
        if not 0 < self.skip_deviation <= 2:
            problems.append(f"skip_deviation is {self.skip_deviation}; it must be above 0 and at most 2")
        if problems:
            raise ConfigError("model config: " + "; ".join(problems))


_RANGES = (
    ("in_channels", 1, 4096), ("patch_size", 1, 16), ("num_layers", 1, 200), ("num_attention_heads", 1, 512),
    ("attention_head_dim", 2, 512), ("num_cross_attention_heads", 1, 512), ("caption_channels", 1, 65536),
    ("motion_buckets", 0, 1000), ("default_motion_bucket", 0, 1000), ("flow_channels", 0, 64),
    ("skip_channels", 0, 512),
)  # fmt: skip
