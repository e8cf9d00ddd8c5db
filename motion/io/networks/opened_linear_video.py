"""Linear video models among the weights of all architectures: MiraMo's layout, and files of our own."""

from dataclasses import dataclass

from ...errors import CheckpointError
from ...models.linear_video.architecture import LINEAR_VIDEO
from .linear_video import checked_linear_video, says_its_spec
from .video_model_file import OpenedVideoModel, VideoModelFile, origin_of


@dataclass(frozen=True)
class OpenedLinearVideo(OpenedVideoModel):
    """Its headers are checked when it is read, before a tensor is."""

    def _read(self, on_bytes) -> VideoModelFile:
        source = self.source
        file = checked_linear_video(source.path, source.shapes, source.metadata, lambda: source.read(on_bytes))
        saved = "saved by MotionBlocks" if says_its_spec(source.metadata) else "MiraMo layout"
        title = f"{LINEAR_VIDEO.title} ({saved}, {file.spec.objective})"
        return VideoModelFile(LINEAR_VIDEO, file.spec, file.state_dict, title, origin=origin_of(source.metadata))

    def describe(self) -> str:
        """Nothing: its own reader says more of it. Raises CheckpointError."""
        raise CheckpointError(f"{self.source.path}: a linear video model; choose its .safetensors file")
