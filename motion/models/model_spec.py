"""What a motion model file says about itself beside its weights: objective, sampling, latent space, dynamics."""

import json
from dataclasses import dataclass, field, fields, replace

from ..errors import CheckpointError, ConfigError
from ..foreign_json import parse_json
from ..records import PlainRecord
from .latent_spaces import SPACES, LatentSpace
from .linear_video.config import LinearVideoDiTConfig, NetworkConfig

FORMAT_VERSION = 1
FAMILY = "linear_video_dit"
OBJECTIVES = ("i2v_residual", "t2v")


@dataclass(frozen=True)
class SamplingDefaults(PlainRecord):
    """How the file wants to be sampled when the user says nothing."""

    shift: float = 3.0  # flow shift s of sigma' = s·sigma / (1 + (s-1)·sigma)
    num_steps: int = 25
    guidance_scale: float = 5.5  # 1.0 = off
    num_frames: int = 16
    fps: float = 8.0
    integer_timesteps: bool = True  # the network was trained on floor(1000·sigma)

    def __post_init__(self):
        problems = []
        if not 0.0 < self.shift <= 1000.0:
            problems.append(f"shift is {self.shift}; it must be in (0, 1000]")
        if not 1 <= self.num_steps <= 10000:
            problems.append(f"num_steps is {self.num_steps}; it must be 1 to 10000")
        if not 0.0 <= self.guidance_scale <= 100.0:
            problems.append(f"guidance_scale is {self.guidance_scale}; it must be 0 to 100")
        if not 1 <= self.num_frames <= 10000:
            problems.append(f"num_frames is {self.num_frames}; it must be 1 to 10000")
        if not 0.0 < self.fps <= 1000.0:
            problems.append(f"fps is {self.fps}; it must be in (0, 1000]")
        if problems:
            raise ConfigError("sampling: " + "; ".join(problems))


@dataclass(frozen=True)
class LatentSpec(PlainRecord):
    """The latent space the model works in."""

    kind: str = "dcae"  # of the table in latent_spaces.py
    channels: int = 32
    spatial_ratio: int = 32  # pixels per latent cell
    scale_factor: float = 0.41407  # of the scaled latents; 1.0 where the space has means and deviations of its own
    working_size: int | None = None  # builtin only: side of the square the model sees, px

    def __post_init__(self):
        problems = []
        space = SPACES.get(self.kind)
        if space is None:
            problems.append(f"kind is {self.kind!r}; known kinds are {', '.join(SPACES)}")
        elif space.mean and (self.channels != space.channels or self.scale_factor != 1.0):
            problems.append(f"kind {self.kind} has {space.channels} channels with their own scales; scale_factor must "
                            "be 1.0")
        if not 1 <= self.channels <= 4096 or not 1 <= self.spatial_ratio <= 256:
            problems.append(f"channels {self.channels}, spatial_ratio {self.spatial_ratio} are out of range")
        if not 0.0 < self.scale_factor <= 1000.0:
            problems.append(f"scale_factor is {self.scale_factor}; it must be in (0, 1000]")
        if (self.kind == "builtin") != (self.working_size is not None):
            problems.append("working_size belongs to kind builtin, and only to it")
        if self.kind == "builtin" and self.scale_factor != 1.0:
            problems.append("kind builtin is not scaled; scale_factor must be 1.0")
        if problems:
            raise ConfigError("latent: " + "; ".join(problems))


@dataclass(frozen=True)
class DynamicsSpec(PlainRecord):
    """How motion strength is measured and cut into buckets (miramo Eq. 13)."""

    num_buckets: int = 20
    degree_min: float = 0.0
    degree_max: float = 1.0
    measure_size: int = 256  # short side in px at which the degree is measured

    def __post_init__(self):
        if not 2 <= self.num_buckets <= 1000:
            raise ConfigError(f"dynamics: num_buckets is {self.num_buckets}; it must be 2 to 1000")
        if not self.degree_min < self.degree_max:
            raise ConfigError(
                f"dynamics: degree_min {self.degree_min} must be below degree_max {self.degree_max}"
            )
        if not 16 <= self.measure_size <= 4096:
            raise ConfigError(f"dynamics: measure_size is {self.measure_size}; it must be 16 to 4096 px")


class ModelSpec:
    """What the specs of all architectures have: `config`, `sampling` and `space`; the rest is theirs who say so.

    dynamics: how motion strength is measured; None for models that are not told any. working_size: side in px of the
    square that the model sees, whatever the photo's size. least_frames: latent frames that a clip must have.
    """

    config: NetworkConfig
    sampling: SamplingDefaults
    space: LatentSpace
    dynamics: DynamicsSpec | None = None
    working_size: int | None = None
    least_frames: int = 1

    def latent_facts(self) -> dict:
        """Plain values of what encoded clips depend on beside the encoders; a training state keeps them."""
        measured = {} if self.dynamics is None else self.dynamics.to_dict()
        space = {"kind": self.space.kind, "channels": self.space.channels, "scale_factor": self.space.scale_factor}
        return {**space, **{f"dynamics {name}": value for name, value in measured.items()}}


