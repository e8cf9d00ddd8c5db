"""How a network was trained to read a sequence of reference, skeletons and target, as files say it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..choices import (
    ALL_TOKENS,
    CLEAN_LEVEL,
    JOINT,
    ONE_LEVEL,
    SEGMENTS,
    SEQUENCE_ATTENTIONS,
    SEQUENCE_MODES,
    SEQUENCE_TIMESTEPS,
)
from ..errors import ConfigError

ENTRIES = {"mode": "sequence_mode", "timestep": "sequence_timestep", "attention": "sequence_attention",
           "renderer": "pose_renderer"}  # fields by their names in the metadata of files
KNOWN = {"mode": SEQUENCE_MODES, "timestep": SEQUENCE_TIMESTEPS, "attention": SEQUENCE_ATTENTIONS}


@dataclass(frozen=True)
class TrainedAs:
    """mode: see `SequenceLayout`. timestep: what the network is told of given frames, "one" level for the whole
    sequence or "clean", 0. attention: "all", or "segment" where given frames look at one another alone. renderer:
    RENDERER_ID of the skeletons, "" where it is not known. Raises ConfigError.
    """

    mode: str = JOINT
    timestep: str = ONE_LEVEL
    attention: str = ALL_TOKENS
    renderer: str = ""

    def __post_init__(self):
        for name, known in KNOWN.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{ENTRIES[name]} is {str(getattr(self, name))[:40]!r}; known are {', '.join(known)}")

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "TrainedAs | None":
        """What a file's metadata says; None where it says nothing of sequences. Raises ConfigError."""
        told = {name: str(metadata[entry]) for name, entry in ENTRIES.items() if entry in metadata}
        return cls(**told) if ENTRIES["mode"] in metadata else None

    def to_metadata(self) -> dict[str, str]:
        """The way back of `of`."""
        return {ENTRIES[item.name]: getattr(self, item.name) for item in fields(self) if getattr(self, item.name)}

    @property
    def clean_timestep(self) -> bool:
        """Whether given frames have level 0."""
        return self.timestep == CLEAN_LEVEL

    @property
    def in_segments(self) -> bool:
        """Whether given frames look at one another alone."""
        return self.attention == SEGMENTS
