"""Nodes that measure how much a video moves."""

from comfy_api.latest import io, ui

from ..motion.errors import ShapeError
from . import _convert, _host
from ._compat import inp, out, schema, unique_id

CATEGORY = "MotionBlocks/measuring"


def describe(report, num_frames: int) -> str:
    """The report as lines of text."""
    flow = "not measured (install opencv-python-headless)" if report.flow_px is None else f"{report.flow_px:.2f} px"
    return (
        f"{num_frames} frames: bucket {report.bucket} of 19, dynamics degree {report.degree:.4f} (1 - MS-SSIM)\n"
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
                    tooltip="Short side in px at which it is measured. Degrees of different sizes cannot be compared; "
                    "MiraMo files use 256.",
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
    def execute(cls, frames, measure_size=256) -> io.NodeOutput:
        from ..motion.metrics.dynamics import measure_dynamics

        _host.in_range("measure_size", measure_size, 16, 2048)
        clip = _convert.rgb_frames(frames, "frames")
        if clip.shape[0] < 2:
            raise ShapeError(f"frames holds {clip.shape[0]} image; at least 2 are needed to see motion; give a video")
        report = measure_dynamics(clip, measure_size=measure_size)
        text = describe(report, clip.shape[0])
        _host.show_text(text, unique_id(cls))
        return io.NodeOutput(report.bucket, report.degree, text, ui=ui.PreviewText(text))
