"""Detectors: transformers' own ViTPose and RT-DETR, tiny, run as a user's; points land where people are."""

import builtins
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch
from pack.motion.data.pose_detectors import (
    COCO_17,
    OpenPose,
    PersonBoxes,
    VitPose,
    detect_poses,
    kind_of,
    open_openpose,
    open_vitpose,
    read_boxes,
)
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks import openpose
from pack.motion.pose.body18 import POINTS
from pack.motion.pose.keypoints import FACE, LEFT_HAND, RIGHT_HAND

transformers = pytest.importorskip("transformers")
from tiny_pose_models import save_rt_detr, save_vitpose  # noqa: E402

COCO = ("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
        "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
        "right ankle")  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("pose_detectors")
    return save_vitpose(root / "vitpose"), save_rt_detr(root / "rt_detr")


def clip(num_frames=2):
    return torch.rand(num_frames, 90, 120, 3, generator=torch.Generator().manual_seed(0))


def test_cocos_points_go_to_those_of_the_same_name():
    assert [POINTS[place] for place in COCO_17] == list(COCO)


@pytest.mark.parametrize("experts", [1, 6])
def test_a_local_folder_is_opened_and_finds_one_person_a_box(tmp_path, experts):
    detector = open_vitpose(save_vitpose(tmp_path / "vitpose", experts=experts))
    assert detector.licence == "apache-2.0" and detector.name == "ViTPose, vitpose"
    boxes = [[(5, 5, 40, 80), (60, 5, 40, 80)], [(5, 5, 40, 80)]]
    frames = clip()
    kept, steps = frames.clone(), []
    poses = detect_poses(frames, detector, boxes=boxes, min_confidence=0.0, on_step=lambda *at: steps.append(at))
    assert poses.present.sum(1).tolist() == [2, 1] and (poses.width, poses.height) == (120, 90)
    assert not poses.points[:, :, 18:].any() and torch.equal(frames, kept) and steps == [(1, 2), (2, 2)]
    assert detect_poses(clip(), detector, boxes=[[], []]).points.shape == (2, 0, 136, 3)
    assert detect_poses(clip(3), detector, boxes=[[]]).points.shape == (3, 0, 136, 3)
    with pytest.raises(ShapeError, match="bboxes are for 2 frames, the clip has 3; 1 or 3 are needed"):
        detect_poses(clip(3), detector, boxes=[[], []])
    assert detect_poses(clip(), detector, min_confidence=0.0).present.sum(1).tolist() == [1, 1]


class Dots(torch.nn.Module):
    """In place of the network: heat where the picture has the colour of a point, so that crops and maps are tried."""

    def __init__(self, colours, config):
        super().__init__()
        self.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
        self.colours, self.config = colours, config

    def forward(self, pixels):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        shown = pixels * std + mean
        apart = (shown[:, None] - self.colours.view(1, -1, 3, 1, 1)).norm(dim=2)
        heat = torch.nn.functional.avg_pool2d((1 - 6 * apart).clamp(0), 4)
        return types.SimpleNamespace(heatmaps=heat)


@pytest.mark.parametrize("box", [(40.0, 20.0, 90.0, 150.0), (10.0, 60.0, 150.0, 100.0)])
def test_points_land_where_they_are_in_the_frame(box):
    """Through transformers' own crop and its own way back, of dots that nobody but this test has drawn."""
    draw = np.random.default_rng(3)
    colours = np.array([(r, g, b) for r in (0.1, 0.55, 1.0) for g in (0.1, 0.55, 1.0) for b in (0.1, 1.0)])[:17]
    grid = np.array([(x, y) for y in (0.2, 0.4, 0.6, 0.8) for x in (0.1, 0.3, 0.5, 0.7, 0.9)])[:17]
    places = np.array(box[:2]) + (grid + draw.uniform(-0.02, 0.02, grid.shape)) * np.array(box[2:])
    frame = np.full((200, 200, 3), 0.3, np.float32)
    y, x = np.mgrid[:200, :200]
    for (left, top), colour in zip(places, colours):
        frame[np.hypot(x - left, y - top) < 6] = colour
    processor = transformers.VitPoseImageProcessor(size={"height": 256, "width": 192})
    config = types.SimpleNamespace(backbone_config=types.SimpleNamespace(num_experts=1))
    network = Dots(torch.tensor(colours).float(), config)
    detector = VitPose(network, processor, None, "dots", "none")
    poses = detect_poses(torch.from_numpy(frame)[None], detector, boxes=[[box]], min_confidence=0.0)
    found = poses.points[0, 0, COCO_17]
    assert (found[:, 2] > 0).all()
    assert np.abs(found[:, :2] - places).max() < 2.5
    np.testing.assert_allclose(poses.points[0, 0, 1, :2], poses.points[0, 0, [2, 5], :2].mean(0))


def test_people_found_by_rt_detr_have_boxes_in_the_frame_and_cats_none(models):
    detector = open_vitpose(models[0], persons=models[1])
    frame = (clip(1)[0].numpy() * 255).astype(np.uint8)
    boxes = detector.persons.find(frame)
    assert boxes and all(0 <= left <= 120 and 0 <= top <= 90 for left, top, _, _ in boxes)
    detector.persons.model.config.id2label = {0: "cat", 1: "dog"}
    assert detector.persons.find(frame) == []
    assert detect_poses(clip(), detector).points.shape[1] == 0


