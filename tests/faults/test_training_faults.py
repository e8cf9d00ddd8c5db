"""Training states under faults: cuts, kills, full disks, other settings, two trainers at once."""

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.files import atomic
from pack.motion.io.training import states
from pack.motion.io.training.states import list_states, newest_state, prune_states, read_state, training_folder
from pack.motion.training.config import TrainingConfig
from pack.motion.training.trainer import Trainer
from trained_toy import CONFIG, train
from training_toys import ToyTask

pytestmark = pytest.mark.slow
SHORT = TrainingConfig.from_dict(CONFIG.to_dict() | {"num_steps": 9})


def trained(folder, config=SHORT, **options):
    trainer = Trainer(ToyTask(), config, folder=folder, **options)
    return trainer, trainer.run()


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def edit(state, name, value):
    """Change one entry of a record, as an editor would."""
    record = json.loads((state / "state.json").read_text())
    assert name in record
    (state / "state.json").write_text(json.dumps(record | {name: value}))


def as_of_0_1(state):
    """The record as 0.1 wrote it: the same entries without a checksum."""
    record = json.loads((state / "state.json").read_text())
    del record["sha256"]
    (state / "state.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


DAMAGES = {
    "cut weights": lambda state: cut(state / "weights.safetensors"),
    "flipped bit in the average": lambda state: flip(state / "ema.safetensors"),
    "no optimizer": lambda state: (state / "optimizer.safetensors").unlink(),
    "no record": lambda state: (state / "state.json").unlink(),
    "cut record": lambda state: cut(state / "state.json"),
    "record of something else": lambda state: (state / "state.json").write_text("[1, 2]"),
    "edited setting": lambda state: edit(state, "config", {"learning_rate": 0.5}),
    "edited step": lambda state: edit(state, "step", 8),
    "edited files": lambda state: edit(state, "files", {}),
    "other task": lambda state: edit(state, "task", {"kind": "another"}),
    "flipped bit in the record": lambda state: (state / "state.json").write_text(
        (state / "state.json").read_text().replace('"seed": 0', '"seed": 1')
    ),
    "another checksum": lambda state: edit(state, "sha256", None),
    "endless number": lambda state: (state / "state.json").write_text(
        (state / "state.json").read_text().replace('"seed": 0', '"seed": 1e999')
    ),
    "deep record": lambda state: (state / "state.json").write_text("[" * 900 + "]" * 900),
    "empty folder": lambda state: [path.unlink() for path in state.iterdir()],
    "record that leaves the folder": lambda state: (state / "state.json").write_text(
        (state / "state.json").read_text().replace('"weights.safetensors"', '"../weights.safetensors"')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_newest_state_is_passed_over_aloud_and_made_again(tmp_path, caplog, damage):
    whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "hurt")
    newest, older = list_states(tmp_path / "hurt")
    damage(newest)
    rest = Trainer(ToyTask(seed=4), SHORT, folder=tmp_path / "hurt", resume="latest")
    rest.run()
    assert f"passed over {newest}" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(whole.values, rest.values)) and whole.losses == rest.losses
    assert read_state(newest).step == 9 and older.exists()


def test_states_without_a_checksum_resume_to_the_same_bits(tmp_path):
    whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "old")
    newest, older = list_states(tmp_path / "old")
    shutil.rmtree(newest)
    as_of_0_1(older)
    rest = Trainer(ToyTask(seed=4), SHORT, folder=tmp_path / "old", resume="latest")
    rest.run()
    assert read_state(older).step == 6 and "sha256" in read_state(newest).record
    assert all(torch.equal(a, b) for a, b in zip(whole.values, rest.values)) and whole.losses == rest.losses


def test_a_record_laid_out_otherwise_is_still_whole(tmp_path):
    trained(tmp_path)
    newest = list_states(tmp_path)[0]
    record = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text("\ufeff" + json.dumps(dict(reversed(record.items()))), encoding="utf-8")
    assert read_state(newest).record == record


