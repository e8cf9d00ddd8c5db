"""Job files that learn one clip's motion beside own files of Wan: numbers of the preset, files, what is refused."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.networks.base_licence import OF_PACK, OF_WAN, UNKNOWN, licence_of
from pack.motion.training import job_motion
from pack.motion.training.job import read_job, run_job
from pack.motion.training.job_file import MotionOfClip
from pack.motion.training.reports import Watcher
from test_job_wan import Listening
from wan_files import CONFIGS
from wan_job import wan_job

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "training" / "arc_motion.yaml"
MOTION = {"num_frames": 17, "sparse_frames": 9, "resolution": 32, "spatial_steps": 2, "temporal_steps": 2,
          "stage": "temporal", "heads": "all"}  # fmt: skip


def motion_job(folder, *, motion=None, training=None, **more):
    """The path of a job that trains a few steps; None takes a setting out."""
    path = wan_job(folder, motion={**MOTION, **(motion or {})}, windows=None, **more)
    values = json.loads(path.read_text())
    values["training"] = {"learning_rate": 1e-2, "rank": 2, "warmup_steps": 0, **(training or {})}
    path.write_text(json.dumps(values))
    return path


def test_a_job_learns_the_first_clip_beside_own_files_and_says_of_what(tmp_path):
    heard = Listening()
    done = run_job(read_job(motion_job(tmp_path)), heard)
    assert done.training.step == 2 and "9 of them are trained, 3 latent frames" in "\n".join(heard.lines)
    tensors, told = read_safetensors(done.path)
    assert told["caption"] == "it brightens" and told["license"] == OF_WAN and told["rank"] == "2"
    assert json.loads(told["training"])["weight_decay"] == 0.1  # of the preset quick
    assert json.loads(told["motion_loss"])["weighting"] == "bell" and told["suggested_strength"] == "0.5"
    assert told["trained_size"] == "48x32 px, 9 of 17 frames" and "head_map" not in told
    assert all(name.startswith("diffusion_model.blocks.") for name in tensors)


def test_an_expert_is_trained_at_its_own_noise_and_looked_at_there(tmp_path):
    path = motion_job(tmp_path, config=CONFIGS["A14B I2V"], model="low_noise.safetensors", expert="low_noise",
                      motion={"stage": "both"})  # fmt: skip
    done = run_job(read_job(path), Watcher())
    told = read_safetensors(done.path)[1]
    assert told["expert"] == "low_noise" and json.loads(told["training"])["sigma_max"] == 0.9
    assert done.training.step == 2  # it begins with a picture: no spatial stage
    assert job_motion.prepare_motion(read_job(path)).sigma == 0.7


@pytest.mark.parametrize("change, said", [
    ({"training": {"num_steps": 5}}, "training.num_steps: set motion.spatial_steps"),
    ({"training": {"targets": ["q"]}}, "training.targets: heads are chosen by motion.stage"),
    ({"motion": {"preset": "mine"}}, "preset is 'mine'; it must be one of: quick, paper, tiny"),
    ({"motion": {"stage": "mine"}}, "stage is 'mine'"), ({"motion": {"sparse": 3}}, "motion does not know 'sparse'"),
    ({"motion": {"rank": 3}}, "motion does not know 'rank'"), ({"prompts": None}, "prompts is missing"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_the_first_step(tmp_path, change, said):
    path = motion_job(tmp_path, **change)
    if "prompts" in change:
        values = json.loads(path.read_text())
        values.pop("prompts", None)
        path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=said):
        run_job(read_job(path))


def test_a_lora_of_the_looks_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "lora_spatial.safetensors").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="lora_spatial.safetensors exists; choose another output"):
        run_job(read_job(motion_job(tmp_path)))


def test_the_licence_of_a_base_is_its_own_word_else_what_is_known_of_its_kind():
    assert licence_of({"license": " MIT "}, is_wan=True) == {"license": "MIT"}
    assert licence_of({"modelspec.license": "CC-BY\n4.0"}) == {"license": "CC-BY 4.0"}
    found = [licence_of({}, **more)["license"] for more in ({}, {"is_wan": True}, {"is_wan": True, "is_ours": True})]
    assert found == [UNKNOWN, OF_WAN, OF_PACK]


def test_the_shipped_example_is_whole_and_the_page_names_every_key():
    job = read_job(EXAMPLE)
    assert job.motion.preset == "tiny" and job.model == "motionblocks-wan" and job.training.loop.seed == 0
    page = EXAMPLE.parents[1].joinpath("training.md").read_text()
    assert not [item.name for item in fields(MotionOfClip) if f"`{item.name}`" not in page]
    ready = job_motion.prepare_motion(job)
    assert ready.clip.caption == "red ball, on sand" and ready.clip.plan.num_latents == 5
    assert (ready.model.config.loop.num_steps, ready.model.config.loop.first_stage_steps) == (300, 100)
