"""Nodes that judge videos: how good one is, and several side by side."""

from comfy_api.latest import io, ui

from ..kernels.foreign_text import safe_text
from .host import checks, pixels, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/measuring"
MISSING = -1.0
BEST_DB = 100.0  # stands for equal pictures, whose PSNR is infinite
LETTERS = "abcd"
MAX_LABEL = 200  # characters
ALIGN = ("frame number", "share of the video")


class MeasureQuality(io.ComfyNode):
    """First frame, colour, flicker, motion and its evenness of one video, as numbers."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksMeasureQuality",
            display_name="Measure Quality",
            category=CATEGORY,
            description="Measures how good a video is: whether frame 1 is the photo, how colours drift, how much it "
            "flickers, how fast and evenly it moves, and whether it moves the way the text says. Figures of motion "
            "need OpenCV; without it they are -1 and the report says so.",
            search_aliases=["psnr", "delta e", "flicker", "colour drift", "smoothness", "video quality", "vbench"],
            inputs=[
                inp(io.Image.Input, "frames", tooltip="Frames of one video, in order; at least 2, 3 for flicker."),
                inp(
                    io.Image.Input, "photo", optional=True,
                    tooltip="The photo that frame 1 should show. Another size of the same shape is resized.",
                ),
                inp(
                    io.String.Input, "motion", default="", optional=True,
                    tooltip="What should happen, e.g. 'pan left, zoom in' or 'still'; empty = do not check. Known: pan "
                    "left/right/up/down, zoom in/out, rotate left/right, still.",
                ),
            ],
            outputs=[
                out(io.Float, "psnr_db", "Frame 1 against the photo in dB; 100 = equal, -1 = no photo."),
                out(io.Float, "delta_e", "The same as mean colour difference (CIEDE2000); -1 = no photo."),
                out(io.Float, "colour_drift", "Largest difference of the mean colour from frame 1 (CIEDE2000)."),
                out(io.Float, "flicker", "Unsteady brightness, % of white; -1 = fewer than 3 frames."),
                out(io.Float, "motion_px", "Median optical flow, px per frame; -1 = not measured."),
                out(io.Float, "moving_share", "Share of the frames that move, 0 to 1; -1 = not measured."),
                out(io.Float, "smoothness_db", "How well neighbours foretell a frame, dB; -1 = not measured."),
                out(io.Float, "direction", "1 = moves as the text says, 0 = does not, -1 = not checked."),
                out(io.String, "report", "All figures as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, frames, photo=None, motion="") -> io.NodeOutput:
        from ..motion.metrics.quality import check_frames, describe, measure_quality

        clip = pixels.rgb_frames(frames, "frames")
        check_frames(clip)
        start = None if photo is None else pixels.start_photo(photo, "photo")
        report = measure_quality(clip, photo=start, motion=motion.strip() or None, on_step=progress.progress_step())
        shown = text_under(cls, describe(report))
        agrees = report.direction_agrees
        figures = (
            _decibel(report.psnr_db), _known(report.delta_e), report.max_drift, _known(report.flicker_percent),
            _known(report.flow_px), _known(report.moving_share), _decibel(report.smoothness_db),
            MISSING if agrees is None else float(agrees),
        )  # fmt: skip
        return io.NodeOutput(*figures, shown.value, ui=shown)


class CompareVideos(io.ComfyNode):
    """Two to four videos as a contact sheet, a plot of their curves and a table."""

    @classmethod
    def define_schema(cls):
        videos = [
            inp(
                io.Image.Input, f"video_{letter}", optional=index > 1,
                tooltip="Frames of a video, in order; at least 2. Sizes and lengths may differ.",
            )
            for index, letter in enumerate(LETTERS)
        ]  # fmt: skip
        labels = [
            inp(
                io.String.Input, f"label_{letter}", default="", optional=True,
                tooltip=f"Name of video_{letter} in the pictures; empty = {letter.upper()}.",
            )
            for letter in LETTERS
        ]  # fmt: skip
        return schema(
            node_id="MotionBlocksCompareVideos",
            display_name="Compare Videos",
            category=CATEGORY,
            description="Sets two to four videos side by side: rows of evenly spaced frames, curves of motion, colour "
            "drift, flicker and sharpness, and a table. Frames are never stretched.",
            search_aliases=["contact sheet", "filmstrip", "plot", "side by side", "compare clips"],
            inputs=[
                *videos,
                *labels,
                inp(
                    io.Int.Input, "columns", default=6, min=2, max=12, optional=True,
                    tooltip="Frames in a row of the contact sheet.",
                ),
                inp(
                    io.Int.Input, "cell_size", default=256, min=64, max=512, step=16, optional=True,
                    tooltip="Long side of a frame in the contact sheet, px.",
                ),
                inp(
                    io.Combo.Input, "align", options=list(ALIGN), default=ALIGN[0], optional=True,
                    tooltip="frame number: frame 5 beside frame 5; a shorter video ends early. share of the video: "
                    "first beside first, last beside last, for videos of different length or frame rate.",
                ),
            ],
            outputs=[
                out(io.Image, "contact_sheet", "Rows of evenly spaced frames, one row a video."),
                out(io.Image, "plot", "Curves of motion, colour drift, flicker and sharpness."),
                out(io.String, "table", "The figures of every video as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, video_a, video_b, video_c=None, video_d=None, label_a="", label_b="", label_c="", label_d="", columns=6,
        cell_size=256, align=ALIGN[0],
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.metrics.comparison import compare_clips

        checks.in_range("columns", columns, 2, 12)
        checks.in_range("cell_size", cell_size, 64, 512)
        by_share = checks.choose("align", align, ALIGN) == ALIGN[1]
        given = zip(LETTERS, (video_a, video_b, video_c, video_d), (label_a, label_b, label_c, label_d))
        found = [(pixels.moving_frames(video, f"video_{letter}"), _label(label, letter))
                 for letter, video, label in given if video is not None]  # fmt: skip
        clips, names = zip(*found)
        made = compare_clips(
            clips, names, num_columns=columns, cell=cell_size, by_share=by_share, on_step=progress.progress_step()
        )
        table = text_under(cls, made.table)
        sheet, plot = (ui.PreviewImage(picture, cls=cls).as_dict() for picture in (made.contact_sheet, made.plot))
        shown = sheet | {"images": [*sheet["images"], *plot["images"]]} | table.as_dict()
        return io.NodeOutput(made.contact_sheet, made.plot, table.value, ui=shown)


def _label(text: str, letter: str) -> str:
    """A video's name in the pictures and the table: the user's own, or its letter."""
    return safe_text(text, limit=MAX_LABEL).strip() or letter.upper()


def _known(value: float | None) -> float:
    return MISSING if value is None else float(value)


def _decibel(value: float | None) -> float:
    return MISSING if value is None else min(BEST_DB, value)
