"""Nodes that measure how much a video moves."""

from comfy_api.latest import io

from ..motion.errors import ConfigError
from . import _convert, _host
from ._compat import inp, out, schema
from ._text_under import text_under

CATEGORY = "MotionBlocks/measuring"


def describe(report, num_frames: int, num_buckets: int, measure_size: int) -> str:
    """The report as lines of text."""
    flow = "not measured (install opencv-python-headless)" if report.flow_px is None else f"{report.flow_px:.2f} px"
    return (
        f"{num_frames} frames: bucket {report.bucket} of 0 to {num_buckets - 1}, dynamics degree {report.degree:.4f} "
        f"(1 - MS-SSIM at {measure_size} px)\n"
        f"mean absolute difference {report.mean_absolute_difference:.4f}, median optical flow per frame {flow}"
    )


class MeasureDynamics(io.ComfyNode):
    """How much a video moves, by structure, by difference and, with cv2, by optical flow."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMeasureDynamics",
            display_name="Measure Dynamics",
            category=CATEGORY,
            description="Measures how much a video moves: the dynamics bucket the same motion would have, its degree "
            "(1 - MS-SSIM of neighbouring frames), mean difference, and optical flow where OpenCV is installed.",
            search_aliases=["motion score", "ms-ssim", "optical flow", "bucket"],
            inputs=[
                inp(io.Image.Input, "frames", tooltip="Frames of one video, in order; at least 2."),
                inp(
                    io.Int.Input, "measure_size", default=256, min=16, max=2048, step=16, optional=True,
                    tooltip="Short side in px at which it is measured. Degrees of different sizes cannot be compared. "
                    "Without effect when a model is connected.",
                ),
                inp(
                    io.Model.Input, "model", optional=True,
                    tooltip="Measure on the scale of this MotionBlocks model, so that bucket compares with its "
                    "dynamics slider: size, range and buckets from its file.",
                ),
            ],
            outputs=[
                out(io.Int, "bucket", "Slider position that stands for this much motion, 0 to 19."),
                out(io.Float, "degree", "1 - mean MS-SSIM of neighbouring frames; 0 = still."),
                out(io.String, "report", "All figures as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, frames, measure_size=256, model=None) -> io.NodeOutput:
        from ..motion.metrics.dynamics import measure_dynamics

        _host.in_range("measure_size", measure_size, 16, 2048)
        clip = _convert.moving_frames(frames, "frames")
        scale = _scale(model, measure_size)
        report = measure_dynamics(clip, spec=scale)
        text = describe(report, clip.shape[0], scale.num_buckets, scale.measure_size)
        shown = text_under(cls, text)
        return io.NodeOutput(report.bucket, report.degree, shown.value, ui=shown)


def _scale(model, measure_size: int):
    """The model's own DynamicsSpec, or twenty buckets over [0, 1] at measure_size. Raises ConfigError."""
    from ..motion.models.motion_model import DynamicsSpec
    from ._model import spec_of

    if model is None:
        return DynamicsSpec(measure_size=measure_size)
    spec = spec_of(model)
    if spec is None:
        raise ConfigError("this model's file has no dynamics scale of its own; leave model unconnected")
    return spec.dynamics
