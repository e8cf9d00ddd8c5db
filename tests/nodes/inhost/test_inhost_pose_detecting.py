"""Extract Poses in the host: its own transformers with tiny models, core's boxes, and what it refuses."""

import os
import sys
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import torch
from pack.motion.data import pose_detectors
from pack.motion.errors import CheckpointError, ConfigError

sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
from tiny_pose_models import save_rt_detr, save_vitpose  # noqa: E402


@pytest.fixture
def detectors():
    """models/pose_detectors of this host, emptied afterwards: detectors(name, save) -> the folder."""
    import shutil

    root = Path(folder_paths.models_dir) / "pose_detectors"
    root.mkdir()

    def put(name, save):
        save(root / name)
        return root / name

    yield put
    shutil.rmtree(root)


def frames(count=3):
    return torch.rand(count, 90, 120, 3, generator=torch.Generator().manual_seed(0))


BOXES = [[{"x": 5.0, "y": 5.0, "width": 40.0, "height": 80.0, "label": "person", "score": 0.9},
          {"x": 60.0, "y": 5.0, "width": 40.0, "height": 80.0, "label": "dog", "score": 0.9}]]  # fmt: skip


def test_vitpose_of_this_hosts_transformers_finds_a_person_a_box(ours, detectors):
    detectors("tiny_vitpose", save_vitpose)
    found, report = ours["ExtractPoses"].execute(frames(), bboxes=BOXES, min_confidence=0.0).args
    assert [len(frame["people"]) for frame in found] == [1, 1, 1]
    assert (found[0]["canvas_width"], found[0]["canvas_height"]) == (120, 90)
    assert "by ViTPose, tiny_vitpose; licence of the weights: apache-2.0" in report and "bodies only" in report
    assert "each frame as a whole" not in report
    clean = ours["CleanPoses"].execute(found, min_confidence=0.0).args[0]
    assert ours["DrawPoses"].execute(clean, min_confidence=0.0).args[0].any()


def test_rt_detr_is_taken_for_boxes_where_it_lies_there_and_can_be_left_out(ours, detectors):
    detectors("a_vitpose", save_vitpose)
    whole = ours["ExtractPoses"].execute(frames(1), min_confidence=0.0)
    assert len(whole.args[0][0]["people"]) == 1 and "each frame as a whole was taken for one person" in whole.args[1]
    detectors("b_rt_detr", save_rt_detr)
    boxed, report = ours["ExtractPoses"].execute(frames(1), min_confidence=0.0).args
    assert boxed != whole.args[0] and "as a whole" not in report
    again = ours["ExtractPoses"].execute(frames(1), person_detector="none", min_confidence=0.0).args
    assert again[0] == whole.args[0]


def test_combos_list_folders_and_files_and_leave_pickles_out(ours, detectors):
    folder = detectors("tiny_vitpose", save_vitpose)
    for name in ("openpose.safetensors", "more/other.safetensors", "body_pose_model.pth"):
        (folder.parent / name).parent.mkdir(exist_ok=True)
        (folder.parent / name).write_bytes(b"")
    told = {item.id: item for item in ours["ExtractPoses"].GET_SCHEMA().inputs}
    assert told["vitpose_model"].options == ["auto", "tiny_vitpose"]
    assert told["person_detector"].options == ["auto", "none", "tiny_vitpose"]
    assert told["openpose_model"].options == ["auto", os.path.join("more", "other.safetensors"), "openpose.safetensors"]


@pytest.mark.parametrize("backend, says", [
    ("auto", "no detector is here: models/pose_detectors holds neither .* SDPose nodes"),
    ("vitpose", "holds no folder of ViTPose; docs/models.md .* DWPose"),
    ("openpose", "holds no file of OpenPose; make one of its three .pth with `./motionblocks convert FOLDER"),
])  # fmt: skip
def test_where_nothing_is_the_way_to_go_on_is_told(ours, backend, says):
    with pytest.raises(ConfigError, match=says):
        ours["ExtractPoses"].execute(frames(1), backend)


def test_pickles_folders_that_are_not_there_and_names_that_lead_out_are_refused(ours, detectors):
    detectors("tiny_vitpose", save_vitpose)
    with pytest.raises(CheckpointError, match="body_pose_model.pth: no node opens pickles.*motionblocks convert"):
        ours["ExtractPoses"].execute(frames(1), "openpose", openpose_model="body_pose_model.pth")
    for name in ("usyd-community/vitpose-base-simple", "../diffusion_models", "/etc"):
        with pytest.raises(CheckpointError, match="is not in models/pose_detectors"):
            ours["ExtractPoses"].execute(frames(1), "vitpose", vitpose_model=name)


def test_a_missing_weight_file_is_named(ours, detectors):
    folder = detectors("tiny_vitpose", save_vitpose)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors is missing; pickled weights"):
        ours["ExtractPoses"].execute(frames(1), "vitpose")


def test_controlnet_aux_that_is_not_installed_is_told(ours, detectors, monkeypatch):
    """The hosts have none; what it says beside a mediapipe it cannot stand is tested with the library."""
    monkeypatch.setattr(pose_detectors, "read_openpose", lambda path: {})
    detectors("openpose.safetensors", lambda path: path.write_bytes(b"x"))
    if not pose_detectors.has_controlnet_aux():
        with pytest.raises(ConfigError, match="controlnet-aux, which is not installed"):
            ours["ExtractPoses"].execute(frames(1), "openpose")
        with pytest.raises(ConfigError, match="no detector is here"):
            ours["ExtractPoses"].execute(frames(1), "auto")


def test_cancel_and_out_of_memory_in_the_detector_reach_the_host(ours, detectors, monkeypatch):
    detectors("tiny_vitpose", save_vitpose)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours["ExtractPoses"].execute(frames(2))

    def full(self, frame, boxes):
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    monkeypatch.setattr(pose_detectors.VitPose, "find", full)
    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        ours["ExtractPoses"].execute(frames(2))


def test_nobody_in_all_frames_is_a_clip_without_people(ours, detectors):
    detectors("tiny_vitpose", save_vitpose)
    found, report = ours["ExtractPoses"].execute(frames(2), bboxes=[[], []]).args
    assert [frame["people"] for frame in found] == [[], []] and "nobody in 2 of 2 frames" in report
