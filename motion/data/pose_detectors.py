"""Poses of people found in frames by networks that the user has: ViTPose (transformers) and OpenPose (controlnet-aux).

The one file that imports these two libraries, late. Nothing is ever downloaded: folders and files are checked before a
library hears of them. Detectors of other nodes (SDPose, DWPose) need nothing of this.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError, ShapeError
from ..foreign_json import parse_json
from ..io.files.kind import shown
from ..io.files.safetensors import read_header
from ..io.networks.openpose import LICENCE, read_openpose
from ..pose.keypoints import Poses, read_poses

BACKENDS = ("auto", "vitpose", "openpose")
KINDS = {"vitpose": "vitpose", "rt_detr": "person detector"}  # model_type in config.json
PERSON_SCORE = 0.3  # of the person detector
BOXES_AT_ONCE = 16
OPENPOSE_SIDE = 1024  # px; larger frames are scaled down first: its maps have the size of the frame
FACE_PEAK = 0.05  # of a heat map, as controlnet-aux has it
UPSTREAM = (
    "connect poses of ComfyUI's SDPose nodes (0.33.0 and newer) or of DWPose in comfyui_controlnet_aux instead, which "
    "need nothing of this node"
)
COCO_17 = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]  # of the body of 18 points, in COCO's order
Box = tuple[float, float, float, float]  # left, top, width, height, px
MAX_CONFIG = 2**20


class Detector(Protocol):
    """Finds people in one frame."""

    name: str
    licence: str

    def find(self, frame: np.ndarray, boxes: Sequence[Box] | None) -> list[dict]:
        """People of POSE_KEYPOINT in px. frame: (h, w, 3) of uint8, RGB; boxes: of people, None where nobody says."""


@dataclass(frozen=True, eq=False)
class VitPose:
    """ViTPose of transformers, with boxes of RT-DETR where there are none. Bodies only."""

    model: torch.nn.Module
    processor: object
    persons: "PersonBoxes | None"
    name: str
    licence: str

    def find(self, frame: np.ndarray, boxes: Sequence[Box] | None) -> list[dict]:
        if boxes is None:
            boxes = self.persons.find(frame) if self.persons else [(0.0, 0.0, *map(float, frame.shape[1::-1]))]
        people = []
        for first in range(0, len(boxes), BOXES_AT_ONCE):
            people += self._people(frame, [list(box) for box in boxes[first : first + BOXES_AT_ONCE]])
        return people

    def _people(self, frame: np.ndarray, boxes: list[list[float]]) -> list[dict]:
        pixels = self.processor(images=[frame], boxes=[boxes], return_tensors="pt")["pixel_values"]
        weight = next(self.model.parameters())
        more = {}
        if getattr(self.model.config.backbone_config, "num_experts", 1) > 1:  # ViTPose++: its first expert is COCO's
            more["dataset_index"] = torch.zeros(len(boxes), dtype=torch.long, device=weight.device)
        with torch.no_grad():
            found = self.model(pixels.to(weight.device, weight.dtype), **more)
        found.heatmaps = found.heatmaps.float()
        (people,) = self.processor.post_process_pose_estimation(found, boxes=[boxes], threshold=0.0)
        return [_as_person(person["keypoints"], person["scores"], person["labels"]) for person in people]


@dataclass(frozen=True, eq=False)
class PersonBoxes:
    """Boxes of people by RT-DETR of transformers."""

    model: torch.nn.Module
    processor: object

    def find(self, frame: np.ndarray) -> list[Box]:
        """Boxes of people in a frame (h, w, 3) of uint8."""
        weight = next(self.model.parameters())
        pixels = self.processor(images=[frame], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            found = self.model(pixels.to(weight.device, weight.dtype))
        (found,) = self.processor.post_process_object_detection(
            found, target_sizes=[frame.shape[:2]], threshold=PERSON_SCORE
        )
        names = self.model.config.id2label
        rows = zip(found["boxes"].tolist(), found["labels"].tolist())
        return [(left, top, right - left, bottom - top) for (left, top, right, bottom), label in rows
                if str(names.get(label)).lower() == "person"]  # fmt: skip


@dataclass(frozen=True, eq=False)
class OpenPose:
    """OpenPose as controlnet-aux runs it: bodies, hands and faces, of everybody in the frame."""

    detector: object
    hands: bool
    face: bool
    name: str
    licence: str = LICENCE

    def find(self, frame: np.ndarray, boxes: Sequence[Box] | None) -> list[dict]:
        from controlnet_aux.open_pose import util

        scale = min(1.0, OPENPOSE_SIDE / max(frame.shape[:2]))
        reversed_rgb = np.ascontiguousarray(_smaller(frame, scale)[:, :, ::-1])
        height, width = reversed_rgb.shape[:2]
        with torch.no_grad():
            candidates, subset = self.detector.body_estimation(reversed_rgb)
            people = []
            for body in self.detector.body_estimation.format_body_result(candidates, subset):
                joints = [(point.x, point.y, 1.0) if point is not None else (0.0, 0.0, 0.0) for point in body.keypoints]
                person = {"pose_keypoints_2d": _flat(joints, scale)}
                if self.hands:
                    for side, hand in zip(("left", "right"), self.detector.detect_hands(body, reversed_rgb)):
                        points = [(point.x * width, point.y * height, 1.0) if point.x >= 0 and point.y >= 0
                                  else (0.0, 0.0, 0.0) for point in hand or ()]  # fmt: skip
                        person[f"hand_{side}_keypoints_2d"] = _flat(points, scale)
                place = util.faceDetect(body, reversed_rgb) if self.face else None
                if place is not None:
                    person["face_keypoints_2d"] = _flat(self._face(reversed_rgb, *place), scale)
                people.append(person)
        return [person for person in people if not boxes or _in_a_box(person, boxes)]

    def _face(self, frame: np.ndarray, left: int, top: int, side: int) -> list[tuple[float, float, float]]:
        """The 70 points of a face, each the peak of its own map; controlnet-aux loses which ones are missing."""
        heat = self.detector.face_estimation(frame[top : top + side, left : left + side])
        points = []
        for values in heat[:70]:
            y, x = np.unravel_index(int(values.argmax()), values.shape)
            points.append((left + x, top + y, 1.0) if values[y, x] > FACE_PEAK else (0.0, 0.0, 0.0))
        return points


def detect_poses(
    frames: Tensor, detector: Detector, *, boxes: Sequence[Sequence[Box]] | None = None, min_confidence: float = 0.3,
    on_step: Callable[[int, int], None] | None = None,
) -> Poses:  # fmt: skip
    """Poses of everybody in a clip (t, h, w, 3) in [0, 1], whose frames are walked through once.

    boxes: of the people, one list for all frames or one a frame. on_step(done, total) is called after each frame.
    Raises ShapeError and ConfigError as `read_poses` does.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ShapeError(f"frames are {tuple(frames.shape)}; (frames, height, width, 3) is needed")
    if boxes is not None and len(boxes) not in (1, len(frames)):
        raise ShapeError(f"bboxes are for {len(boxes)} frames, the clip has {len(frames)}; 1 or {len(frames)} are "
                         "needed: find the boxes in this clip")  # fmt: skip
    height, width = frames.shape[1:3]
    found = []
    for t, frame in enumerate(frames):
        pixels = (frame.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        given = None if boxes is None else boxes[t if len(boxes) > 1 else 0]
        people = detector.find(pixels, given)
        found.append({"people": people, "canvas_width": width, "canvas_height": height})
        if on_step:
            on_step(t + 1, len(frames))
    return read_poses(found, min_confidence=min_confidence)


def read_boxes(bboxes, width: int, height: int) -> list[list[Box]] | None:
    """Boxes of people of each frame, from core's BOUNDING_BOX: a dict, a list, or a list of lists of dicts.

    Those of other things than persons are left out, and so is what lies outside the frame. None for none at all.
    Raises ShapeError.
    """
    if bboxes is None or (isinstance(bboxes, (list, tuple)) and not bboxes):
        return None
    frames = [bboxes] if isinstance(bboxes, dict) else bboxes
    if isinstance(frames, (list, tuple)) and all(isinstance(box, dict) for box in frames):
        frames = [frames]
    if not isinstance(frames, (list, tuple)) or not all(isinstance(frame, (list, tuple)) for frame in frames):
        raise ShapeError(f"bboxes are {type(bboxes).__name__}; a list of boxes for each frame is needed")
    return [[box for found in frame for box in _box(found, width, height)] for frame in frames]


def _box(found, width: int, height: int) -> list[Box]:
    if not isinstance(found, dict):
        raise ShapeError(f"a box is {type(found).__name__}; x, y, width and height are needed")
    values = [found.get(name) for name in ("x", "y", "width", "height")]
    if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in values):
        raise ShapeError(f"a box is {ascii(str(values))[:80]}; numbers for x, y, width and height are needed")
    left, top = max(0.0, float(values[0])), max(0.0, float(values[1]))
    right, bottom = min(float(width), values[0] + values[2]), min(float(height), values[1] + values[3])
    is_person = str(found.get("label", "person")).lower() == "person"
    return [(left, top, right - left, bottom - top)] if is_person and right - left >= 1 and bottom - top >= 1 else []


