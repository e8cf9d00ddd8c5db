"""A run from its plan: what is asked of a plan when, what the watcher hears, and what an end in between leaves."""

import logging

import pytest
import torch
from pack.motion.training.config import TrainingConfig
from pack.motion.training.reports import Watcher
from pack.motion.training.run import TrainingPlan, TrainingRun
from training_toys import ToyTask, toy_dataset

SETTINGS = {"num_steps": 6, "warmup_steps": 0, "learning_rate": 0.1, "save_every": 2, "sample_every": 3}


class Listening(Watcher):
    """Keeps what it hears; ends the run at a step."""

    def __init__(self, stop_at=None, error=None):
        self.heard, self.stop_at, self.error = [], stop_at, error or KeyboardInterrupt("cancelled")

    def say(self, text):
        self.heard.append(("say", text))

    def encoding(self, done, total):
        self.heard.append(("encoding", done, total))

    def step(self, report, losses):
        assert len(losses) == report.step and losses[-1] == report.loss
        self.heard.append(("step", report.step))
        if report.step == self.stop_at:
            raise self.error

    def state(self, report, run):
        self.heard.append(("state", report.step, run.trainer.step))

    def sample(self, step, num_steps, picture):
        self.heard.append(("sample", step, num_steps, picture))


def plan(folder, task=None, written=None, **changes):
    """A plan around a toy task; write keeps copies of the weights it finds."""
    task = task or ToyTask()

    def write(given, metadata):
        assert given is task
        written.append(({name: value.clone() for name, value in task.parameters().items()}, metadata))
        return folder / "weights"

    config = TrainingConfig.of(**{**SETTINGS, **changes.pop("config", {})})
    return TrainingPlan(
        config=config, task=lambda _: task, states=folder, write=None if written is None else write, **changes
    )


def mean_weight(task, step):
    assert not torch.is_grad_enabled()
    return float(task.net[0].weight.mean())


def test_a_run_tells_its_watcher_everything_in_order(tmp_path):
    data, watcher = toy_dataset((4, 2, 4, 4)), Listening()

    def dataset(on_step):
        on_step(1, 1)
        return data

    seen = []
    made = plan(tmp_path, ToyTask(), [], dataset=dataset, draw=lambda task, step: step)
    made = TrainingPlan(**{**vars(made), "task": lambda found: seen.append(found) or ToyTask(), "write": None})
    done = TrainingRun(made, watcher).run()
    assert seen == [data] and done.summary == "toy" and done.path is None
    assert watcher.heard == [
        ("encoding", 1, 1), ("say", "toy"), ("sample", 0, 6, 0), ("step", 1), ("state", 2, 2), ("step", 2),
        ("sample", 3, 6, 3), ("step", 3), ("state", 4, 4), ("step", 4), ("step", 5), ("sample", 6, 6, 6), ("step", 6),
        ("state", 6, 6),
    ]  # fmt: skip


def test_weights_are_written_as_the_average_with_what_the_run_says_of_them(tmp_path):
    written, task = [], ToyTask()
    run = TrainingRun(plan(tmp_path, task, written, config={"ema_decay": 0.9}, metadata={"base_model": "toy"}))
    done = run.run()
    (weights, metadata), = written
    assert done.path == tmp_path / "weights" and done.metadata == metadata
    assert metadata["base_model"] == "toy" and metadata["training_steps"] == "6"
    assert "training_stopped_early" not in metadata and "training_data" not in metadata
    for (name, kept), mean in zip(weights.items(), run.trainer.average):
        assert torch.equal(kept, mean) and not torch.equal(kept, task.parameters()[name])


def test_samples_are_drawn_before_in_between_and_at_the_end_with_averaged_weights(tmp_path):
    watcher = Listening()
    run = TrainingRun(plan(tmp_path, draw=mean_weight, config={"num_steps": 5, "ema_decay": 0.9}), watcher)
    run.run()
    shown = [heard[1:] for heard in watcher.heard if heard[0] == "sample"]
    assert [step for step, _, _ in shown] == [0, 3, 5]
    assert shown[-1][2] == pytest.approx(float(run.trainer.average[0].mean()))
    assert len({picture for *_, picture in shown}) == 3


def test_a_killed_and_resumed_run_ends_in_the_weights_of_an_undisturbed_one(tmp_path):
    whole, broken, rest = [], [], []
    TrainingRun(plan(tmp_path / "whole", written=whole)).run()
    with pytest.raises(KeyboardInterrupt):
        TrainingRun(plan(tmp_path / "broken", written=broken), Listening(stop_at=3)).run()
    assert broken == []
    TrainingRun(plan(tmp_path / "broken", ToyTask(seed=5), written=rest, resume="latest")).run()
    assert all(torch.equal(value, rest[0][0][name]) for name, value in whole[0][0].items())


def test_what_ends_a_run_passes_and_leaves_the_unfinished_weights_where_they_are_wanted(tmp_path, caplog):
    written, watcher = [], Listening(stop_at=3, error=MemoryError("full"))
    with caplog.at_level(logging.WARNING), pytest.raises(MemoryError, match="full"):
        TrainingRun(plan(tmp_path, written=written, keep_unfinished=True), watcher).run()
    assert written[0][1]["training_stopped_early"] == "after step 3 of 6"
    assert watcher.heard[-1][0] == "say" and "state-00000003" in watcher.heard[-1][1] and "step 3" in caplog.text


def test_unfinished_weights_that_cannot_be_written_hide_nothing(tmp_path, caplog):
    def refuse(task, metadata):
        raise OSError("the disk is full")

    made = TrainingPlan(**{**vars(plan(tmp_path, keep_unfinished=True)), "write": refuse})
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        TrainingRun(made, Listening(stop_at=2)).run()
    assert "weights so far were not saved: the disk is full" in caplog.text


def test_before_a_step_is_done_there_is_nothing_to_keep(tmp_path):
    written = []
    with pytest.raises(ZeroDivisionError):
        TrainingRun(plan(tmp_path, ToyTask(fail={0: ZeroDivisionError()}), written, keep_unfinished=True)).run()
    assert written == []
