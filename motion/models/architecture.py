"""What the pack asks of an architecture, as one record a row; `architectures.py` is the table of those there are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ConfigError
from .model_spec import ModelSpec


class CallMemory(Protocol):
    """What one call of a network takes beside its weights, from the sizes in its config alone."""

    def step_bytes(
        self, config: Any, shape: tuple[int, ...], *, itemsize: int = 2, kernels: str = "torch",
        fused_norms: bool = False,
    ) -> int:  # fmt: skip
        """Bytes of a call on latents (b, c, t, h, w), gradients off."""

    def factor(self, config: Any, kernels: str = "torch") -> float:
        """The host's memory per latent cell, in its own unit."""


@dataclass(frozen=True)
class AdapterPlaces:
    """Where adapters go. prefix: of names in adapter files, as the host's own loaders look for them.

    blocks: the network's list of blocks. parts: what LoRA takes in a block. not_inside: why no adapter goes into the
    places of `BlockAdapters`, "" where it can. space, time, text: a block's attentions, "" for one it lacks, which is
    then not adapted; query: their query layer.
    """

    blocks: str
    parts: tuple[str, ...]
    not_inside: str = ""
    prefix: str = "diffusion_model."
    space: str = "attn1"
    time: str = "attn_temporal"
    text: str = "attn2"
    query: str = "to_q"

    @property
    def already_apart(self) -> str:
        """What is said to whoever wants to tell a network's heads apart that has layers for space and for time."""
        return (f"its layers for space ({self.space}) and time ({self.time}) are apart already, so it has no heads to "
                "classify; Train Motion LoRA takes them as they are, without a head map")  # fmt: skip


@dataclass(frozen=True)
class MotionDefaults:
    """What the training of a motion adapter takes where nothing is named.

    rank: beside a built-in model the largest that keeps an adapter within a twentieth of its weights. side: px of the
    short side of clips for a model of small pictures, 0 = as asked. found: whether these numbers were found for a model
    of this size; else they must be named.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    rank: int
    sigma_sampling: str = "uniform"
    top_noise_share: float = 0.7  # motion is decided where sampling starts
    side: int = 0
    found: bool = True


@dataclass(frozen=True)
class TrainingDefaults:
    """What a training takes where nothing is named, or where what is named does not exist in this architecture."""

    num_frames: int  # of a window
    stride_min: int  # frames of the clip per frame of the window
    stride_max: int
    fps: float  # that clips are resampled to before they are cut
    targets: tuple[str, ...]  # parts of names of the layers that get a LoRA
    motion: Callable[[ModelSpec], MotionDefaults] | None = None  # None where no motion adapters are trained here


@dataclass(frozen=True)
class Architecture:
    """One row. name: in the metadata of files, as `family`. title: what messages call a model of it.

    network: gives the class of the network, which is imported then. operators: those of `kernels` that it calls, by
    the names of their tries. training: None where it is not trained here. read_spec: the spec from a file's metadata;
    None where files of this architecture are told by their weights alone. clean_first_frame: whether a network of this
    config reads no start image, so that a motion adapter needs one as its clean first latent frame, at the noise level
    of all others.
    """

    name: str
    title: str
    config: type
    spec: type[ModelSpec]
    network: Callable[[], type]
    operators: tuple[str, ...]
    memory: CallMemory
    adapters: AdapterPlaces
    training: TrainingDefaults | None = None
    read_spec: Callable[[Mapping[str, str]], ModelSpec] | None = None
    clean_first_frame: Callable[[Any], bool] = lambda config: False

    def check_adapters_inside(self) -> None:
        """Refuse adapters inside blocks that have no place for them. Raises ConfigError with the reason."""
        if self.adapters.not_inside:
            raise ConfigError(
                f"{self.title} takes no adapters in its blocks: {self.adapters.not_inside}; use a LinearVideo model"
            )