def test_boxes_of_rt_detr_are_left_top_width_and_height():
    class Processor:
        def __call__(self, images, return_tensors):
            return {"pixel_values": torch.zeros(1, 3, 4, 4)}

        def post_process_object_detection(self, found, target_sizes, threshold):
            assert tuple(target_sizes[0]) == (90, 120) and threshold == 0.3
            return [{"boxes": torch.tensor([[10.0, 20.0, 40.0, 80.0], [1, 1, 2, 2]]), "labels": torch.tensor([0, 1])}]

    network = torch.nn.Conv2d(3, 1, 1)
    network.config = types.SimpleNamespace(id2label={0: "Person", 1: "car"})
    assert PersonBoxes(network, Processor()).find(np.zeros((90, 120, 3), np.uint8)) == [(10, 20, 30, 60)]


@pytest.mark.parametrize(("given", "found"), [
    (None, None), ([], None), ([[]], [[]]),
    ({"x": 1, "y": 2, "width": 3, "height": 4}, [[(1, 2, 3, 4)]]),
    ([{"x": 1, "y": 2, "width": 3, "height": 4}], [[(1, 2, 3, 4)]]),
    ([[{"x": -5, "y": 2, "width": 300, "height": 4, "label": "person", "score": 0.5}],
      [{"x": 1, "y": 2, "width": 3, "height": 4, "label": "dog"}]], [[(0, 2, 100, 4)], []]),
    ([[{"x": 200, "y": 2, "width": 3, "height": 4}]], [[]]),
])  # fmt: skip
def test_boxes_of_core_are_read_in_every_form(given, found):
    assert read_boxes(given, 100, 50) == found


@pytest.mark.parametrize("bad", [5, [5], [[5]], [[{"x": 1}]], [[{"x": float("nan"), "y": 1, "width": 2, "height": 2}]]])
def test_what_is_no_box_is_refused(bad):
    with pytest.raises(ShapeError, match="box"):
        read_boxes(bad, 100, 50)


def test_frames_that_are_none_are_refused(models):
    for frames in (torch.zeros(0, 4, 4, 3), torch.zeros(4, 4, 3)):
        with pytest.raises(ShapeError, match="frames, height, width, 3"):
            detect_poses(frames, open_vitpose(models[0]))


