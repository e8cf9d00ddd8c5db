"""A node that tells whether a video moves like its source, and does not look like it."""

from comfy_api.latest import io, ui

from ..motion.errors import ConfigError
from .host import checks, pixels, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/motion transfer"
ALIGN = ("share of the video", "frame number")
MAX_PROMPT = 4000  # characters


class MeasureMotionTransfer(io.ComfyNode):
    """Motion fidelity, moving tracks, colours taken over, and the scores of a CLIP."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMeasureMotionTransfer",
            display_name="Measure Motion Transfer",
            category=CATEGORY,
            description="Tells whether a video moves like the clip its motion was learned from, and whether it took "
            "over the colours: points are followed through both. With CLIP vision it also tells how alike successive "
            "frames are, and with a CLIP how well the prompt is met.",
            search_aliases=["follow your motion", "motion fidelity", "point tracks", "temporal consistency", "leak"],
            inputs=[
                inp(io.Image.Input, "images", tooltip="Frames of the video that was made, in order; at least 2."),
                inp(
                    io.Image.Input, "source_images",
                    tooltip="Frames of the clip that the motion is of. Another length and size may be given.",
                ),
                inp(
                    io.Image.Input, "base", optional=True,
                    tooltip="The same prompt and seed without the motion LoRA: colours that this has in common with "
                    "the source do not count as taken over.",
                ),
                inp(
                    io.ClipVision.Input, "clip_vision", optional=True,
                    tooltip="Any CLIP vision, from Load CLIP Vision. Scores of different ones cannot be compared; the "
                    "report says which this is.",
                ),
                inp(
                    io.Clip.Input, "clip", optional=True,
                    tooltip="The text half of the same CLIP, for the text score; not the text encoder of Wan.",
                ),
                inp(
                    io.String.Input, "prompt", default="", multiline=True, optional=True,
                    tooltip="What the video should show, for the text score.",
                ),
                inp(
                    io.String.Input, "source_tracks", default="", force_input=True, optional=True,
                    tooltip="Tracks of the source from another tracker, such as CoTracker: JSON, a list of tracks, "
                    'each a list of {"x", "y"} in px, a point for each frame. Without them ours follows a grid.',
                ),
                inp(
                    io.String.Input, "tracks", default="", force_input=True, optional=True,
                    tooltip="Tracks of images by the same tracker; both or neither.",
                ),
                inp(
                    io.Combo.Input, "align", options=list(ALIGN), default=ALIGN[0], optional=True,
                    tooltip="share of the video: first beside first, last beside last, for videos of different length. "
                    "frame number: frame 5 beside frame 5, up to the end of the shorter.",
                ),
            ],
            outputs=[
                out(io.String, "report", "All figures as text."),
                out(io.String, "figures", "All figures as JSON; null where one was not measured."),
                out(io.Image, "picture", "Frames of both videos, with the ways of the points that move."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, source_images, base=None, clip_vision=None, clip=None, prompt="", source_tracks="", tracks="",
        align=ALIGN[0],
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.metrics.transfer_report import measure_motion_transfer
        from .host.clip_scores import clip_scores

        by_share = checks.choose("align", align, ALIGN) == ALIGN[0]
        text = checks.whole_text("prompt", prompt)[:MAX_PROMPT]
        made, source = pixels.moving_frames(images, "images"), pixels.moving_frames(source_images, "source_images")
        beside = None if base is None else pixels.moving_frames(base, "base")
        given = _given_tracks(source, made, source_tracks, tracks)
        scores = clip_scores(made, clip_vision, clip, text)
        report, picture = measure_motion_transfer(
            made, source, beside, tracks=given, clip=scores, by_share=by_share, on_step=progress.progress_step()
        )
        shown = text_under(cls, report.text())
        looked = ui.PreviewImage(picture, cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(shown.value, report.to_json(), picture, ui=looked)


def _given_tracks(source, made, source_tracks: str, tracks: str):
    """Both clips' tracks by another tracker; None where ours is to follow them. Raises ConfigError."""
    from ..motion.metrics.point_tracks import read_tracks

    texts = {name: checks.whole_text(name, text or "").strip()
             for name, text in (("source_tracks", source_tracks), ("tracks", tracks))}  # fmt: skip
    if not any(texts.values()):
        return None
    missing = next((name for name, text in texts.items() if not text), None)
    if missing is not None:
        raise ConfigError(f"{missing} is empty; tracks of one tracker are compared: connect both, or neither")
    clips = {"source_tracks": source, "tracks": made}
    return tuple(read_tracks(text, *clips[name].shape[:3], name) for name, text in texts.items())
