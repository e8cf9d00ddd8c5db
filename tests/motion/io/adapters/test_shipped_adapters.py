"""The adapters that come with the pack: made by the jobs in docs/training, for the first built-in model."""

import json
from pathlib import Path

import pytest
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.builtin_model import load_builtin
from pack.motion.io.adapters.adapter_file import read_adapter
from pack.motion.io.adapters.shipped import FOLDER, SHIPPED_ADAPTERS, adapter_file
from pack.motion.io.networks.builtin_names import BUILTIN_NAMES
from pack.motion.models.architectures import ARCHITECTURES
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


def test_the_default_rank_is_the_largest_within_a_twentieth_of_the_model():
    """Of every built-in model that adapters go into, and exactly of the first, whose next rank would be above."""
    shares = {}
    for name in BUILTIN_NAMES:
        model = load_builtin(name, device="cpu")
        network = model.dit
        default = ARCHITECTURES.of(network.config).training.motion(model.spec).rank
        base = sum(value.numel() for value in network.parameters())
        for rank in (default, default + 1):
            adapter = MIVA(network, MIVAConfig(rank=rank), device="meta")
            shares[name, rank - default] = sum(value.numel() for value in adapter.parameters().values()) / base
    first = BUILTIN_NAMES[0]
    assert max(share for (_, above), share in shares.items() if not above) <= 0.05
    assert shares[first, 1] > 0.05


def test_those_named_are_those_there():
    assert {path.stem for path in FOLDER.iterdir()} == set(SHIPPED_ADAPTERS)


def test_a_file_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert adapter_file("jelly") == FOLDER / "jelly.safetensors"
    Path("jelly").touch()
    assert adapter_file("jelly") == Path("jelly") and adapter_file("x/y.safetensors") == Path("x/y.safetensors")