def changed(folder, tmp_path, change):
    """A copy of a folder, changed."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    change(copy)
    return copy


def _configured(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def _without_a_weight(folder):
    tensors, about = read_safetensors(folder / "model.safetensors")
    tensors.pop("head.conv.weight")
    write_safetensors(folder / "model.safetensors", tensors, about)


@pytest.mark.parametrize(("change", "says"), [
    (lambda folder: (folder / "config.json").unlink(), "config.json names no model known here"),
    (_configured(model_type="bert"), "config.json names no model known here"),
    (_configured(model_type="rt_detr"), "names person detector; a folder of a vitpose is needed"),
    (_configured(use_pretrained_backbone=True), "asks for a backbone to be downloaded"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing; pickled weights"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "model.safetensors: only 4 bytes"),
    (_configured(backbone_config={"model_type": "vitpose_backbone", "hidden_size": 33}), "transformers cannot read it"),
    (_without_a_weight, "1 weights are missing, 'head.conv.weight' first"),
])  # fmt: skip
def test_a_folder_that_is_not_whole_is_refused_and_nothing_is_made_up(models, tmp_path, change, says):
    with pytest.raises(CheckpointError, match=says):
        open_vitpose(changed(models[0], tmp_path, change))


def test_a_folder_that_is_not_there_never_asks_the_hub(tmp_path, monkeypatch):
    def never(*arguments, **keywords):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(transformers.VitPoseForPoseEstimation, "from_pretrained", never)
    with pytest.raises(CheckpointError, match="no such folder; nothing is downloaded"):
        open_vitpose("usyd-community/vitpose-base-simple")
    with pytest.raises(CheckpointError, match="there is no such file"):
        open_openpose(tmp_path / "lllyasviel")


def test_libraries_are_told_to_stay_local(models, monkeypatch):
    told = []
    for kind in (transformers.VitPoseForPoseEstimation, transformers.VitPoseImageProcessor):
        real = kind.from_pretrained

        def spied(*arguments, real=real, **keywords):
            told.append(keywords)
            return real(*arguments, **keywords)

        monkeypatch.setattr(kind, "from_pretrained", spied)
    open_vitpose(models[0])
    assert len(told) == 2 and all(keywords["local_files_only"] is True for keywords in told)
    assert told[0]["use_safetensors"] is True


def without(monkeypatch, name, error):
    """Importing a library raises."""
    real = builtins.__import__

    def guarded(module, *more, **words):
        if module.split(".")[0] == name:
            raise error
        return real(module, *more, **words)

    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", guarded)


def test_an_old_transformers_is_told_with_the_version_that_is_needed(models, monkeypatch):
    without(monkeypatch, "transformers", ImportError("cannot import name 'VitPoseForPoseEstimation'"))
    with pytest.raises(ConfigError, match="transformers 4.48 or newer .*cannot import name.* SDPose"):
        open_vitpose(models[0])


@pytest.fixture
def openpose_file(tmp_path, monkeypatch):
    whole = openpose.shapes_of
    monkeypatch.setattr(openpose, "shapes_of", lambda part: {
        name: tuple(min(side, 2) for side in shape) for name, shape in whole(part).items()})  # fmt: skip
    tensors = {f"{part}.{name}": torch.zeros(shape) for part in openpose.FILES
               for name, shape in openpose.shapes_of(part).items()}  # fmt: skip
    write_safetensors(tmp_path / "openpose.safetensors", tensors, {"family": "openpose"})
    return tmp_path / "openpose.safetensors"


@pytest.mark.parametrize(("error", "says"), [
    (AttributeError("module 'mediapipe' has no attribute 'solutions'"), "needs mediapipe below 0.10.30, or none"),
    (ModuleNotFoundError("No module named 'controlnet_aux'", name="controlnet_aux"), "is not installed: pip install"),
    (ImportError("libGL.so.1: cannot open shared object file"), "cannot be imported .ImportError: libGL"),
])  # fmt: skip
def test_a_controlnet_aux_that_does_not_import_is_explained(openpose_file, monkeypatch, error, says):
    without(monkeypatch, "controlnet_aux", error)
    with pytest.raises(ConfigError, match=says):
        open_openpose(openpose_file)


def test_openposes_pickles_are_sent_to_the_converter(tmp_path):
    (tmp_path / "body_pose_model.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="no node opens pickles.*motionblocks convert"):
        open_openpose(tmp_path / "body_pose_model.pth")


def test_cancel_and_out_of_memory_pass_through(models, monkeypatch):
    detector = open_vitpose(models[0])

    def cancelled(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_poses(clip(), detector, on_step=cancelled)

    def full(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(detector.model), "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        detect_poses(clip(), detector)
    monkeypatch.setattr(transformers.VitPoseForPoseEstimation, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        open_vitpose(models[0])


def test_kinds_are_told_by_config(models, tmp_path):
    assert (kind_of(models[0]), kind_of(models[1]), kind_of(tmp_path)) == ("vitpose", "person detector", "")


if importlib.util.find_spec("controlnet_aux"):
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body
    from pose_people import one

    class Planted:
        """Body, hands and face of a puppet, given as the three networks' own results are, in px of what they see."""

        format_body_result = staticmethod(Body.format_body_result)

        def __init__(self, person, scale):
            self.person, self.scale, self.sizes = person * (scale, scale, 1), scale, []

        def __call__(self, picture):
            self.sizes.append(picture.shape)
            candidates = np.array([(x, y, 0.8, k) for k, (x, y, _) in enumerate(self.person[:18])])
            row = np.array([*range(18), 20.0, 18])
            row[4] = -1  # no right wrist, so no right hand
            return candidates, row[None]

        def hand(self, crop):
            side = len(crop)
            peaks = np.stack((np.arange(21) % 5 * side // 5 + 1, np.arange(21) // 5 * side // 5 + 1), -1)
            peaks[0], peaks[2] = side // 2, 0  # in the middle, and missing
            self.side = side
            return peaks

        def face(self, crop):
            heat = np.zeros((71, *crop.shape[:2]), np.float32)
            for k in range(71):
                heat[k, k % 7, k % 5] = 0.9 if k != 30 else 0.01
            return heat

    @pytest.mark.parametrize("width", [832, 2080])
    def test_openposes_points_come_back_in_px_of_the_frame_and_keep_their_numbers(width):
        scale = min(1.0, 1024 / width)
        person = one(3, 1)[0] * (width / 832, width / 832, 1)
        planted = Planted(person, scale)
        detector = OpenPose(OpenposeDetector(planted, planted.hand, planted.face), True, True, "planted")
        poses = detect_poses(torch.zeros(1, round(width * 480 / 832), width, 3), detector)
        found = poses.points[0, 0]
        named = [k for k in range(18) if k != 4]
        np.testing.assert_allclose(found[named, :2], person[named, :2], atol=1e-6)
        assert not found[4].any() and not found[RIGHT_HAND].any() and max(planted.sizes[0]) <= 1024
        assert found[LEFT_HAND, 2].tolist() == [1, 1, 0, *[1] * 18]
        assert found[FACE, 2].tolist() == [*[1] * 30, 0, *[1] * 39]
        first, third = found[LEFT_HAND][[1, 3], 0] * scale
        assert third - first == pytest.approx(3 * planted.side // 5 - planted.side // 5, abs=1)
        boxed = [[(0.0, 0.0, 5.0, 5.0)]]
        assert detect_poses(torch.zeros(1, 480, width, 3), detector, boxes=boxed).points.shape[1] == 0
        less = OpenPose(detector.detector, False, False, "planted")
        assert not detect_poses(torch.zeros(1, 480, width, 3), less).points[:, :, 18:].any()
