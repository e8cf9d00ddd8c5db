"""`animate --poses`: a picture and a pose file in, a video on the disk, one line for everything that cannot be."""

import os

import numpy as np
import pytest
import torch
from pack.motion.io.networks.builtin_wan import save_builtin_wan
from pack.motion.io.pose_files import write_pose_file
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.models.wan.config import WanConfig
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.pose.keypoints import Poses
from pack.motion.shell import main
from PIL import Image
from pose_people import one

WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    spec = WanSpec(
        config=WanConfig(num_layers=1, num_attention_heads=1, hidden_width=16, caption_channels=64, concat_channels=20),
        sampling=SamplingDefaults(num_steps=1, guidance_scale=1.0, num_frames=5, fps=8.0, integer_timesteps=False),
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pose.safetensors"
    save_builtin_wan(path, spec, WanDiT(spec.config).state_dict(), {"ground": ["sand"]}, {"sequence_mode": "separate"})
    return str(path)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30)).save(tmp_path / "doll.png")
    points = one(1, 9, (200, 120))[:, None]
    write_pose_file(tmp_path / "dance.json", Poses(points, 400, 300))
    write_pose_file(tmp_path / "doll.json", Poses(one(2, 1, (160, 120))[:, None] * (0.7, 0.7, 1), WIDTH, HEIGHT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def animate(weights, *arguments):
    given = [] if "--model" in arguments else ["--model", weights]
    return main.main(["animate", *arguments, *given, "--quiet", "--device", "cpu"])


def test_a_picture_follows_the_poses_of_a_file(desk, weights, capsys):
    assert animate(weights, "doll.png", "--poses", "dance.json") == 0
    said = capsys.readouterr().out
    assert f"video: {desk / 'doll.mp4'} (5 frames, 128x96, 16 fps)" in said and "the first 5 of 9 poses" in said
    assert "poses keep their own body" in said and "drawn puppets" in said
    assert animate(weights, "doll.png", "--poses", "dance.json", "--pose-reference", "doll.json", "--frames", "9",
                   "--size", "96x96", "--fps", "8", "-o", "b.gif") == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "(9 frames, 96x96, 8 fps)" in said and "person 0: scale" in said and "the first" not in said


def test_a_reference_changes_the_video_and_a_prompt_is_read(desk, weights):
    for name, more in (("a", []), ("b", ["--pose-reference", "doll.json"]), ("c", ["--prompt", "sand"])):
        assert animate(weights, "doll.png", "--poses", "dance.json", "-o", f"{name}.gif", *more) == 0
    assert len({(desk / f"{name}.gif").read_bytes() for name in "abc"}) == 3


@pytest.mark.parametrize("arguments, words", [
    (["--poses", "dance.json"], "--poses moves a picture, and none is given"),
    (["doll.png", "--poses", "none.json"], "none.json"),
    (["doll.png", "--poses", "doll.png"], "doll.png"),
    (["doll.png", "--poses", "dance.json", "--frames", "10"], "--frames is 10, dance.json has 9"),
    (["doll.png", "--poses", "dance.json", "--size", "100x96"], "multiples of 16"),
    (["doll.png", "--poses", "dance.json", "--motion", "pan left"], "--motion: for models that animate a photo; leave "
     "it out where --poses is given"),
    (["doll.png", "--poses", "dance.json", "--pose-reference", "dance.json"], "is of a picture of 400x300 px, doll.png "
     "has 320x240"),
    (["doll.png", "--poses", "dance.json", "--model", "motionblocks-wan-i2v"], "not trained to follow poses"),
    (["doll.png", "--poses", "dance.json", "--adapter", "jelly"], "--adapter: motion adapters would take the poses"),
    (["doll.png", "--pose-reference", "doll.json"], "--pose-reference fits the poses of --poses"),
    (["doll.png", "--prompt", "sand"], "has a picture follow poses; say which with --poses"),
])  # fmt: skip
def test_every_refusal_is_one_line_with_code_2_and_writes_nothing(desk, weights, capsys, arguments, words):
    before = sorted(os.listdir(desk))
    assert animate(weights, *arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("motionblocks: ") and err.count("\n") == 1 and words in err
    assert sorted(os.listdir(desk)) == before


def test_poses_of_a_part_of_the_canvas_are_moved_and_scaled_and_missing_points_stay_missing():
    points = np.zeros((1, 1, 136, 3))
    points[0, 0, 0] = (100, 50, 1.0)
    part = Poses(points, 200, 100).in_part((0, 50, 100, 100), (96, 48))
    assert part.points[0, 0, 0].tolist() == [48.0, 24.0, 1.0] and not part.points[0, 0, 1:].any()
    assert (part.width, part.height) == (96, 48) and points[0, 0, 0, 0] == 100
