"""The pose nodes as the host runs them: from a file to frames that fit a picture, and what they refuse."""

import importlib
import importlib.util
import json
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.pose.keypoints import LEFT_HAND, RIGHT_HAND, read_poses
from pose_people import HEIGHT, WIDTH, as_controlnet_aux, as_core, as_openpose, one

WALK, CHARACTER = "shipped: walk.json", "shipped: character.json"


def people(num_frames=6):
    return np.stack((one(1, num_frames, (250, 240)), one(2, num_frames, (600, 240))), 1)


@pytest.fixture
def inputs():
    """Put a text into the host's input folder: inputs(name, value) -> its name there."""
    root = Path(folder_paths.get_input_directory())

    def put(name, value):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return name

    return put


def points_of(frames, **size):
    return read_poses(frames, **size).points


def test_a_shipped_clip_is_cleaned_fitted_drawn_reported_and_saved(ours, tmp_path):
    raw, told = ours["LoadPoses"].execute(WALK).args
    reference = ours["LoadPoses"].execute(CHARACTER).args[0]
    picture = ours["LoadPoses"].execute(CHARACTER).ui["images"]
    assert told.startswith("40 frames, 832x480 px, 1 person") and len(picture) == 1
    clean, text = ours["CleanPoses"].execute(raw).args
    assert "0 gaps of body points, the longest 0 frames (before: 2, 3)" in text
    fitted, overlay, text = ours["RetargetPoses"].execute(clean, reference).args
    assert "person 0: scale" in text and overlay.shape == (8, HEIGHT, WIDTH, 3)
    frames, style = ours["DrawPoses"].execute(fitted).args
    assert frames.shape == (40, HEIGHT, WIDTH, 3) and style == "renderer 1, body, hands, face, limbs 13.0 px wide"
    assert all(frame.any() for frame in frames)
    sheet, text, count, shake = ours["PoseReport"].execute(clean, raw).args
    assert sheet.shape[0] == 1 and count == 1 and 0 < shake < 3 and "px before" in text
    (path,) = ours["SavePoses"].execute(fitted, "poses_test/walk").args
    assert path.endswith("poses_test/walk_00001.json")
    np.testing.assert_array_equal(points_of(json.loads(Path(path).read_text())), points_of(fitted))


