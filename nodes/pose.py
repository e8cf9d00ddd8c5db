"""Nodes for poses of people: read, clean, save, report. POSE_KEYPOINT is core's own type."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..motion.errors import CheckpointError, ConfigError
from ..motion.limits import MAX_FPS
from .host import checks, folders, progress
from .host.compat import inp, out, schema
from .host.poses import POSE_KEYPOINT, confidence_input, given_size, measured, read, shown_sheet, size_inputs
from .host.text_under import text_under

CATEGORY = "MotionBlocks/poses"
SHIPPED_POSES = Path(__file__).resolve().parents[1] / "assets" / "poses"
SHIPPED = "shipped: "
FIRST = SHIPPED + "walk.json"
PREFIX = "motionblocks/poses/my_poses"
EVERYBODY, LARGEST, BY_NUMBER = PERSONS = ("everybody", "largest", "by number")
POLYNOMIAL, ONE_EURO, NO_SMOOTHING = SMOOTHINGS = ("polynomial", "one-euro", "none")
SCORES, BINARY = CONFIDENCES = ("0 to 1", "0 and 1")
MAX_COUNT = 10_000  # frames, people


def pose_names() -> list[str]:
    """Poses that come with the pack, then JSON files and folders of them in the host's input folder."""
    from ..motion.io.pose_files import pose_file_names

    return [SHIPPED + name for name in pose_file_names(SHIPPED_POSES)] + pose_file_names(folders.input_folder())


def pose_path(name: str) -> Path:
    """Where a listed file or folder lies. Raises ConfigError for one that leads out, CheckpointError where it is not.

    The name need not be in the list: of a folder with many files not all are.
    """
    if name.startswith(SHIPPED):
        path = folders.safe_join(SHIPPED_POSES, name.removeprefix(SHIPPED))
    else:
        path = folders.safe_join(folders.input_folder(), name)
    if not path.exists():
        raise CheckpointError(
            f"{name[:80]!r} is not in ComfyUI's input folder; put a .json file of poses, or a folder of them, there "
            "and refresh the node definitions (press R)"
        )
    return path


