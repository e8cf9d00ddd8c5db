"""Nodes that measure how much a video moves."""

from comfy_api.latest import io

from ..motion.errors import ConfigError
from .host import checks, pixels, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/measuring"


FLOW = ("auto", "on", "off")


def describe(report, num_frames: int, scale, *, letterbox: bool = False, model_name: str = "") -> str:
    """The report as lines of text; nothing of flow where none was measured."""
    shape = ", the whole picture in a square" if letterbox else ""
    lines = [
        f"{num_frames} frames: bucket {report.bucket} of 0 to {scale.num_buckets - 1} for this picture, dynamics "
        f"degree {report.degree:.4f} (1 - MS-SSIM at {scale.measure_size} px{shape})",
        f"mean absolute difference {report.mean_absolute_difference:.4f}",
    ]
    if report.flow_px is not None:
        lines[1] += f", median optical flow per frame {report.flow_px:.2f} px"
    if report.way_percent is not None:
        lines.append(f"the picture as a whole moves by {report.way_percent:.1f} % of its long side over the clip")
        lines += _like_sliders(model_name, report.way_percent)
    return "\n".join(lines)


def _like_sliders(model_name: str, way: float) -> list[str]:
    """Which dynamics of a built-in model moves the camera as far, whatever the picture shows."""
    from ..motion.metrics.slider_flow import like_sliders

    places = like_sliders(model_name, way)
    if not places:
        return []
    moves = ", ".join(f"{move} {place:.0f}" for move, place in places.items())
    return [f"{model_name} moves as far at dynamics: {moves}"]


class MeasureDynamics(io.ComfyNode):
    """How much a video moves, by structure, by difference and, with cv2, by optical flow."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMeasureDynamics",
            display_name="Measure Dynamics",
            category=CATEGORY,
            description="Measures how much a video moves: the dynamics bucket of this motion on this picture, its "
            "degree (1 - MS-SSIM of neighbouring frames), mean difference, and where OpenCV is installed the optical "
            "flow, which does not depend on what the picture shows.",
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
                    tooltip="Measure on the scale of this MotionBlocks model: size, range and buckets from its file. "
                    "Wan has none: it is measured as without a model. "
                    "With a built-in model the whole picture counts, as in its training, and the flow is compared with "
                    "its dynamics slider.",
                ),
                inp(
                    io.Combo.Input, "flow", options=list(FLOW), default="auto", optional=True,
                    tooltip="Optical flow, which needs OpenCV. auto: where it is installed. on: always, so the node "
                    "says what is missing. off: never, which is faster.",
                ),
            ],
            outputs=[
                out(io.Int, "bucket", "Slider position that this much motion stands for on this picture, 0 to 19."),
                out(io.Float, "degree", "1 - mean MS-SSIM of neighbouring frames; 0 = still."),
                out(io.String, "report", "All figures as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, frames, measure_size=256, model=None, flow="auto") -> io.NodeOutput:
        from ..motion.metrics.dynamics import measure_dynamics
        from ..motion.metrics.optical_flow import need_cv2

        checks.in_range("measure_size", measure_size, 16, 2048)
        if checks.choose("flow", flow, FLOW) == "on":
            need_cv2()
        clip = pixels.moving_frames(frames, "frames")
        scale, letterbox = _scale(model, measure_size)
        report = measure_dynamics(
            clip, spec=scale, letterbox=letterbox, with_flow=flow != "off", on_step=progress.progress_step()
        )
        name = getattr(model.model, "file_name", "") if model is not None else ""
        text = describe(report, clip.shape[0], scale, letterbox=letterbox, model_name=name)
        shown = text_under(cls, text)
        return io.NodeOutput(report.bucket, report.degree, shown.value, ui=shown)


def _scale(model, measure_size: int):
    """DynamicsSpec, and whether the whole picture counts: the model's, or 20 buckets over [0, 1] at a short side.

    Raises ConfigError for a model without a scale.
    """
    from ..motion.models.model_spec import DynamicsSpec
    from .models.base import spec_of
    from .models.native_wan import find_native_wan

    if model is None or find_native_wan(model) is not None:
        return DynamicsSpec(measure_size=measure_size), False
    spec = spec_of(model)
    if spec is None or spec.dynamics is None:
        raise ConfigError("this model's file has no dynamics scale of its own; leave model unconnected")
    return spec.dynamics, spec.space.kind == "builtin"