def kind_of(folder: str | os.PathLike) -> str:
    """What a folder with config.json holds: one of KINDS' values, or ""."""
    return KINDS.get(str(_config(folder).get("model_type")), "")


def _config(folder: str | os.PathLike) -> dict:
    """config.json of a folder, empty where there is none."""
    try:
        with open(Path(folder) / "config.json", "rb") as handle:
            config = parse_json(handle.read(MAX_CONFIG))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def has_controlnet_aux() -> bool:
    """Whether controlnet-aux is installed; it may still fail to import."""
    return importlib.util.find_spec("controlnet_aux") is not None


def open_vitpose(
    folder: str | os.PathLike, *, persons: str | os.PathLike | None = None, device: torch.device | str = "cpu"
) -> VitPose:
    """ViTPose from a folder as transformers saves it, and RT-DETR for boxes from a second one.

    Raises CheckpointError for a folder that cannot be used, ConfigError where transformers is missing or too old.
    """
    folder = _model_folder(folder, "vitpose")
    try:
        from transformers import VitPoseForPoseEstimation, VitPoseImageProcessor
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"ViTPose needs transformers 4.48 or newer ({_short(error)}); update it, or {UPSTREAM}"
        ) from error
    model, processor = _opened(folder, VitPoseForPoseEstimation, VitPoseImageProcessor, device)
    boxes = None
    if persons is not None:
        persons = _model_folder(persons, "person detector")
        from transformers import RTDetrForObjectDetection, RTDetrImageProcessor

        boxes = PersonBoxes(*_opened(persons, RTDetrForObjectDetection, RTDetrImageProcessor, device))
    return VitPose(model, processor, boxes, f"ViTPose, {folder.name}", _licence_of(folder))


