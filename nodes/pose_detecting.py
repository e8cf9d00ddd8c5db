"""The node that finds people in frames, with networks that the user has. Poses of other nodes need nothing of it."""

import os
from pathlib import Path

from comfy_api.latest import io

from ..motion.errors import ConfigError
from .host import checks, devices, folders, pixels, progress
from .host.compat import inp, out, schema
from .host.poses import POSE_KEYPOINT, confidence_input, measured, shown_sheet

CATEGORY = "MotionBlocks/poses"
AUTO, NONE = "auto", "none"
VITPOSE, OPENPOSE = "vitpose", "openpose"
BACKENDS = (AUTO, VITPOSE, OPENPOSE)
WHERE = f"models/{folders.DETECTORS_FOLDER}"


class ExtractPoses(io.ComfyNode):
    """Poses of everybody in a video."""

    @classmethod
    def define_schema(cls):
        whole, files = folders.detector_names()
        return schema(
            node_id="MotionBlocksExtractPoses",
            display_name="Extract Poses",
            category=CATEGORY,
            description="Finds people in frames with ViTPose (transformers, body only) or OpenPose (controlnet-aux, "
            "non-commercial), whose weights you put into models/pose_detectors; nothing is downloaded. Better, where "
            "you have them: ComfyUI's SDPose nodes (0.33.0 and newer) or DWPose of comfyui_controlnet_aux, connected "
            "to Clean Poses directly.",
            search_aliases=["detect poses", "vitpose", "openpose", "pose estimation", "video to pose", "keypoints"],
            inputs=[
                inp(
                    io.Image.Input, "frames",
                    tooltip="Frames of a video, or one picture. SDPose (0.33.0 and newer) or DWPose in place of this "
                    "node need nothing of ours: connect their POSE_KEYPOINT to Clean Poses.",
                ),
                inp(
                    io.Combo.Input, "backend", options=list(BACKENDS), default=AUTO,
                    tooltip="vitpose: body only, by transformers, which every ComfyUI has. openpose: body, hands and "
                    "face, by the package controlnet-aux; its weights are for non-commercial use only. auto: vitpose "
                    f"where {WHERE} holds it, else openpose.",
                ),
                inp(
                    io.Combo.Input, "vitpose_model", options=[AUTO, *whole], default=AUTO, optional=True,
                    tooltip=f"Folder in {WHERE} with ViTPose as transformers saves it: config.json, model.safetensors, "
                    "preprocessor_config.json. auto: the first found.",
                ),
                inp(
                    io.Combo.Input, "person_detector", options=[AUTO, NONE, *whole], default=AUTO, optional=True,
                    tooltip=f"Folder in {WHERE} with RT-DETR, which finds the people for ViTPose where no bboxes are "
                    "connected. auto: the first found. none: each frame as a whole is one person.",
                ),
                inp(
                    io.Combo.Input, "openpose_model", options=[AUTO, *files], default=AUTO, optional=True,
                    tooltip=f"File in {WHERE} that `./motionblocks convert` made of OpenPose's three .pth; pickles are "
                    "never opened here. auto: the first found.",
                ),
                inp(
                    io.Custom("BOUNDING_BOX").Input, "bboxes", optional=True,
                    tooltip="Boxes of the people in each frame, from core's RT-DETR node (0.33.0 and newer). Other "
                    "things than persons are left out.",
                ),
                inp(io.Boolean.Input, "hands", default=True, optional=True, tooltip="Find hands (openpose only)."),
                inp(io.Boolean.Input, "face", default=True, optional=True, tooltip="Find faces (openpose only)."),
                confidence_input(),
            ],
            outputs=[
                out(POSE_KEYPOINT, "poses", "Poses in px of the frames, for Clean Poses."),
                out(io.String, "report", "Detector, licence of its weights, people, gaps, jitter and limb lengths."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, frames, backend=AUTO, vitpose_model=AUTO, person_detector=AUTO, openpose_model=AUTO, bboxes=None,
        hands=True, face=True, min_confidence=0.3,
    ) -> io.NodeOutput:  # fmt: skip
        from ..motion.data.pose_detectors import detect_poses, read_boxes

        clip = pixels.rgb_frames(frames, "frames")
        sure = checks.in_range("min_confidence", min_confidence, 0.0, 1.0)
        boxes = read_boxes(bboxes, clip.shape[2], clip.shape[1])
        chosen = _chosen(checks.choose("backend", backend, BACKENDS), vitpose_model, openpose_model)
        if chosen[0] == VITPOSE:
            detector, notes = _vitpose(chosen[1], person_detector, boxes)
        else:
            detector, notes = _openpose(chosen[1], hands, face), []
        try:
            found = detect_poses(clip, detector, boxes=boxes, min_confidence=sure, on_step=progress.progress_step())
            lines = [f"by {detector.name}; licence of the weights: {detector.licence}", *notes, measured(found)]
        finally:  # also after a cancel, or when memory ran out
            del detector
            devices.release_memory()
        text = "\n".join(lines)
        return io.NodeOutput(found.to_frames(), text, ui=shown_sheet(cls, text, ("poses", found)))


def _chosen(backend: str, vitpose_model: str, openpose_model: str) -> tuple[str, str]:
    """The backend that runs, and the path of its model. Raises ConfigError, CheckpointError."""
    from ..motion.data.pose_detectors import UPSTREAM, has_controlnet_aux
    from ..motion.io.networks.openpose import read_openpose

    if openpose_model != AUTO and not str(openpose_model).lower().endswith(".safetensors"):
        read_openpose(Path(str(openpose_model)))  # refuses it, with the way to convert it
    vitpose = _first_of("vitpose") if vitpose_model == AUTO else vitpose_model
    files = folders.detector_names()[1]
    openpose = next(iter(files), None) if openpose_model == AUTO else openpose_model
    if backend == VITPOSE or (backend == AUTO and vitpose):
        if not vitpose:
            raise ConfigError(
                f"{WHERE} holds no folder of ViTPose; docs/models.md says what to put there, or {UPSTREAM}"
            )
        return VITPOSE, folders.detector_path(vitpose)
    if backend == OPENPOSE or (openpose and has_controlnet_aux()):
        if not openpose:
            raise ConfigError(
                f"{WHERE} holds no file of OpenPose; make one of its three .pth with `./motionblocks convert FOLDER -o "
                f"openpose.safetensors` (docs/models.md), or {UPSTREAM}"
            )
        return OPENPOSE, folders.detector_path(openpose)
    raise ConfigError(
        f"no detector is here: {WHERE} holds neither a folder of ViTPose nor, with the package controlnet-aux, a file "
        f"of OpenPose; docs/models.md says what to put there, or {UPSTREAM}"
    )


def _first_of(kind: str) -> str | None:
    """Name of the first folder that holds a kind of detector."""
    from ..motion.data.pose_detectors import kind_of

    return next((name for name in folders.detector_names()[0] if kind_of(folders.detector_path(name)) == kind), None)


def _vitpose(path: str, person_detector: str, boxes):
    """The detector, and what the user should know of it."""
    from ..motion.data.pose_detectors import open_vitpose

    persons = _first_of("person detector") if person_detector == AUTO else person_detector
    persons = None if boxes is not None or persons in (None, NONE) else folders.detector_path(persons)
    notes = ["note: ViTPose knows bodies only; hands and faces are left out"]
    if boxes is None and persons is None:
        notes.append(
            "note: without bboxes and without a person detector each frame as a whole was taken for one person; "
            f"connect bboxes, or put RT-DETR into {WHERE}"
        )
    _make_room(path, *([persons] if persons else []))
    return open_vitpose(path, persons=persons, device=devices.compute_device()), notes


def _openpose(path: str, hands: bool, face: bool):
    from ..motion.data.pose_detectors import open_openpose

    _make_room(path)
    return open_openpose(path, hands=hands, face=face, device=devices.compute_device())


def _make_room(*paths: str) -> None:
    """Room for weights of these files or folders, and as much again for what they compute."""
    files = [file for path in map(Path, paths) for file in ([path] if path.is_file() else path.glob("*.safetensors"))]
    devices.make_room(2 * sum(os.path.getsize(file) for file in files), devices.compute_device())
