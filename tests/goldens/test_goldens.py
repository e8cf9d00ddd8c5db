"""Today's results against those kept: bit for bit on the kind of machine that made them, closely on any other."""

import json

import golden_values as goldens
import pytest
import torch

pytestmark = pytest.mark.slow
KEPT = json.loads(goldens.RECORD.read_text(encoding="utf-8"))
SAME_MACHINE = KEPT["machine"] == goldens.machine()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agrees(now: dict, kept: dict) -> None:
    """Fail unless a held tensor is the kept one."""
    assert now["shape"] == kept["shape"] and now.get("names") == kept.get("names")
    torch.testing.assert_close(torch.tensor(now["values"]), torch.tensor(kept["values"]), rtol=2e-3, atol=2e-3)
    assert not SAME_MACHINE or now["sha256"] == kept["sha256"], "close, but other bits"


@pytest.mark.parametrize("edges", [None, "crop"])
@pytest.mark.parametrize("name", goldens.PROMPTS)
def test_built_in_model_samples_the_kept_video(name, edges):
    now, kept = goldens.sampled(name, edges=edges), KEPT["sampled"][f"{name}, edges {edges}"]
    for part in kept:
        agrees(now[part], kept[part])


@pytest.mark.parametrize("name", goldens.PROMPTS)
def test_network_answers_as_kept(name):
    agrees(goldens.one_call(name, "torch"), KEPT["one call"][name])


def test_training_and_its_resume_from_a_kept_state_end_in_the_kept_lora(tmp_path):
    fresh, resumed = tmp_path / "fresh", tmp_path / "resumed"
    fresh.mkdir(), resumed.mkdir()
    state = goldens.STATE / "state-00000002"
    again = goldens.written_job(resumed, resume=str(state), allow_changes=not SAME_MACHINE)
    for job in (goldens.written_job(fresh), again):
        now, kept = goldens.trained(job), KEPT["training"]
        assert now["losses"] == pytest.approx(kept["losses"], rel=1e-3) and now["shapes"] == kept["shapes"]
        assert now["metadata"] == kept["metadata"]
        agrees(now["lora"], kept["lora"])
    assert not SAME_MACHINE or now["losses"] == kept["losses"]


@pytest.mark.parametrize("name", goldens.PROMPTS)
def test_model_file_is_written_as_kept(name, tmp_path):
    assert goldens.exported(name, tmp_path) == KEPT["exported"][name]


def test_shipped_graphs_are_the_kept_ones():
    assert goldens.graphs() == KEPT["graphs"]


def test_job_files_of_the_first_edition_mean_what_they_meant():
    assert goldens.jobs() == KEPT["jobs"]
