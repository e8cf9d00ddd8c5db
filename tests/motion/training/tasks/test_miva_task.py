"""MIVA is trained like any adapter: by settings, beside a base that never changes, resumed bit for bit."""

from dataclasses import replace

import pytest
import torch
from causal_clips import same_weights, whole_and_resumed
from pack.motion.errors import ConfigError
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trained_weights import write_trained
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.motion.training.trainees.wan import WanTrainee
from tiny_wan import VARIANTS, fill
from training_toys import flow_spec, keys, task_of, tiny_dit, tiny_spec, toy_dataset

MIVA = TrainingConfig.of(adapter="miva", rank=2, num_steps=5, learning_rate=1e-2, warmup_steps=0, save_every=2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_part_learns_and_the_base_stays(checkpointing):
    spec = tiny_spec(prediction="x0")  # its loss asks the network's head, not its velocity
    task = task_of(spec, config=MIVA.changed(gradient_checkpointing=checkpointing))
    base = {name: value.clone() for name, value in task.trainee.module.state_dict().items()}
    with torch.no_grad():
        for name, value in task.parameters().items():
            if name.endswith(".up"):
                value.normal_(generator=torch.Generator().manual_seed(0))
    with task.running():
        task.loss(task.draw(keys(4))).mean().backward()
    still = [name for name, value in task.parameters().items() if value.grad is None or not value.grad.any()]
    assert still == []
    assert all(value.grad is None for value in task.trainee.module.parameters())
    assert all(torch.equal(base[name], value) for name, value in task.trainee.module.state_dict().items())


def test_captions_are_not_read_and_the_report_says_so():
    task = task_of(config=MIVA)
    assert task.caption_dropout == 1.0 and "captions are not read" in task.notes[0]
    first, other = (task.draw(keys(2, seed=seed)).tensors["context"] for seed in (0, 1))
    assert torch.equal(first, other), "captions differ between clips, the empty prompt does not"


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    spec = flow_spec()

    def task(dataset):
        return adapter_task(LinearVideoTrainee(tiny_dit(spec), spec), dataset, MIVA)

    shape = (spec.config.in_channels, 3, 4, 4)
    whole, resumed = whole_and_resumed(tmp_path, MIVA, lambda: toy_dataset(shape, shape), task)
    assert same_weights(whole.path, resumed.path)


def test_a_miva_is_no_whole_model():
    with pytest.raises(ConfigError, match="adapter is miva, mode full; an adapter is trained in mode lora"):
        MIVA.changed(mode="full")


@pytest.mark.parametrize(("kind", "asked", "dtype"), [
    ("miva", {}, torch.bfloat16), ("lora", {}, torch.float32), ("miva", {"file_precision": "fp32"}, torch.float32),
    ("miva", {"file_precision": "fp16"}, torch.float16), ("lora", {"file_precision": "bf16"}, torch.bfloat16),
])  # fmt: skip
def test_a_motion_adapters_file_is_bf16_and_a_loras_fp32_unless_told(tmp_path, kind, asked, dtype):
    config, path = MIVA.changed(adapter=kind, **asked), tmp_path / "a.safetensors"
    task = task_of(tiny_spec(), config=config)
    write_trained(path, task, {}, precision=config.adapter.file_precision)
    numbers = {name: value for name, value in read_safetensors(path)[0].items() if value.ndim}
    assert {value.dtype for value in numbers.values()} == {dtype}
    assert {value.dtype for value in task.parameters().values()} == {torch.float32}
    assert "file_precision" not in config.comparable() and config.to_dict().get("file_precision") == asked.get(
        "file_precision")  # fmt: skip


def test_a_whole_model_keeps_its_own_number_type():
    with pytest.raises(ConfigError, match="file_precision is bf16, mode full; it is of an adapter's file: own"):
        TrainingConfig.of(mode="full", file_precision="bf16")


def test_settings_of_0_1_do_not_hear_of_it():
    assert "adapter" not in TrainingConfig().to_dict() and MIVA.to_dict()["adapter"] == "miva"
    grouped = TrainingConfig.from_dict({"adapter": {"adapter": "miva", "rank": 4}})
    assert grouped.adapter.adapter == TrainingConfig.from_dict({"adapter": "miva"}).adapter.adapter == "miva"


T2V = replace(VARIANTS["text"], in_channels=16)
I2V = replace(T2V, concat_channels=20)


def wan_task(config, dataset, settings=MIVA):
    return adapter_task(WanTrainee(fill(WanDiT(config)), WanSpec(config)), dataset, settings)


@pytest.mark.parametrize(("config", "objective"), [(T2V, "flow_after_first"), (I2V, "flow")])
def test_beside_wan_the_first_frame_is_given_where_the_model_reads_no_start_image(config, objective):
    task = wan_task(config, toy_dataset((16, 3, 4, 4)))
    assert task.objective.name == objective and task.caption_dropout == 1.0
    assert ("objective" in task.fingerprint()) == (objective != "flow")
    lora = wan_task(config, toy_dataset((16, 3, 4, 4)), MIVA.changed(adapter="lora", targets=("self_attn",)))
    assert lora.objective.name == "flow"


def test_a_run_beside_wan_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    shape = (16, 3, 4, 4)
    whole, resumed = whole_and_resumed(
        tmp_path, MIVA, lambda: toy_dataset(shape, shape), lambda dataset: wan_task(T2V, dataset)
    )
    assert same_weights(whole.path, resumed.path)