def open_openpose(
    path: str | os.PathLike, *, hands: bool = True, face: bool = True, device: torch.device | str = "cpu"
) -> OpenPose:
    """OpenPose with the networks of controlnet-aux and the weights of one file, which `motionblocks convert` makes.

    Raises CheckpointError for a file that cannot be used, ConfigError where controlnet-aux cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; make one of OpenPose's .pth: `./motionblocks convert`")
    weights = read_openpose(path)
    try:
        from controlnet_aux.open_pose import OpenposeDetector
        from controlnet_aux.open_pose.body import Body
        from controlnet_aux.open_pose.face import Face, FaceNet, params
        from controlnet_aux.open_pose.hand import Hand
        from controlnet_aux.open_pose.model import bodypose_model, handpose_model
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ConfigError(_why_not_controlnet_aux(error)) from error
    parts, networks = [], (("body", Body, bodypose_model), ("hand", Hand, handpose_model), ("face", Face, FaceNet))
    for part, owner, network in networks:
        with torch.device("meta"):
            model = network()
        state = {name: weights[part][name if part == "face" else name.partition(".")[2]] for name in model.state_dict()}
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
        estimation = owner.__new__(owner)  # its __init__ would open a pickle
        estimation.model = model.eval().requires_grad_(False).to(device)
        parts.append(estimation)
    face_part = parts[2]
    face_part.inference_size, face_part.sigma = params["inference_img_size"], params["gaussian_sigma"]
    face_part.threshold = params["heatmap_peak_thresh"]
    return OpenPose(OpenposeDetector(*parts), hands, face, f"OpenPose, {path.name}")


def _why_not_controlnet_aux(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "controlnet_aux":
        return f"OpenPose runs in the package controlnet-aux, which is not installed: pip install it, or {UPSTREAM}"
    if "mediapipe" in str(error):
        return (
            f"controlnet-aux cannot be imported beside this mediapipe ({_short(error)}): it needs mediapipe below "
            f"0.10.30, or none; or {UPSTREAM}"
        )
    return f"controlnet-aux cannot be imported ({_short(error)}); mend its installation, or {UPSTREAM}"


def _model_folder(folder: str | os.PathLike, kind: str) -> Path:
    """A folder that transformers can open without looking elsewhere. Raises CheckpointError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; nothing is downloaded here, docs/models.md says what to get")
    if kind_of(folder) != kind:
        raise CheckpointError(
            f"{folder}: config.json names {kind_of(folder) or 'no model known here'}; a folder of a {kind} is needed "
            "(docs/models.md)"
        )
    if _config(folder).get("use_pretrained_backbone"):
        raise CheckpointError(f"{folder}: config.json asks for a backbone to be downloaded; get a folder that is whole")
    names = os.listdir(folder)
    if "preprocessor_config.json" not in names:
        raise CheckpointError(f"{folder}: preprocessor_config.json is missing; get it from where the model came from")
    weights = [name for name in names if name.lower().endswith(".safetensors")]
    if not weights:
        raise CheckpointError(f"{folder}: model.safetensors is missing; pickled weights (.bin, .pth) are never opened")
    for name in weights:
        read_header(folder / name)
    return folder


