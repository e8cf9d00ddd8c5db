"""SANA-Video as a row of the table of architectures."""

from ..architecture import AdapterPlaces, Architecture
from ..step_memory import Alive, MixFFNMemory
from .config import NO_ADAPTERS, SanaVideoConfig
from .spec import SanaVideoSpec

# Token tensors alive in the widest moment of the attentions, by whether torch makes an RMS norm in one operation.
JOINT = {False: {"torch": (10.1, 6.2), "triton": (10.1, 6.1)}, True: {"torch": (8.1, 6.2), "triton": (5.1, 5.1)}}


def _attention(config: SanaVideoConfig, fused_norms: bool) -> Alive:
    return JOINT[fused_norms]


def _network() -> type:
    from .network import SanaVideoDiT

    return SanaVideoDiT


SANA_VIDEO = Architecture(
    name="sana_video",
    title="SANA-Video",
    config=SanaVideoConfig,
    spec=SanaVideoSpec,
    network=_network,
    operators=("joint_linear_attention", "token_rstd", "gate_norm_modulate", "glu_depthwise"),
    memory=MixFFNMemory(_attention),
    adapters=AdapterPlaces(blocks="transformer_blocks", parts=("attn1", "attn2", "ff"), not_inside=NO_ADAPTERS),
)
