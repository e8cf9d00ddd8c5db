"""Pose files: one or a folder of them, read as written, and what is none refused with the path and a way out."""

import json
import time

import numpy as np
import pytest
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.pose_files import MAX_FILE_BYTES, pose_file_names, read_pose_file, write_pose_file
from pack.motion.pose.keypoints import read_poses
from pose_people import HEIGHT, WIDTH, as_core, as_openpose, crossing, one

SIZE = (WIDTH, HEIGHT)


def test_written_and_read_again_is_the_same_to_the_bit(tmp_path):
    points = crossing(0, 24)
    points[..., 2] *= np.random.default_rng(0).uniform(0.4, 1, points.shape[:-1])
    poses = read_poses(as_core(points))
    path = write_pose_file(tmp_path / "clip.json", poses)
    again = read_pose_file(path)
    assert (again.points == poses.points).all() and (again.width, again.height) == (poses.width, poses.height)
    assert again.to_frames() == json.loads(path.read_text())


def test_an_existing_file_stays_unless_it_may_be_replaced(tmp_path):
    poses = read_poses(as_core(one(0, 2)[:, None]))
    first = write_pose_file(tmp_path / "a.json", poses)
    before = first.read_bytes()
    assert write_pose_file(first, poses, binary=True, overwrite=False).name == "a_2.json"
    assert first.read_bytes() == before
    with pytest.raises(ConfigError, match=r"\.json, not 'a.txt'"):
        write_pose_file(tmp_path / "a.txt", poses)


def test_a_folder_gives_its_frames_in_the_order_of_their_numbers(tmp_path):
    truth = one(1, 12)[:, None]
    for t, frame in enumerate(as_openpose(truth)):
        (tmp_path / f"clip_{t}_keypoints.json").write_text(json.dumps(frame))
    (tmp_path / "notes.txt").write_text("no frame")
    np.testing.assert_allclose(read_pose_file(tmp_path, size=SIZE).points, truth, atol=1e-9)
    with pytest.raises(ConfigError, match="width and height"):
        read_pose_file(tmp_path)
    (tmp_path / "clip_9_keypoints.json").write_text("{")
    with pytest.raises(CheckpointError, match="clip_9_keypoints.*not a JSON"):
        read_pose_file(tmp_path, size=SIZE)


def test_clips_beside_frames_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no .json file"):
        read_pose_file(tmp_path)
    (tmp_path / "clip.json").write_text(json.dumps(as_core(one(1, 3)[:, None])))
    with pytest.raises(CheckpointError, match="whole clip of 3 frames.*give that file itself"):
        read_pose_file(tmp_path)


@pytest.mark.parametrize("text, says", [
    ("", "not a JSON"), ("hello", "not a JSON"), ("[" * 100_000, "nested too deep"), ('{"people": 3}', "no list"),
    ('{"animals": [], "version": "ap10k"}', "AP10k"), ('{"__class__": "torch"}', "no 'people'.*__class__"),
    ('{"people": [], "people": []}', "appears twice"), ("[" + "1," * 5_000_000 + "1]", "more than 4000000 parts"),
    ('[{"people": [{"pose_keypoints_2d": [' + ",".join(["1e999"] * 54) + "]}]}]", "width and height"),
])  # fmt: skip
def test_what_is_no_pose_file_is_refused_with_its_path(tmp_path, text, says):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=says) as caught:
        read_pose_file(path)
    assert "odd.json" in str(caught.value) or isinstance(caught.value, ConfigError)


def test_a_huge_file_is_refused_before_it_is_read_through(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as handle:
        handle.truncate(100 * 2**20)
    before = time.process_time()
    with pytest.raises(CheckpointError, match=f"larger than {MAX_FILE_BYTES // 2**20} MiB"):
        read_pose_file(path)
    assert time.process_time() - before < 2


def test_videos_and_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="absent.json.*No such file"):
        read_pose_file(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="video or a picture.*SDPose or DWPose"):
        read_pose_file(tmp_path / "clip.mp4")
    (tmp_path / "bin.json").write_bytes(b"\x80\x04\xff")
    with pytest.raises(CheckpointError, match="not a JSON"):
        read_pose_file(tmp_path / "bin.json")


def test_names_are_those_of_json_files_folders_and_what_lies_in_small_folders(tmp_path):
    for name in ("b.json", "A.JSON", "note.txt", ".hidden.json", "walk/f_1.json", "walk/f_2.json", "deep/er/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    many = tmp_path / "many"
    many.mkdir()
    for frame in range(51):
        (many / f"{frame}.json").write_text("{}")
    assert pose_file_names(tmp_path) == ["A.JSON", "b.json", "many/", "walk/", "walk/f_1.json", "walk/f_2.json"]
    assert pose_file_names(tmp_path / "nowhere") == []