def test_a_folder_without_any_whole_state_is_not_started_anew_in_silence(tmp_path):
    trained(tmp_path)
    for state in list_states(tmp_path):
        cut(state / "log.safetensors")
    with pytest.raises(CheckpointError, match="no whole training state.*log.safetensors has .* bytes"):
        Trainer(ToyTask(), SHORT, folder=tmp_path, resume="latest").run()


def test_a_folder_with_states_needs_a_word_about_resuming(tmp_path):
    trained(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="holds states of an earlier run .state-00000009.; resume it"):
        Trainer(ToyTask(), SHORT, folder=tmp_path).run()
    assert content(tmp_path) == before


def test_an_empty_folder_starts_at_0_and_says_so(tmp_path, caplog):
    assert trained(tmp_path / "new" / "deep", resume="latest")[1].step == 9
    assert "holds no state yet; it starts at step 0" in caplog.text


def test_a_finished_run_resumes_to_its_end(tmp_path):
    _, result = trained(tmp_path)
    before = content(tmp_path)
    again = trained(tmp_path, resume="latest")[1]
    assert again.losses == result.losses and content(tmp_path) == before


CHANGES = {
    "learning_rate": (0.5, "training.learning_rate was 0.01, is 0.5"),
    "seed": (3, "training.seed was 0, is 3"),
    "batch_size": (1, "training.batch_size was 2, is 1"),
    "num_steps": (12, "training.num_steps was 9, is 12"),
    "ema_decay": (0.0, "training.ema_decay was 0.9, is 0.0"),
    "optimizer": ("muon", "training.optimizer was adamw, is muon"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_settings_are_listed_and_need_a_switch(tmp_path, name, caplog):
    value, text = CHANGES[name]
    trained(tmp_path, stopped := SHORT)
    changed = TrainingConfig.from_dict(stopped.to_dict() | {name: value})
    with pytest.raises(ConfigError, match=text):
        trained(tmp_path, changed, resume="latest")
    Trainer(ToyTask(), changed, folder=tmp_path, resume="latest", allow_changes=True).run()
    assert f"resumed with changes: {text}" in caplog.text


def test_settings_that_change_no_number_may_change(tmp_path):
    config = TrainingConfig.from_dict(SHORT.to_dict() | {"schedule": "constant"})
    trained(tmp_path, config)
    longer = TrainingConfig.from_dict(config.to_dict() | {"num_steps": 12, "save_every": 1, "keep_states": 3})
    trainer, result = trained(tmp_path, longer, resume="latest")
    assert result.step == 12 and len(list_states(tmp_path)) == 3
    direct = Trainer(ToyTask(), longer)
    direct.run()
    assert all(torch.equal(a, b) for a, b in zip(trainer.values, direct.values))


def test_changed_data_and_number_of_processes_are_listed(tmp_path):
    class Other(ToyTask):
        def fingerprint(self):
            return {"toy": 2, "clips": {"a.mp4": "x"}}

    class TwoProcesses:
        rank, size = 0, 2
        sum_ = equalize = staticmethod(lambda tensors: None)

    trained(tmp_path)
    with pytest.raises(ConfigError, match=r"clips was not there, is 1 entries; toy was 1, is 2"):
        Trainer(Other(), SHORT, folder=tmp_path, resume="latest").run()
    with pytest.raises(ConfigError, match="processes was 1, is 2"):
        Trainer(ToyTask(), SHORT, folder=tmp_path, resume="latest", world=TwoProcesses()).run()


def test_a_state_of_another_model_is_refused_whatever_is_allowed(tmp_path):
    trained(tmp_path)
    other = ToyTask(width=24)
    before = [value.detach().clone() for value in other.net.parameters()]
    with pytest.raises(CheckpointError, match="belongs to another model or adapter: 3 weights"):
        Trainer(other, SHORT, folder=tmp_path, resume="latest", allow_changes=True).run()
    assert all(torch.equal(a, b) for a, b in zip(before, other.net.parameters()))


def test_a_state_made_by_a_newer_pack_is_refused_by_version(tmp_path):
    trained(tmp_path)
    newest = list_states(tmp_path)[0]
    record = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="made by version 99, this pack reads up to 1"):
        read_state(newest)


def test_an_older_state_goes_on_in_a_folder_of_its_own_only(tmp_path):
    whole, _ = trained(tmp_path / "a")
    older = list_states(tmp_path / "a")[1]
    with pytest.raises(ConfigError, match="not older than the state to resume"):
        Trainer(ToyTask(), SHORT, folder=tmp_path / "a", resume=older).run()
    rest = Trainer(ToyTask(), SHORT, folder=tmp_path / "b", resume=older)
    rest.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.values, rest.values))
    assert [state.name for state in list_states(tmp_path / "b")] == ["state-00000009"]


