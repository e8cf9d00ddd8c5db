"""Wan from the shell as users train it: clips in a folder, Ctrl-C, resume, bit for bit, alone and on two processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from causal_clips import same_weights
from pack.motion.io.adapters.adapter_file import load_adapter
from pack.motion.io.training.states import list_states
from pack.motion.models.wan.network import WanDiT
from wan_files import T2V
from wan_job import wan_job

ROOT = Path(__file__).resolve().parents[3]
ALONE = (str(ROOT / "motionblocks"),)
TWO = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
       "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(ROOT))  # fmt: skip
STEPS = 60


def begun(folder, way, *arguments):
    """The command line, started in a session of its own as a terminal does; what it prints goes to files."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    out, err = (open(folder / name, "w") for name in ("out", "err"))
    with out, err:
        return subprocess.Popen([*way, "train", "--config", *map(str, arguments)], stdout=out, stderr=err,
                                env=environment, start_new_session=True)  # fmt: skip


def trained(folder, way, *arguments):
    """Run to the end; what it printed."""
    code = begun(folder, way, *arguments).wait(300)
    assert code == 0, (folder / "err").read_text()[-3000:]
    return (folder / "out").read_text()


def interrupted(folder, way, states, *arguments):
    """Press Ctrl-C once a state is there; exit code and what it said of that."""
    process, deadline = begun(folder, way, *arguments), time.monotonic() + 300
    while not list_states(states) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(120), (folder / "err").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("way", [ALONE, TWO], ids=["alone", "two processes"])
def test_the_shell_teaches_wan_a_lora_stops_at_ctrl_c_and_resumes_bit_for_bit(tmp_path, way):
    if way is TWO:
        pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate (optional)")
    training = {"num_steps": STEPS, "save_every": 5, "gradient_checkpointing": True}
    job = wan_job(tmp_path, training=training, output=str(tmp_path / "whole.safetensors"))
    told = trained(tmp_path, way, job)
    assert told.count(f"LoRA: {tmp_path / 'whole.safetensors'} ({STEPS} steps, last loss") == 1
    for line in ("2 clips, 40 frames at the times of their files, 16 fps", "base: Wan T2V of other sizes",
                 "latents: 5 frames of 6x4 (2)", "targets self_attn, cross_attn: the model's own"):  # fmt: skip
        assert told.count(line) == 1, told

    cut = wan_job(tmp_path, "cut.json", training=training, output=str(tmp_path / "cut.safetensors"))
    code, said = interrupted(tmp_path, way, tmp_path / "cut.states", cut)
    stopped_at = int(list_states(tmp_path / "cut.states")[0].name.removeprefix("state-"))
    assert code != 0 and 5 <= stopped_at < STEPS and not (tmp_path / "cut.safetensors").exists()
    assert f"cancelled; the state of step {stopped_at} is in {tmp_path / 'cut.states'}; --resume goes on" in said

    told = trained(tmp_path, way, cut, "--resume", "--quiet")
    assert told.startswith(f"LoRA: {tmp_path / 'cut.safetensors'} ({STEPS} steps")
    assert same_weights(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")
    lora = load_adapter(tmp_path / "cut.safetensors", WanDiT(T2V))
    assert any(layer.up.abs().max() > 0 for layer in lora.layers.values())