class LoadPoses(io.ComfyNode):
    """A pose file, or a folder of them, as POSE_KEYPOINT."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadPoses",
            display_name="Load Poses",
            category=CATEGORY,
            description="Reads poses of people from JSON: what SDPose, DWPose and OpenPose nodes save, and OpenPose's "
            "own files, one for a clip or a folder with one for each frame. Hands go to the nearer wrist, and people "
            "keep their identity over the frames.",
            search_aliases=["openpose json", "dwpose", "keypoints", "skeleton file", "pose_keypoint"],
            inputs=[
                inp(
                    io.Combo.Input, "file", options=pose_names(), default=FIRST,
                    tooltip="Poses that come with the pack, or a .json file, or a folder of them, in ComfyUI's input "
                    "folder. After adding one, refresh the node definitions (press R).",
                ),
                *size_inputs("they were"),
                confidence_input(),
            ],
            outputs=[
                out(POSE_KEYPOINT, "poses", "The poses, in pixels, every part in full; for any pose node."),
                out(io.String, "report", "People, gaps, jitter and limb lengths as text."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file):
        try:
            return True if file is None else bool(pose_path(file))
        except (ConfigError, CheckpointError) as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, file, width=0, height=0, min_confidence=0.3):
        try:
            return f"{file} {width} {height} {min_confidence} {folders.stamp(pose_path(file))}"
        except (ConfigError, CheckpointError):
            return file

    @classmethod
    def execute(cls, file, width=0, height=0, min_confidence=0.3) -> io.NodeOutput:
        from ..motion.io.pose_files import read_pose_file

        size = given_size(width, height)
        sure = checks.in_range("min_confidence", min_confidence, 0.0, 1.0)
        found = read_pose_file(pose_path(file), size=size, min_confidence=sure)
        text = measured(found)
        return io.NodeOutput(found.to_frames(), text, ui=shown_sheet(cls, text, (Path(file).name, found)))


class CleanPoses(io.ComfyNode):
    """Poses without gaps and jitter, of one person or all, at another frame rate."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksCleanPoses",
            display_name="Clean Poses",
            category=CATEGORY,
            description="Picks who counts, closes short gaps, takes out jitter without lag, and resamples to another "
            "frame rate. Poses of any tool: SDPose, DWPose, OpenPose, Load Poses.",
            search_aliases=["smooth poses", "pose jitter", "fill gaps", "person", "resample fps"],
            inputs=[
                inp(POSE_KEYPOINT.Input, "poses", tooltip="POSE_KEYPOINT of SDPose, DWPose, OpenPose or Load Poses."),
                inp(
                    io.Float.Input, "fps", default=16.0, min=1.0, max=MAX_FPS, step=1.0,
                    tooltip="Frames per second of these poses: those of the video they were detected in.",
                ),
                inp(
                    io.Float.Input, "new_fps", default=0.0, min=0.0, max=MAX_FPS, step=1.0, optional=True,
                    tooltip="Resample to so many frames per second, e.g. 16 for Wan; 0 = keep every frame.",
                ),
                inp(
                    io.Combo.Input, "person", options=list(PERSONS), default=EVERYBODY, optional=True,
                    tooltip="everybody; largest: who fills most of the clip, followed through it; by number: the one "
                    "of person_number.",
                ),
                inp(
                    io.Int.Input, "person_number", default=0, min=0, max=MAX_COUNT, optional=True,
                    tooltip="Counted from 0 in the order of appearance, as Pose Report lists them. Only for 'by "
                    "number'.",
                ),
                inp(
                    io.Combo.Input, "smoothing", options=list(SMOOTHINGS), default=POLYNOMIAL, optional=True,
                    tooltip="polynomial: a parabola through 5 frames below 20 fps, 7 above, weighted by confidence; "
                    "nothing lags. one-euro: looks back only and lags, as live demos do (1 Hz, and 1.5 Hz more for "
                    "each body height a second). none: only gaps and frame rate.",
                ),
                inp(
                    io.Int.Input, "max_gap", default=4, min=0, max=MAX_COUNT, optional=True,
                    tooltip="Points missing for up to so many frames are filled, on straight lines; longer gaps stay.",
                ),
                *size_inputs("the poses were"),
                confidence_input(),
            ],
            outputs=[
                out(POSE_KEYPOINT, "poses", "Clean poses, in pixels, every part in full."),
                out(io.String, "report", "People, gaps and jitter before and after, limb lengths."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, poses, fps=16.0, new_fps=0.0, person=EVERYBODY, person_number=0, smoothing=POLYNOMIAL, max_gap=4, width=0,
        height=0, min_confidence=0.3,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.pose import smoothing as filters
        from ..motion.pose.keypoints import pick_person

        checks.in_range("fps", fps, 1.0, MAX_FPS)
        checks.in_range("new_fps", new_fps, 1.0 if new_fps else 0.0, MAX_FPS)
        checks.in_range("max_gap", max_gap, 0, MAX_COUNT)
        raw = read(poses, given_size(width, height), min_confidence)
        if checks.choose("person", person, PERSONS) != EVERYBODY:
            raw = pick_person(raw, person_number if person == BY_NUMBER else None)
        done = filters.fill_gaps(raw, max_gap)
        if checks.choose("smoothing", smoothing, SMOOTHINGS) == POLYNOMIAL:
            done = filters.smooth(done, fps)
        elif smoothing == ONE_EURO:
            done = filters.smooth_one_euro(done, fps)
        text = measured(done, raw)
        done = filters.resample(done, fps, new_fps or fps)
        if len(done.points) != len(raw.points):
            text += f"\nresampled to {len(done.points)} frames at {new_fps:g} fps"
        return io.NodeOutput(done.to_frames(), text, ui=shown_sheet(cls, text, ("before", raw), ("after", done)))


class SavePoses(io.ComfyNode):
    """Poses as a JSON file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksSavePoses",
            display_name="Save Poses",
            category=CATEGORY,
            description="Saves poses as one JSON file that other tools read: POSE_KEYPOINT, a frame a line, in pixels, "
            "every part in full. Reading it again gives the same numbers.",
            search_aliases=["export openpose json", "write keypoints", "save skeleton"],
            inputs=[
                inp(POSE_KEYPOINT.Input, "poses", tooltip="POSE_KEYPOINT of any node."),
                inp(
                    io.String.Input, "filename_prefix", default=PREFIX,
                    tooltip="Folder and name inside the output folder; a number is added and no file is replaced.",
                ),
                inp(
                    io.Combo.Input, "confidences", options=list(CONFIDENCES), default=SCORES, optional=True,
                    tooltip="0 to 1: as they are. 0 and 1: for readers that drop every point below 1, such as "
                    "comfyui_controlnet_aux's.",
                ),
                *size_inputs("the poses were"),
                confidence_input(),
            ],
            outputs=[out(io.String, "path", "Full path of the saved file.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, poses, filename_prefix=PREFIX, confidences=SCORES, width=0, height=0, min_confidence=0.3
    ) -> io.NodeOutput:
        from ..motion.io.files.atomic import make_folder
        from ..motion.io.pose_files import write_pose_file
        from .training_run.folders import numbered_output

        binary = checks.choose("confidences", confidences, CONFIDENCES) == BINARY
        found = read(poses, given_size(width, height), min_confidence)
        target = numbered_output(filename_prefix, ".json")
        make_folder(target.parent)
        path = write_pose_file(target, found, binary=binary, overwrite=False)
        return io.NodeOutput(str(path), ui=shown_sheet(cls, f"saved: {path}\n{measured(found)}", (path.name, found)))


class PoseReport(io.ComfyNode):
    """Figures and a contact sheet of poses."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksPoseReport",
            display_name="Pose Report",
            category=CATEGORY,
            description="Tells what poses hold: people and when they are there, gaps, jitter before and after, lengths "
            "of limbs, and shows evenly spaced frames.",
            search_aliases=["pose statistics", "pose contact sheet", "jitter", "limb lengths", "how many people"],
            inputs=[
                inp(POSE_KEYPOINT.Input, "poses", tooltip="POSE_KEYPOINT of any node."),
                inp(
                    POSE_KEYPOINT.Input, "before", optional=True,
                    tooltip="The same poses before they were cleaned or fitted, to compare with.",
                ),
                inp(
                    io.Int.Input, "columns", default=6, min=2, max=12, optional=True,
                    tooltip="Frames in a row of the contact sheet.",
                ),
                inp(
                    io.Int.Input, "cell_size", default=256, min=64, max=512, step=16, optional=True,
                    tooltip="Long side of a frame in the contact sheet, px.",
                ),
                *size_inputs("the poses were"),
                confidence_input(),
            ],
            outputs=[
                out(io.Image, "contact_sheet", "Evenly spaced frames; with before, a row of those above."),
                out(io.String, "report", "All figures as text."),
                out(io.Int, "people", "How many people there are in the clip."),
                out(io.Float, "jitter", "Mean second difference of body points, px; 0 = perfectly steady."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, poses, before=None, columns=6, cell_size=256, width=0, height=0, min_confidence=0.3
    ) -> io.NodeOutput:
        from ..motion.pose.report import pose_sheet
        from ..motion.pose.smoothing import jitter

        checks.in_range("columns", columns, 2, 12)
        checks.in_range("cell_size", cell_size, 64, 512)
        size = given_size(width, height)
        found = read(poses, size, min_confidence)
        earlier = None if before is None else read(before, size, min_confidence)
        rows = [("poses", found)] if earlier is None else [("before", earlier), ("after", found)]
        sheet = pose_sheet(rows, columns=columns, cell=cell_size, on_step=progress.progress_step())
        shown = text_under(cls, measured(found, earlier))
        pictures = ui.PreviewImage(sheet, cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(sheet, shown.value, found.points.shape[1], jitter(found), ui=pictures)