def test_two_whole_states_stay_and_damaged_ones_do_not_count(tmp_path):
    trained(tmp_path, TrainingConfig.from_dict(SHORT.to_dict() | {"save_every": 2, "keep_states": 5}))
    names = [state.name for state in list_states(tmp_path)]
    assert names == [f"state-{step:08d}" for step in (9, 8, 6, 4, 2)]
    cut(list_states(tmp_path)[0] / "weights.safetensors")
    edit(list_states(tmp_path)[1], "step", 7)
    (tmp_path / "my notes").mkdir()
    prune_states(tmp_path, 2)
    assert [state.name for state in list_states(tmp_path)] == [f"state-{step:08d}" for step in (9, 8, 6, 4)]
    assert (tmp_path / "my notes").is_dir()


def test_old_states_are_pruned_only_after_the_new_one_was_looked_at(tmp_path, monkeypatch):
    checked, removed = [], []
    monkeypatch.setattr(states, "check_state", lambda path, check=states.check_state: (
        checked.append(path.name), check(path))[1])  # fmt: skip
    monkeypatch.setattr(states, "discard_folder", lambda path, real=states.discard_folder: (
        removed.append((path.name, list(checked))), real(path)))  # fmt: skip
    trained(tmp_path)
    assert [name for name, _ in removed] == ["state-00000003"] and "state-00000009" in removed[0][1]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_one_left_alone(tmp_path):
    train(tmp_path / "alone")
    chance, folder = random.Random(0), tmp_path / "killed"
    command = [sys.executable, str(Path(__file__).with_name("trained_toy.py")), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as parent:  # fmt: skip
        ends = []
        for kill in range(21):
            parent.stdin.write("0.05\n" if kill < 20 else "0\n")  # seconds a step: no run gets to its end by itself
            pid = int(parent.stdout.readline())
            if kill < 20:
                time.sleep(chance.uniform(0.0, 0.25))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ends.append(int(parent.stdout.readline()))
            state, passed = newest_state(folder)
            assert passed == [] and (state is None or state.step % 3 == 0 or state.step == 50)
        parent.stdin.close()
    assert ends.count(signal.SIGKILL) > 10 and ends[-1] == 0
    one, two = (read_state(list_states(tmp_path / name)[0]) for name in ("alone", "killed"))
    for part in ("weights", "optimizer", "ema", "log"):
        assert all(torch.equal(value, two.tensors[part][name]) for name, value in one.tensors[part].items())
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == ["state-00000048", "state-00000050"]


@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace", "rename"])
def test_whichever_system_call_fails_a_save_leaves_old_states_whole_and_the_run_goes_on(tmp_path, monkeypatch, call):
    trained(tmp_path, TrainingConfig.from_dict(SHORT.to_dict() | {"schedule": "constant"}))
    before = {name: data for name, data in content(tmp_path).items() if "0009" in name}
    real, reports = getattr(os, call), []
    longer = TrainingConfig.from_dict(SHORT.to_dict() | {"schedule": "constant", "num_steps": 15})
    broken = {"on": False}

    def failing(*arguments, **options):
        if broken["on"] and (call != "open" or arguments[1] & os.O_CREAT):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(atomic.os, call, failing)
    result = Trainer(ToyTask(), longer, folder=tmp_path, resume="latest", on_save=reports.append,
                     on_step=lambda report: broken.update(on=10 <= report.step < 13)).run()  # fmt: skip
    assert [(report.step, bool(report.problem)) for report in reports] == [(12, True), (15, False)]
    assert "No space left on device" in reports[0].problem and result.problem == ""
    assert all(content(tmp_path)[name] == data for name, data in before.items())
    assert [state.name for state in list_states(tmp_path)] == ["state-00000015", "state-00000009"]
    assert not list(tmp_path.glob(".motionblocks-*"))


def test_a_disk_that_is_full_for_good_is_told_at_the_end_and_the_old_states_stay(tmp_path, caplog):
    def child():
        trained(tmp_path, TrainingConfig.from_dict(SHORT.to_dict() | {"schedule": "constant"}))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            longer = TrainingConfig.from_dict(SHORT.to_dict() | {"schedule": "constant", "num_steps": 12})
            return trained(tmp_path, longer, resume="latest")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    trainer, result = child()
    assert "File too large" in result.problem and result.step == 12
    assert result.state_path.name == "state-00000009" and read_state(result.state_path).step == 9
    assert "the state of step 12 was not saved" in caplog.text
    assert not list(tmp_path.glob(".motionblocks-*"))


def test_a_full_disk_while_stopping_does_not_hide_what_stopped_the_run(tmp_path, monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory")

    def full(*arguments, **options):
        raise CheckpointError("No space left on device")

    monkeypatch.setattr(states, "save_state", full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        Trainer(ToyTask(fail={4: error}), SHORT, folder=tmp_path).run()
    assert caught.value is error


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    task = ToyTask()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot write .*file"):
        Trainer(task, SHORT, folder=tmp_path / "file").run()
    if os.geteuid():
        (tmp_path / "shut").mkdir(mode=0o555)
        with pytest.raises(CheckpointError, match="Permission denied"):
            Trainer(task, SHORT, folder=tmp_path / "shut").run()
    assert task.seen == []


def test_two_trainers_cannot_share_a_folder(tmp_path):
    with training_folder(tmp_path):
        before = content(tmp_path)
        with pytest.raises(CheckpointError, match=f"in use by a training .process {os.getpid()} on .*; wait"):
            Trainer(ToyTask(), SHORT, folder=tmp_path).run()
        assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == []
    assert trained(tmp_path)[1].step == 9


@pytest.mark.slow
def test_a_dead_trainers_lock_on_this_machine_is_taken_over(tmp_path):
    script = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import conftest\n"
        "from pack.motion.io.training.states import training_folder\n"
        f"with training_folder({str(tmp_path)!r}):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert json.loads((tmp_path / "training.lock").read_text())["pid"] != os.getpid()
    assert trained(tmp_path)[1].step == 9


def test_a_lock_left_on_another_machine_is_explained_and_not_stolen(tmp_path):
    lock = tmp_path / "training.lock"
    lock.write_text(json.dumps({"pid": 7, "host": "another machine"}))
    with pytest.raises(CheckpointError, match="process 7 on another machine.*when you know that it is dead, delete"):
        Trainer(ToyTask(), SHORT, folder=tmp_path).run()
    assert json.loads(lock.read_text())["pid"] == 7
    lock.unlink()
    assert trained(tmp_path)[1].step == 9


def test_stages_of_killed_saves_are_swept_and_nothing_else(tmp_path):
    stage = tmp_path / ".motionblocks-123-0123abcd.tmp"
    stage.mkdir()
    (stage / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "keep.tmp").write_text("mine")
    trained(tmp_path)
    assert not stage.exists() and (tmp_path / "keep.tmp").exists()


def test_states_hold_no_pickle_and_can_be_read_by_others(tmp_path):
    trained(tmp_path)
    names = {path.name for path in list_states(tmp_path)[0].iterdir()}
    assert names == {"state.json", "weights.safetensors", "optimizer.safetensors", "ema.safetensors", "log.safetensors"}
    mask = os.umask(0)
    os.umask(mask)
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~mask for path in list_states(tmp_path)[0].iterdir())
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert Trainer(ToyTask(), SHORT, folder=tmp_path.with_name("moved"), resume="latest").run().step == 9
