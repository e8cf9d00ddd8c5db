"""Two processes with a batch of one each are one process with a batch of two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_toy import SETTINGS
from pack.motion.builtin_model import load_builtin
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter
from pack.motion.io.training.states import list_states, read_state
from pack.motion.training import distributed
from pack.motion.training.config import TrainingConfig
from pack.motion.training.processes import OneProcess
from pack.motion.training.trainer import Trainer
from test_training_job import write_job
from training_toys import ToyTask

ROOT = Path(__file__).resolve().parents[3]
TOY = Path(__file__).resolve().parents[2] / "helpers" / "distributed_toy.py"


def launch(*arguments):
    """Two processes on the CPU; skipped where accelerate is not installed.

    `--multi_gpu` is accelerate's name for torch's launcher; without a card its processes talk through gloo.
    """
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate (optional)")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
               *map(str, arguments)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=800, env=environment)


@pytest.mark.slow
def test_two_processes_with_one_sample_each_equal_one_process_with_two(tmp_path):
    done = launch(TOY, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = Trainer(ToyTask(), TrainingConfig.of(batch_size=2, **SETTINGS))
    alone.run()
    state = read_state(list_states(tmp_path)[0])
    assert state.record["num_processes"] == 2 and state.step == SETTINGS["num_steps"]
    for name, value, mean in zip(alone.parameters, alone.values, alone.average):
        torch.testing.assert_close(state.tensors["weights"][name], value.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(state.tensors["ema"][name], mean, atol=1e-6, rtol=0)
    losses = torch.tensor(alone.losses, dtype=torch.float64)
    torch.testing.assert_close(state.tensors["log"]["loss"], losses, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_when_one_process_fails_the_main_one_saves_and_none_waits(tmp_path):
    done = launch(TOY, tmp_path, 3)
    assert done.returncode != 0 and "out of luck" in done.stderr
    assert read_state(list_states(tmp_path)[0]).step == 3


@pytest.mark.slow
def test_the_shell_trains_on_two_processes_and_writes_once(tmp_path):
    path = write_job(tmp_path, training={"num_steps": 2})
    done = launch(ROOT, "train", "--config", path, "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("LoRA: ") == 1
    one = load_adapter(tmp_path / "out" / "a.safetensors", load_builtin().dit)
    assert any(layer.up.abs().max() > 0 for layer in one.layers.values())


def test_one_process_needs_no_accelerate_and_several_say_what_is_missing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert isinstance(distributed.open_world(), OneProcess)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but the package accelerate is not installed"):
        distributed.open_world()