@dataclass(frozen=True)
class LinearVideoSpec(ModelSpec):
    """Everything beside the weights; travels as JSON in the safetensors metadata."""

    config: LinearVideoDiTConfig = field(default_factory=LinearVideoDiTConfig)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    latent: LatentSpec = field(default_factory=LatentSpec)
    dynamics: DynamicsSpec = field(default_factory=DynamicsSpec)
    objective: str = "i2v_residual"  # i2v_residual: predicts motion residuals against frame 1; t2v: frames

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective is {self.objective!r}; known are {', '.join(OBJECTIVES)}")
        if self.latent.channels != self.config.in_channels:
            raise ConfigError(
                f"latent has {self.latent.channels} channels, the network {self.config.in_channels}; they must agree"
            )

    @property
    def space(self) -> LatentSpace:
        """The latent space: the table's rules for its kind, with the file's own channels, cells and patches."""
        latent, known = self.latent, SPACES[self.latent.kind]
        if latent.kind == "builtin":
            return known
        multiple = latent.spatial_ratio * self.config.patch_size
        return replace(
            known, channels=latent.channels, spatial_ratio=latent.spatial_ratio, multiple=multiple,
            scale_factor=latent.scale_factor,
        )  # fmt: skip

    @property
    def least_frames(self) -> int:
        """A residual against frame 1 needs a second frame."""
        return 2 if self.objective == "i2v_residual" else 1

    def latent_facts(self) -> dict:
        """See `ModelSpec`."""
        return {**self.latent.to_dict(), **{f"dynamics {name}": v for name, v in self.dynamics.to_dict().items()}}

    @property
    def working_size(self) -> int | None:
        """Side in px of the square that a model in the built-in space sees."""
        return self.latent.working_size

    @classmethod
    def paper_dcae(cls) -> "LinearVideoSpec":
        """MiraMo as the paper describes it: DC-AE f32c32, patch 1, on the SANA-0.6B backbone."""
        return cls()

    @classmethod
    def ref_sdvae_p2(cls) -> "LinearVideoSpec":
        """MiraMo as the published code builds it: SVD VAE with 4 channels, patch 2."""
        return cls(
            config=LinearVideoDiTConfig(in_channels=4, patch_size=2),
            latent=LatentSpec(kind="svd", channels=4, spatial_ratio=8, scale_factor=0.18215),
        )

    def to_metadata(self) -> dict[str, str]:
        """Metadata entries (all strings) that describe this model in a safetensors file."""
        parts = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: part if isinstance(part, str) else part.to_dict() for name, part in parts.items()}
        return {"format_version": str(FORMAT_VERSION), "family": FAMILY, "spec": json.dumps(values)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "LinearVideoSpec":
        """Read what `to_metadata` wrote. Raises CheckpointError for another family or version or bad values."""
        check_version(metadata)
        try:
            values = parse_json(metadata["spec"], allow_constants=True)
        except (KeyError, ValueError) as error:
            raise CheckpointError("metadata entry 'spec' is missing or not JSON; save the file again") from error
        if not isinstance(values, dict):
            raise CheckpointError("metadata entry 'spec' is not a JSON object; save the file again")
        unknown = sorted(set(values) - {item.name for item in fields(cls)})
        if unknown:
            raise CheckpointError(f"metadata entry 'spec' has unknown parts {unknown[:5]}; update the pack")
        types = {"config": LinearVideoDiTConfig, "sampling": SamplingDefaults, "latent": LatentSpec}
        types["dynamics"] = DynamicsSpec
        try:
            return cls(**{k: types[k].from_dict(v) if k in types else v for k, v in values.items()})
        except ConfigError as error:
            raise CheckpointError(f"metadata entry 'spec' is not usable: {error}") from error


def check_version(metadata: dict[str, str]) -> None:
    """Refuse files of another family or of a newer format. Raises CheckpointError."""
    family = metadata.get("family")
    if family != FAMILY:
        raise CheckpointError(f"metadata names the family {str(family)[:60]!r}; this pack reads {FAMILY!r}")
    version = metadata.get("format_version", "")
    if not version.isdecimal() or len(version) > 6:
        raise CheckpointError(f"format_version is {version[:20]!r}; it must be a whole number")
    if int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"made by format version {version}, this pack reads up to {FORMAT_VERSION}; update the pack"
        )