def test_pixels_shares_25_points_and_null_hands_are_read_alike(ours, inputs, figure):
    """Test (k) of the specification."""
    worst = 0.0
    truth = people()
    truth[2, 0, LEFT_HAND] = 0
    for name, frames, *size in (
        ("pixels", as_controlnet_aux(truth)), ("shares", as_controlnet_aux(truth, shares=True)),
        ("core", as_core(truth)), ("body25", as_openpose(truth), WIDTH, HEIGHT),
    ):  # fmt: skip
        found, _ = ours["LoadPoses"].execute(inputs(f"k/{name}.json", frames), *size).args
        np.testing.assert_allclose(points_of(found)[:, :, :130], truth[:, :, :130], atol=1e-6, err_msg=name)
        worst = max(worst, float(np.abs(points_of(found)[:, :, :130] - truth[:, :, :130]).max()))
        assert [len(person[part]) for person in found[2]["people"] for part in
                ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d")] == [54, 210, 63] * 2  # fmt: skip
    figure("(k) four tools' files through Load Poses, largest error, px", worst)


def test_a_reference_out_of_the_clip_changes_nothing_and_a_scaled_copy_is_undone(ours, figure):
    """Test (l) of the specification."""
    truth = people()
    frames = as_controlnet_aux(truth)
    same = ours["RetargetPoses"].execute(frames, [frames[3]]).args[0]
    change = float(np.abs(points_of(same)[..., :2] - truth[..., :2])[:, :, :130].max())
    assert change <= 0.5
    small = as_controlnet_aux(truth * (0.5, 0.5, 1))
    undone = ours["RetargetPoses"].execute(small, [frames[3]]).args[0]
    error = float(np.abs(points_of(undone)[..., :2] - truth[..., :2])[:, :, :130].max())
    assert error <= 1
    figure("(l) Retarget Poses, reference out of the clip, change, px", change)
    figure("(l) Retarget Poses, copy of half the size undone, error, px", error)
    by_hand = ours["RetargetPoses"].execute(small, [frames[3]], calibration_frame=3).args
    assert "calibrated at frame 3" in by_hand[2]


def test_one_person_is_picked_and_the_rate_changed(ours):
    frames = as_core(people(30))
    one_only, text = ours["CleanPoses"].execute(frames, 30.0, 16.0, "by number", 1).args
    assert len(one_only) == 16 and all(len(frame["people"]) == 1 for frame in one_only)
    assert "resampled to 16 frames at 16 fps" in text
    largest = ours["CleanPoses"].execute(frames, 30.0, 0.0, "largest").args[0]
    assert len(largest) == 30 and all(len(frame["people"]) == 1 for frame in largest)
    with pytest.raises(ConfigError, match="there is no person 7: the clip has 2"):
        ours["CleanPoses"].execute(frames, 16.0, 0.0, "by number", 7)


def test_the_overlay_lies_on_the_picture_and_a_picture_of_another_size_is_refused(ours):
    frames = as_controlnet_aux(people())
    picture = torch.full((1, HEIGHT, WIDTH, 3), 0.5)
    overlay = ours["RetargetPoses"].execute(frames, frames[:1], picture).args[1]
    assert overlay.shape == (8, HEIGHT, WIDTH, 3) and overlay[:, 0, 0].eq(0.5).all()
    assert all((frame != 0.5).any() for frame in overlay)
    with pytest.raises(ShapeError, match="picture is 64x48 px, its pose was detected at 832x480"):
        ours["RetargetPoses"].execute(frames, frames[:1], torch.zeros(1, 48, 64, 3))


def test_the_picture_tells_the_canvas_of_a_reference_that_does_not(ours):
    frames, own = as_controlnet_aux(people()), as_openpose(people())[:1]
    done = ours["RetargetPoses"].execute(frames, own, torch.zeros(1, HEIGHT, WIDTH, 3)).args[0]
    assert (done[0]["canvas_width"], done[0]["canvas_height"]) == (WIDTH, HEIGHT)
    with pytest.raises(ConfigError, match="do not say how large their canvas is"):
        ours["RetargetPoses"].execute(frames, own)


def test_skeleton_pictures_are_used_as_they_are_and_brought_to_a_size(ours):
    drawn = ours["DrawPoses"].execute(as_controlnet_aux(people())).args[0]
    same, style = ours["DrawPoses"].execute(skeletons=drawn).args
    assert torch.equal(same, drawn) and "not known" in style
    for fill in ("pad", "crop"):
        other = ours["DrawPoses"].execute(skeletons=drawn, width=480, height=480, fill=fill).args[0]
        assert other.shape == (6, 480, 480, 3) and other.any()
    for more in ({}, {"poses": as_controlnet_aux(people()), "skeletons": drawn}):
        with pytest.raises(ConfigError, match="connect one of the two"):
            ours["DrawPoses"].execute(**more)


def test_another_size_is_drawn_in_proportion_and_parts_can_be_left_out(ours):
    frames = as_controlnet_aux(people())
    half = ours["DrawPoses"].execute(frames, width=WIDTH // 2, height=HEIGHT // 2).args[0]
    square, style = ours["DrawPoses"].execute(frames, width=320, height=320, hands=False, face=False).args
    assert half.shape == (6, HEIGHT // 2, WIDTH // 2, 3) and square.shape == (6, 320, 320, 3)
    assert square[:, :60].eq(0).all() and square.any() and "body, limbs" in style
    with pytest.raises(ConfigError, match="give both in px, or 0 for both"):
        ours["DrawPoses"].execute(frames, width=320)


def test_nobody_in_a_frame_in_all_and_in_the_picture(ours):
    truth = people()
    truth[2] = 0
    drawn = ours["DrawPoses"].execute(as_core(truth)).args[0]
    assert [bool(frame.any()) for frame in drawn] == [True, True, False, True, True, True]
    nobody = as_core(truth * 0)
    assert not ours["DrawPoses"].execute(ours["CleanPoses"].execute(nobody).args[0]).args[0].any()
    assert "nobody in 6 of 6 frames" in ours["PoseReport"].execute(nobody).args[1]
    done, _, text = ours["RetargetPoses"].execute(as_core(truth), nobody).args
    assert "note: person 0 has no partner in the reference and was fitted to the canvas only" in text
    np.testing.assert_allclose(points_of(done)[0, :, :18], truth[0, :, :18], atol=1e-6)


def test_nan_points_outside_and_lost_ones_draw_nothing_and_stop_nothing(ours):
    frames = as_core(people())
    body = frames[0]["people"][0]["pose_keypoints_2d"]
    body[0:3], body[12:15], body[21:24] = [float("nan"), 5.0, 1.0], [-1, -1, 0.9], [-300, 9, 0.9]
    clean = ours["CleanPoses"].execute(frames, smoothing="none", max_gap=0).args[0]
    kept = points_of(clean)[0, 0]
    assert not kept[0].any() and not kept[4].any() and tuple(kept[7, :2]) == (-300, 9)
    assert ours["DrawPoses"].execute(clean).args[0].isfinite().all()


def test_one_hand_only_stays_one_hand_on_its_side(ours):
    truth = people()
    truth[:, :, RIGHT_HAND] = 0
    found = points_of(ours["CleanPoses"].execute(as_core(truth), smoothing="none").args[0])
    assert found[:, :, LEFT_HAND, 2].all() and not found[:, :, RIGHT_HAND].any()
    np.testing.assert_allclose(found[:, :, LEFT_HAND, :2], truth[:, :, LEFT_HAND, :2], atol=1e-6)


def test_animals_and_wrong_skeletons_are_refused_by_name(ours):
    with pytest.raises(ShapeError, match=r"holds animals \(AP10k, 17 points\)"):
        ours["CleanPoses"].execute([{"version": "ap10k", "animals": [[]], "canvas_width": 9, "canvas_height": 9}])
    wrong = as_core(people())
    wrong[1]["people"][0]["pose_keypoints_2d"] = [1.0] * 51
    with pytest.raises(ShapeError, match="pose_keypoints_2d of person 0 of frame 1 has 51 numbers"):
        ours["DrawPoses"].execute(wrong)
    with pytest.raises(ShapeError, match="poses are Tensor"):
        ours["PoseReport"].execute(torch.zeros(1, 4, 4, 3))


def test_a_canvas_that_is_missing_is_asked_for(ours):
    with pytest.raises(ConfigError, match="give width and height of the video"):
        ours["CleanPoses"].execute(as_openpose(people()))
    done = ours["CleanPoses"].execute(as_openpose(people()), width=WIDTH, height=HEIGHT).args[0]
    assert done[0]["canvas_width"] == WIDTH


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "k/../../x.json", "shipped: ../README.md"])
def test_paths_outside_the_input_folder_are_refused(ours, name):
    with pytest.raises(ConfigError, match="leads outside"):
        ours["LoadPoses"].execute(name)
    assert "leads outside" in ours["LoadPoses"].validate_inputs(name)


def test_a_link_out_of_the_input_folder_is_not_followed(ours, tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps(as_core(people())))
    link = Path(folder_paths.get_input_directory()) / "link.json"
    link.symlink_to(tmp_path / "secret.json")
    with pytest.raises(ConfigError, match="leads outside"):
        ours["LoadPoses"].execute("link.json")
    link.unlink()


def test_a_file_that_is_not_there_says_where_to_put_it(ours):
    with pytest.raises(CheckpointError, match="'gone.json' is not in ComfyUI's input folder; put a .json"):
        ours["LoadPoses"].execute("gone.json")
    assert "press R" in ours["LoadPoses"].validate_inputs("gone.json")
    assert ours["LoadPoses"].validate_inputs(None) is True and ours["LoadPoses"].validate_inputs(WALK) is True


@pytest.mark.parametrize("text, says", [
    ('{"a": 1}', "has no 'people'"), ("[" * 5000, "cannot be read as poses"), ("not json", "not a JSON file of poses"),
    ('[{"people": [{"pose_keypoints_2d": ["x"]}], "canvas_width": 9, "canvas_height": 9}]', "no number"),
])  # fmt: skip
def test_foreign_nested_and_broken_json_is_refused_with_its_path(ours, inputs, text, says):
    with pytest.raises(CheckpointError, match=says) as refusal:
        ours["LoadPoses"].execute(inputs("foreign.json", text))
    assert "foreign.json: " in str(refusal.value)


def test_a_file_of_100_mb_is_refused_before_it_is_read(ours):
    path = Path(folder_paths.get_input_directory()) / "huge.json"
    with open(path, "wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(CheckpointError, match="larger than 64 MiB"):
        ours["LoadPoses"].execute("huge.json")
    path.unlink()


def test_clips_of_other_length_and_rate_are_compared_and_keep_their_frames(ours):
    long, short = as_core(people(12)), as_core(people(5))
    sheet, text, count, _ = ours["PoseReport"].execute(short, long).args
    assert text.startswith("5 frames") and count == 2 and sheet.ndim == 4
    assert len(ours["RetargetPoses"].execute(long, short).args[0]) == 12


def test_cancel_stops_the_drawing(ours):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours["DrawPoses"].execute(as_core(people()))


def test_frames_that_no_memory_holds_are_refused_before_they_are_drawn(ours, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *a, **k: 2**20)
    with pytest.raises(ShapeError, match=r"6 frames of 832x480 px needs 0\.0 GiB"):
        ours["DrawPoses"].execute(as_core(people()))


def test_inputs_are_never_written_into(ours):
    frames = as_core(people())
    kept = json.dumps(frames)
    clean = ours["CleanPoses"].execute(frames).args[0]
    ours["RetargetPoses"].execute(frames, frames)
    ours["DrawPoses"].execute(frames)
    ours["PoseReport"].execute(frames, clean)
    assert json.dumps(frames) == kept


def test_names_that_lead_out_of_the_output_folder_are_refused(ours):
    with pytest.raises(ConfigError, match="filename_prefix"):
        ours["SavePoses"].execute(as_core(people()), "../out")


def test_confidences_of_0_and_1_are_written_for_readers_that_know_no_others(ours):
    truth = people()
    truth[..., 2] *= 0.7
    (path,) = ours["SavePoses"].execute(as_core(truth), "poses_test/binary", "0 and 1").args
    found = {value for frame in json.loads(Path(path).read_text()) for person in frame["people"]
             for value in person["pose_keypoints_2d"][2::3]}  # fmt: skip
    assert found == {1.0}


if importlib.util.find_spec("comfy_extras.nodes_sdpose"):

    def test_cores_own_nodes_take_what_ours_give(ours):
        core = importlib.import_module("comfy_extras.nodes_sdpose")
        fitted = ours["RetargetPoses"].execute(as_core(people()), as_core(people())[:1]).args[0]
        drawn = core.SDPoseDrawKeypoints.execute(fitted, True, True, True, True, 4, 3, 0.3, True).args[0]
        assert drawn.shape == (6, HEIGHT, WIDTH, 3) and all(frame.any() for frame in drawn)
        assert len(core.SDPoseFaceBBoxes.execute(fitted, 1.5, True).args[0]) == 6
