"""The adapters that come with the pack: made by the jobs in docs/training, for the first built-in model."""

import json
from pathlib import Path

import pytest
from pack.motion.builtin_model import load_builtin
from pack.motion.io.adapters.adapter_file import read_adapter
from pack.motion.io.adapters.shipped import FOLDER, SHIPPED_ADAPTERS, adapter_file
from pack.motion.io.networks.builtin_names import BUILTIN_NAMES
from pack.motion.training.job_file import read_job

JOBS = Path(__file__).resolve().parents[4] / "docs" / "training"


@pytest.fixture(scope="module")
def dit():
    return load_builtin(device="cpu").dit


@pytest.mark.parametrize("name", SHIPPED_ADAPTERS)
def test_a_shipped_adapter_is_what_its_job_makes(dit, name):
    file, job = read_adapter(adapter_file(name)), read_job(JOBS / f"{name}_adapter.yaml")
    assert json.loads(file.metadata["training"]) == job.training.to_dict()
    assert file.metadata["base_model"] == job.model == BUILTIN_NAMES[0]
    assert file.metadata["training_steps"] == str(job.training.loop.num_steps)
    frames = job.windows.num_frames
    assert file.metadata["trained_size"] == f"64x64 px, {frames} frames"
    assert file.build(dit).parameters().keys() == file.tensors.keys()


def test_those_named_are_those_there():
    assert {path.stem for path in FOLDER.iterdir()} == set(SHIPPED_ADAPTERS)


def test_a_file_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert adapter_file("jelly") == FOLDER / "jelly.safetensors"
    Path("jelly").touch()
    assert adapter_file("jelly") == Path("jelly") and adapter_file("x/y.safetensors") == Path("x/y.safetensors")
