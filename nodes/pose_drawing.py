"""Nodes that fit poses to a picture and draw them."""

from comfy_api.latest import io, ui

from ..motion.errors import ConfigError, ShapeError
from .host import checks, devices, pixels, progress
from .host.compat import inp, out, schema
from .host.poses import MAX_SIDE, POSE_KEYPOINT, canvas_of, confidence_input, given_size, read
from .host.text_under import text_under

CATEGORY = "MotionBlocks/poses"
FITS = ("limb", "global", "none")
FILLS = ("pad", "crop")
MAX_FRAME = 9_999
PREVIEW = 8  # pictures


class RetargetPoses(io.ComfyNode):
    """Poses fitted to the body, place and canvas of a reference."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksRetargetPoses",
            display_name="Retarget Poses",
            category=CATEGORY,
            description="Fits poses to the body in your picture: its size, place and proportions. No bone grows beyond "
            "twice its person's scale, so arms never stretch. Frames and people stay as they are. Shows the "
            "result over the picture.",
            search_aliases=["fit poses", "pose alignment", "body proportions", "reference pose", "retarget skeleton"],
            inputs=[
                inp(POSE_KEYPOINT.Input, "poses", tooltip="The poses that move, best from Clean Poses."),
                inp(
                    POSE_KEYPOINT.Input, "reference",
                    tooltip="Pose of the picture that is to move, detected as the other poses were. Its first frame "
                    "counts.",
                ),
                inp(
                    io.Image.Input, "picture", optional=True,
                    tooltip="That picture, to see the fitted poses on it. Its size is the canvas where the reference "
                    "does not say its own.",
                ),
                inp(
                    io.Combo.Input, "fit", options=list(FITS), default=FITS[0], optional=True,
                    tooltip="limb: every bone gets the length it has in the reference. global: the person is scaled "
                    "and moved as a whole. none: only the canvas is fitted.",
                ),
                inp(
                    io.Int.Input, "calibration_frame", default=-1, min=-1, max=MAX_FRAME, optional=True,
                    tooltip="Frame, counted from 0, whose pose is that of the reference: lengths are compared there, "
                    "and the person starts from there. -1 = the most alike.",
                ),
                inp(
                    io.Boolean.Input, "keep_feet", default=False, optional=True,
                    tooltip="Put the feet on the reference's ground, once for the clip, so that jumps stay jumps.",
                ),
                inp(
                    io.Boolean.Input, "lock_x", default=False, optional=True,
                    tooltip="Keep the neck where the reference has it, left to right.",
                ),
                inp(
                    io.Boolean.Input, "lock_y", default=False, optional=True,
                    tooltip="Keep the neck where the reference has it, up and down.",
                ),
                confidence_input(),
            ],
            outputs=[
                out(POSE_KEYPOINT, "poses", "Fitted poses, on the reference's canvas."),
                out(
                    io.Image, "overlay",
                    "On the picture: the reference's pose, the calibration frame, then up to 6 frames of the clip.",
                ),
                out(io.String, "report", "Scale, ratios of bones, calibration frame, and who could not be fitted."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, poses, reference, picture=None, fit=FITS[0], calibration_frame=-1, keep_feet=False, lock_x=False,
        lock_y=False, min_confidence=0.3,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.pose.keypoints import Poses
        from ..motion.pose.retarget import describe_fit, retarget

        checks.choose("fit", fit, FITS)
        checks.in_range("calibration_frame", calibration_frame, -1, MAX_FRAME)
        photo = None if picture is None else pixels.start_photo(picture, "picture")[0]
        driving = read(poses, None, min_confidence)
        found = read(reference, None if photo is None else canvas_of(reference, photo), min_confidence)
        first = Poses(found.points[:1], found.width, found.height)
        if photo is not None and photo.shape[:2] != (first.height, first.width):
            raise ShapeError(
                f"picture is {photo.shape[1]}x{photo.shape[0]} px, its pose was detected at "
                f"{first.width}x{first.height}; give the picture that the reference was detected in"
            )
        done = retarget(
            driving, first, mode=fit, calibration=None if calibration_frame < 0 else calibration_frame,
            keep_feet=keep_feet, lock_x=lock_x, lock_y=lock_y,
        )  # fmt: skip
        overlay = _overlay(photo, first, done)
        shown = text_under(cls, describe_fit(done))
        pictures = ui.PreviewImage(overlay, cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(done.poses.to_frames(), overlay, shown.value, ui=pictures)


class DrawPoses(io.ComfyNode):
    """Skeletons as frames."""

    @classmethod
    def define_schema(cls):
        parts = [
            inp(io.Boolean.Input, name, default=True, optional=True, tooltip=f"Draw {text}.")
            for name, text in (
                ("body", "bodies"), ("hands", "hands"), ("face", "the points of faces, eyes and mouths included"),
            )
        ]  # fmt: skip
        return schema(
            node_id="MotionBlocksDrawPoses",
            display_name="Draw Poses",
            category=CATEGORY,
            description="Draws skeletons on black, in the common colours, by one renderer on every machine, for "
            "WanAnimate, VACE, ControlNets and FramePrompt. Or takes skeletons that are pictures already and brings "
            "them to your size.",
            search_aliases=["render skeleton", "openpose image", "draw keypoints", "pose video", "skeleton frames"],
            inputs=[
                inp(POSE_KEYPOINT.Input, "poses", optional=True, tooltip="Poses to draw. Connect these or skeletons."),
                inp(
                    io.Image.Input, "skeletons", optional=True,
                    tooltip="Skeletons that are pictures already, instead of poses: used as they are, only their size "
                    "changes. They can be neither cleaned nor fitted.",
                ),
                *(
                    inp(
                        io.Int.Input, side, default=0, min=0, max=MAX_SIDE, optional=True,
                        tooltip=f"{side.capitalize()} of the frames in px; 0 for both = that of the canvas. Another "
                        "shape is fitted in proportion.",
                    )
                    for side in ("width", "height")
                ),
                *parts,
                inp(
                    io.Combo.Input, "fill", options=list(FILLS), default=FILLS[0], optional=True,
                    tooltip="Only for skeletons of another shape. pad: whole, with black beside them. crop: fill the "
                    "size and cut what is beyond it.", advanced=True,
                ),
                confidence_input(),
            ],
            outputs=[
                out(io.Image, "frames", "A frame for each frame of the poses."),
                out(io.String, "style", "Renderer, parts and line width: keep to those a model was trained on."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, poses=None, skeletons=None, width=0, height=0, body=True, hands=True, face=True, fill=FILLS[0],
        min_confidence=0.3,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.pose.overlay import fit_pictures, spread

        size = given_size(width, height)
        checks.choose("fill", fill, FILLS)
        if (poses is None) == (skeletons is None):
            both = "both are connected" if poses is not None else "neither is connected"
            raise ConfigError(f"Draw Poses draws poses, or takes skeletons; {both}; connect one of the two")
        if skeletons is not None:
            clip = pixels.rgb_frames(skeletons, "skeletons")
            size = size or (clip.shape[2], clip.shape[1])
            _check_room(len(clip), *size)
            frames, style = fit_pictures(clip, *size, fill), "pictures as they came; what drew them is not known"
        else:
            parts = [name for name, wanted in (("body", body), ("hands", hands), ("face", face)) if wanted]
            frames, style = _drawn(read(poses, None, min_confidence), size, parts)
        text = f"{len(frames)} frames, {frames.shape[2]}x{frames.shape[1]} px\n{style}"
        shown = text_under(cls, text)
        pictures = ui.PreviewImage(frames[spread(len(frames), PREVIEW)], cls=cls).as_dict() | shown.as_dict()
        return io.NodeOutput(frames, style, ui=pictures)


def _overlay(photo, reference, done):
    """The reference's pose, the calibration frame and up to 6 frames, each over the picture or black: (t, h, w, 3)."""
    import torch

    from ..motion.pose.overlay import lay_over, spread
    from ..motion.pose.report import DrawnPoses

    side = max(reference.width, reference.height)
    own, fitted = DrawnPoses(reference, side), DrawnPoses(done.poses, side)
    frames = [next((frame for frame in done.calibration if frame is not None), 0)]
    frames += spread(len(done.poses.points), PREVIEW - 2)
    drawn = [own[0]] + [fitted[frame] for frame in frames]
    if photo is None:
        return torch.stack(drawn)
    return torch.stack([lay_over(photo.cpu(), skeleton) for skeleton in drawn])