def _opened(folder: Path, network: type, processor: type, device):
    """Network and processor from a local folder. Raises CheckpointError for what is damaged or missing in it."""
    try:
        model, told = network.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        made = processor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(f"{folder}: transformers cannot read it ({_short(error)}); get it again") from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, {shown(missing[0])} first; get it again")
    return model.eval().requires_grad_(False).to(device), made


def _licence_of(folder: Path) -> str:
    """What the model card in a folder says."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as handle:
            found = re.search(r"^license:\s*([\w.-]{1,60})\s*$", handle.read(4096), re.M)
    except OSError:
        found = None
    return found[1] if found else "see its model card"


def _as_person(keypoints: Tensor, scores: Tensor, labels: Tensor) -> dict:
    """A person from COCO's 17 points, some of which may be missing."""
    points = np.zeros((18, 3))
    order = [COCO_17[label] for label in labels.tolist()]
    points[order, :2], points[order, 2] = keypoints.float().cpu().numpy(), scores.float().cpu().numpy().clip(0, 1)
    shoulders = points[[2, 5]]
    if (shoulders[:, 2] > 0).all():
        points[1] = (*shoulders[:, :2].mean(0), shoulders[:, 2].min())
    return {"pose_keypoints_2d": points.reshape(-1).tolist()}


def _flat(points: Sequence[tuple[float, float, float]], scale: float) -> list[float]:
    """Points of a frame that was scaled, as one list in px of the whole one."""
    return [float(value) for x, y, sure in points for value in (x / scale, y / scale, sure)]


def _in_a_box(person: dict, boxes: Sequence[Box]) -> bool:
    """Whether the middle of somebody's body lies in a box."""
    body = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
    x, y = body[body[:, 2] > 0, :2].mean(0)
    return any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes)


def _smaller(frame: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return frame
    from PIL import Image

    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {ascii(' '.join(str(error).split()))[1:-1][:160]}"
