"""What the user asked of a training, checked before anything is computed."""

from dataclasses import dataclass

from torch import Tensor

from ...motion.data.clips import ClipCollection
from ...motion.data.windows import WindowConfig
from ...motion.errors import ConfigError
from ...motion.models.model_spec import LinearVideoSpec
from ...motion.training.config import TrainingConfig
from ..host import pixels
from ..models.base import architecture_of, spec_of
from ..sampling import flow_shift
from .folders import RunFolders, plan_run
from .settings import read_settings


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked."""

    model: object
    clip: object
    vae: object
    clips: ClipCollection
    spec: LinearVideoSpec
    config: TrainingConfig
    windows: WindowConfig
    folders: RunFolders
    allow_changes: bool
    photo: Tensor | None  # (1, h, w, 3) in [0, 1]
    sample_text: str
    shift: float


def read_request(model, clip, vae, clips, settings: dict) -> Request:
    """Check everything that can be checked before anything is computed. Raises ConfigError and ShapeError."""
    architecture, spec = architecture_of(model), spec_of(model)
    if architecture is None or architecture.training is None:
        raise ConfigError(
            "model is not a linear video model that is trained here (SANA-Video is not); connect one from Load Motion "
            "Model, Inflate Image Model or Load Built-in Motion Model, or train others with the core node Train LoRA"
        )
    check_clips(clips)
    read = read_settings(settings, flow_shift(model))
    photo = settings.get("sample_photo")
    if photo is not None and spec.objective == "t2v":
        raise ConfigError("this model makes videos from text alone; leave sample_photo unconnected")
    return Request(
        model=model, clip=clip, vae=vae, clips=clips, spec=spec, config=read.config, windows=read.windows,
        folders=plan_run(read.file_prefix, read.config.adapter.mode, read.resume_from),
        allow_changes=read.allow_changes, photo=None if photo is None else pixels.start_photo(photo, "sample_photo"),
        sample_text=read.sample_text, shift=read.shift,
    )  # fmt: skip


def check_clips(clips) -> None:
    """Raises ConfigError for anything but a clip collection."""
    if not isinstance(clips, ClipCollection):
        raise ConfigError(f"clips is {type(clips).__name__}; connect the clips output of Load Clips or Generate Clips")
