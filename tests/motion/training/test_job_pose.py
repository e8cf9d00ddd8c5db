"""Job files that make a Wan follow poses: numbers of the preset, files, resume, and what is refused."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.media.video import write_video
from pack.motion.io.networks.base_licence import OF_WAN
from pack.motion.io.pose_files import write_pose_file
from pack.motion.sequence.trained_as import TrainedAs
from pack.motion.shell.main import main
from pack.motion.training.job import read_job, run_job
from pack.motion.training.job_file import PoseOfClips
from pack.motion.training.reports import Watcher
from posed_clips import HEIGHT, WIDTH, pictures, poses
from test_job_wan import Listening
from wan_files import CONFIGS
from wan_job import wan_job

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "training" / "follow_poses.yaml"
POSE = {"preset": "low memory", "num_frames": 8, "width": WIDTH, "height": HEIGHT}


def pose_job(folder, *, pose=None, training=None, config=CONFIGS["A14B I2V"], **more):
    """The path of a job that trains a few steps on one clip of a figure that walks."""
    path = wan_job(folder, config=config, pose={**POSE, **(pose or {})}, windows=None,
                   **{"model": "high_noise.safetensors", "expert": "high_noise", **more})  # fmt: skip
    clips = folder / "clips"
    if not (clips / "walk.json").exists():
        write_video(clips / "walk.mp4", pictures(range(20)).movedim(1, -1), 16)
        (clips / "walk.txt").write_text("it brightens")
        write_pose_file(clips / "walk.json", poses(20))
    values = json.loads(path.read_text())
    values["training"] = {"num_steps": 3, "learning_rate": 1e-2, "rank": 2, "save_every": 1, **(training or {})}
    path.write_text(json.dumps(values))
    return path


def test_a_job_learns_from_a_folder_beside_own_files_and_says_of_what(tmp_path):
    heard = Listening()
    done = run_job(read_job(pose_job(tmp_path)), heard)
    lines = "\n".join(heard.lines)
    assert done.training.step == 3 and "1 samples of 1 clips: 48x32 px" in lines
    assert "skipped 2:" in lines and "0.mp4: no poses beside it" in lines
    tensors, told = read_safetensors(done.path)
    assert TrainedAs.of(told) == TrainedAs("joint", "one", "all", "1") and told["license"] == OF_WAN
    assert (told["frames"], told["rank"], told["expert"], told["input_channels"]) == ("8", "2", "high_noise", "36")
    assert json.loads(told["training"])["sigma_min"] == 0.9 and json.loads(told["training"])["shift"] == 5.0
    assert all(name.startswith("diffusion_model.blocks.") for name in tensors)


def test_a_job_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    class Stopping(Watcher):
        def step(self, report, losses):
            if report.step == 2:
                raise KeyboardInterrupt

    whole = run_job(read_job(pose_job(tmp_path, name="whole.json", output=str(tmp_path / "whole.safetensors"))))
    path = pose_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_job(read_job(path), Stopping())
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "pose": {**values["pose"], "clean_timestep": True}, "resume": "latest"}))
    with pytest.raises(ConfigError, match="clean_timestep was False, is True"):
        run_job(read_job(path))
    path.write_text(json.dumps({**values, "resume": "latest"}))
    resumed = run_job(read_job(path))
    one, other = (read_safetensors(done.path)[0] for done in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("change, said", [
    ({"training": {"targets": ["q"]}}, "training.targets: layers are chosen by pose.include_cross_attn"),
    ({"training": {"mode": "full"}}, "training.mode: poses are learned by a LoRA"),
    ({"pose": {"preset": "mine"}}, "preset is 'mine'; it must be one of: paper, low memory, tiny"),
    ({"pose": {"num_frames": 9}}, "num_frames is 9; latent frames of mode joint"),
    ({"pose": {"rank": 3}}, "pose does not know 'rank'"), ({"pose": {"mode": "both"}}, "mode is 'both'"),
    ({"motion": {}}, "motion and pose are both given"), ({"prompts": None}, "prompts is missing"),
    ({"clips": None, "generate": {"num_clips": 2}}, "pose needs clips, a folder"),
    ({"pose": {"num_frames": 24}}, "no usable clip .*only 20 of the 24 frames"),
    ({"config": CONFIGS["I2V"], "model": "i2v.safetensors", "expert": None}, "reads CLIP vision tokens"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_the_first_step(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        run_job(read_job(pose_job(tmp_path, **change)))


def test_models_that_are_no_wan_are_refused(tmp_path):
    path = pose_job(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "motionblocks-tiny", "expert": None}))
    with pytest.raises(CheckpointError, match="poses are learned beside Wan 2.1, an expert of Wan 2.2"):
        run_job(read_job(path))


def test_the_shell_trains_the_small_wan_by_its_own_preset(tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "walk.mp4", pictures(range(20)).movedim(1, -1), 16)
    write_pose_file(clips / "walk.json", poses(20))
    job = {"model": "motionblocks-wan-i2v", "clips": str(clips), "output": str(tmp_path / "lora.safetensors"),
           "caption": "on sand", "pose": {"num_frames": 5, "width": 64, "height": 64},
           "training": {"num_steps": 1, "batch_size": 1}}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main(["train", "--config", str(tmp_path / "job.json"), "--quiet"]) == 0
    assert "pose LoRA: " in capsys.readouterr().out
    told = read_safetensors(tmp_path / "lora.safetensors")[1]
    assert told["sequence_mode"] == "separate" and json.loads(told["training"])["shift"] == 3.0
    assert json.loads(told["captions"]) == ["on sand"]


def test_the_shipped_example_is_whole_and_the_page_names_every_key():
    job = read_job(EXAMPLE)
    assert job.pose.samples_per_clip == 4 and job.model == "motionblocks-wan-i2v" and job.motion is None
    page = EXAMPLE.parents[1].joinpath("training.md").read_text()
    assert not [item.name for item in fields(PoseOfClips) if f"`{item.name}`" not in page]