def _drawn(poses, size, parts):
    """Frames (t, h, w, 3) of poses at a size, and the style they are drawn in."""
    import torch

    from ..motion.pose.keypoints import Poses
    from ..motion.pose.renderer import RENDERER_ID, draw_people, line_width
    from ..motion.pose.retarget import retarget

    if size is not None and size != (poses.width, poses.height):
        nobody = Poses(poses.points[:1, :0], *size)
        poses = retarget(poses, nobody, mode="none").poses
    width, height = poses.width, poses.height
    if max(width, height) > MAX_SIDE:
        raise ShapeError(f"the canvas is {width}x{height} px; at most {MAX_SIDE} are drawn; give width and height")
    _check_room(len(poses.points), width, height)
    frames = torch.zeros(len(poses.points), height, width, 3)
    on_step = progress.progress_step()
    for t, (points, present) in enumerate(zip(poses.points, poses.present)):
        people = [torch.from_numpy(person) for person in points[present]]
        frames[t] = draw_people(people, height, width, parts=parts).movedim(0, -1)
        on_step(t + 1, len(frames))
    wide = line_width(height, width)
    return frames, f"renderer {RENDERER_ID}, {', '.join(parts) or 'nothing'}, limbs {wide:.1f} px wide"


def _check_room(num_frames: int, width: int, height: int) -> None:
    devices.check_fits(f"{num_frames} frames of {width}x{height} px", 12 * num_frames * width * height)
