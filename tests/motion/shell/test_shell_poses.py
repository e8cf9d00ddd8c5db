"""`motionblocks poses`: what a user types, what comes out, and one line for every refusal."""

import json
import os
import re

import numpy as np
import pytest
import torch
from pack.motion.io.media.video import read_video, write_video
from pack.motion.io.pose_files import read_pose_file
from pack.motion.pose.keypoints import Poses
from pack.motion.pose.renderer import PARTS, draw_people
from pack.motion.pose.retarget import MODES
from pack.motion.pose.smoothing import jitter
from pack.motion.shell import main, poses
from pose_people import as_core, as_openpose, one, puppet, whole


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with noisy poses of two puppets, 24 frames, and a reference of half the size."""
    monkeypatch.chdir(tmp_path)
    points = np.stack((one(1, 24, (250, 240)), one(2, 24, (600, 240))), 1)
    points[:, 1, :, :2] = (points[:, 1, :, :2] - (600, 240)) * 0.6 + (600, 240)
    points[..., :2] += np.random.default_rng(0).normal(0, 2, points[..., :2].shape)
    points[..., 2] = 0.8
    (tmp_path / "raw.json").write_text(json.dumps(as_core(points)))
    (tmp_path / "openpose.json").write_text(json.dumps(as_openpose(points)[:6]))
    reference = whole(puppet(5)[3:4] * 0.5 + (160, 160))
    (tmp_path / "ref.json").write_text(json.dumps(as_core(reference[:, None], 320, 320)))
    return tmp_path


def run(*words):
    return main.main(["poses", *words, "--quiet"])


def test_a_file_is_cleaned_and_written_and_the_last_line_says_where(desk, capsys):
    assert run("raw.json") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines()[-1] == f"poses: {desk / 'raw_clean.json'} (24 frames, 832x480, 16 fps)"
    assert "people: 2, in 24 of 24 frames" in out
    raw, clean = read_pose_file("raw.json"), read_pose_file("raw_clean.json")
    assert jitter(clean) <= 0.5 * jitter(raw)
    before = (desk / "raw_clean.json").read_bytes()
    assert run("raw.json", "--smooth", "none") == 0 and (desk / "raw_clean.json").read_bytes() == before
    assert (read_pose_file("raw_clean_2.json").points == raw.points).all()
    assert run("raw.json", "--smooth", "none", "--overwrite") == 0
    assert (desk / "raw_clean.json").read_bytes() == (desk / "raw_clean_2.json").read_bytes()


def test_one_person_another_rate_and_the_body_of_the_reference(desk, capsys):
    arguments = ["raw.json", "-o", "out.json", "--person", "largest", "--new-fps", "8", "--reference", "ref.json"]
    assert run(*arguments, "--keep-feet", "--binary") == 0
    out = capsys.readouterr().out
    assert "(12 frames, 320x320, 8 fps)" in out and "person 0: scale" in out
    done, reference = read_pose_file("out.json"), read_pose_file("ref.json")
    assert done.points.shape[:2] == (12, 1) and set(done.points[..., 2].ravel()) <= {0.0, 1.0}
    arm = [np.linalg.norm(each.points[:, 0, 3, :2] - each.points[:, 0, 2, :2], axis=-1) for each in (done, reference)]
    assert np.median(arm[0]) == pytest.approx(arm[1][0], rel=0.1)


def test_feet_stand_on_the_ground_of_the_reference_and_necks_are_held(desk):
    fit = ["raw.json", "--person", "0", "--reference", "ref.json"]
    assert run(*fit, "-o", "feet.json", "--keep-feet") == run(*fit, "-o", "held.json", "--lock-x", "--lock-y") == 0
    reference = read_pose_file("ref.json").points[0, 0]
    lowest = read_pose_file("feet.json").points[:, 0, [10, 13], 1].max(1)
    assert np.percentile(lowest, 95) == pytest.approx(reference[[10, 13], 1].max())
    np.testing.assert_allclose(read_pose_file("held.json").points[:, 0, 1, :2] - reference[1, :2], 0, atol=1e-9)


def test_points_less_sure_than_told_are_missing(desk, capsys):
    assert run("raw.json", "--min-confidence", "0.9") == 0
    assert "people: 0, in 0 of 24 frames" in capsys.readouterr().out


def test_draw_writes_the_skeletons_as_a_video(desk, capsys):
    assert run("draw", "raw.json", "-o", "frames", "--person", "1", "--smooth", "none", "--parts", "body,face") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"video: {desk / 'frames'} (24 frames, 832x480, 16 fps)"
    shown = read_video("frames")[0]
    points = read_pose_file("raw.json").points[5, 1]
    truth = draw_people([torch.from_numpy(points)], 480, 832, parts=("body", "face")).movedim(0, -1)
    torch.testing.assert_close(torch.as_tensor(shown[5]).float(), truth, atol=1 / 255, rtol=0)
    assert run("draw", "raw.json", "--fps", "24") == 0 and (desk / "raw_skeleton.mp4").exists()


def test_gaps_are_filled_as_far_as_told(desk):
    frames = json.loads((desk / "raw.json").read_text())
    for frame in frames[8:11]:
        frame["people"] = []
    (desk / "gap.json").write_text(json.dumps(frames))
    for gap, present in (("2", 21), ("3", 24)):
        assert run("gap.json", "-o", f"gap{gap}.json", "--gap", gap) == 0
        assert int(read_pose_file(f"gap{gap}.json").present[:, 0].sum()) == present


@pytest.mark.parametrize("words, says", [
    (["absent.json"], "absent.json.*No such file"), (["openpose.json"], "give width and height"),
    (["openpose.json", "--size", "832"], "--size is '832'.*832x480"),
    (["openpose.json", "--size", "0x480"], "--size is '0x480'"),
    (["raw.json", "--person", "7"], "no person 7.*has 2"), (["raw.json", "--person", "me"], "--person is 'me'"),
    (["raw.json", "--fps", "0"], "frame rate is 0"), (["raw.json", "--gap", "-1"], "gaps of -1"),
    (["raw.json", "-o", "out.txt"], "written as .json"), (["draw", "raw.json", "-o", "out.json"], "ends in '.json'"),
    (["draw"], "poses takes one FILE"), (["raw.json", "ref.json"], "poses takes one FILE"),
    (["draw", "raw.json", "--parts", "feet"], "no part 'feet'"), (["raw.json", "--fit", "x"], "--fit"),
    (["raw.json", "--reference", "ref.json", "--calibration", "99"], "calibration frame 99 of 24"),
    (["clip.mp4"], "video or a picture"), (["raw.json", "--keep-feet"], "--keep-feet fits poses.*give --reference"),
    (["raw.json", "--calibration", "0"], "--calibration fits poses"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(desk, capsys, words, says):
    before = sorted(os.listdir(desk))
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err
    assert sorted(os.listdir(desk)) == before


def test_openpose_files_are_read_with_a_size(desk):
    assert run("openpose.json", "--size", "832x480", "-o", "op.json") == 0
    assert read_pose_file("op.json").points.shape[:2] == (6, 2)


def test_nobody_in_the_clip_is_a_clip(desk, capsys):
    nobody = Poses(np.zeros((5, 0, 136, 3)), 64, 48)
    (desk / "none.json").write_text(json.dumps(nobody.to_frames()))
    assert run("none.json", "--reference", "ref.json") == 0
    assert "people: 0, in 0 of 5 frames" in capsys.readouterr().out
    assert run("draw", "none.json", "-o", "black") == 0 and not read_video("black")[0].any()


def test_the_lists_of_the_shell_are_those_of_the_library():
    assert poses.MODES == MODES and poses.PARTS == PARTS
    with pytest.raises(SystemExit) as stop:
        main.main(["poses", "--help"])
    assert stop.value.code == 0


def test_a_video_is_detected_cleaned_and_written_at_its_own_rate(desk, capsys):
    pytest.importorskip("transformers")
    from tiny_pose_models import save_rt_detr, save_vitpose

    save_vitpose(desk / "vitpose")
    save_rt_detr(desk / "rt_detr")
    clip = np.random.default_rng(0).integers(0, 255, (20, 90, 120, 3), np.uint8)
    write_video("clip.mp4", iter(torch.from_numpy(clip)), 24.0)
    assert run("clip.mp4", "--detector", "vitpose", "--min-confidence", "0") == 0
    out = capsys.readouterr().out
    assert "by ViTPose, vitpose; licence of the weights: apache-2.0" in out and "(20 frames, 120x90, 24 fps)" in out
    assert read_pose_file("clip_clean.json").present.all()
    assert run("clip.mp4", "--detector", "vitpose", "--person-detector", "rt_detr", "-o", "boxes.json") == 0
    for words, says in (
        (["clip.mp4", "--detector", "nowhere"], "no such file"), (["raw.json", "--detector", "vitpose"], "is none"),
        (["clip.mp4"], "--detector MODEL"), (["clip.mp4", "--detector", "a.pth"], "no such file"),
        (["clip.mp4", "--detector", "raw.json", "--person-detector", "rt_detr"], "is for ViTPose"),
        (["clip.mp4", "--detector", "raw.json"], "no node opens pickles|convert"),
    ):  # fmt: skip
        capsys.readouterr()
        assert run(*words) == 2
        assert re.search(says, capsys.readouterr().err), words
