"""A checkpointed step of Wan with blocks on the CPU that is cancelled or runs out of memory somewhere inside."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.io.training.states import list_states, read_state
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trainees.wan import WanTrainee
from pack.motion.training.trainer import Trainer
from tiny_wan import VARIANTS, fill
from training_toys import toy_dataset

pytestmark = pytest.mark.slow
NETWORK = replace(VARIANTS["text"], in_channels=16, num_layers=3)
CONFIG = TrainingConfig.of(num_steps=4, warmup_steps=0, learning_rate=1e-2, rank=2, alpha=2.0, batch_size=2,
                           gradient_checkpointing=True, blocks_on_cpu=2, ema_decay=0.9)  # fmt: skip
CALLS = 2 * 3  # of blocks in a checkpointed step: forward, then again on the way back


class Cancelled(BaseException):
    pass


def trainer_of(folder=None, config=CONFIG, **options):
    loop = config.loop
    trainee = WanTrainee(fill(WanDiT(NETWORK)).requires_grad_(False), WanSpec(NETWORK),
                         checkpointing=loop.gradient_checkpointing, blocks_on_cpu=loop.blocks_on_cpu)  # fmt: skip
    data = toy_dataset((16, 3, 4, 4), (16, 3, 4, 4))
    return Trainer(adapter_task(trainee, data, config), config, folder=folder, **options)


@contextmanager
def failing_at(trainer, call, error):
    """The error is raised inside a block, at its feed-forward, the call-th time that any block computes that far."""
    count = [0]

    def fail(module, args):
        count[0] += 1
        if count[0] == call:
            raise error

    blocks = trainer.task.trainee.module.blocks
    handles = [block.ffn.register_forward_pre_hook(fail) for block in blocks]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def everything(trainer):
    tensors, _ = trainer.state()
    return {f"{file} {name}": value.clone() for file, part in tensors.items() for name, value in part.items()}


def base_of(trainer):
    module = trainer.task.trainee.module
    return {name: (id(value), value.clone()) for name, value in module.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed():
    """All that a run leaves that nothing stops, and what it has after two steps."""
    seen = {}
    trainer = trainer_of(on_step=lambda report: seen.update({report.step: everything(trainer)}))
    trainer.run()
    return {"end": everything(trainer), "two steps": seen[2]}


def test_the_step_runs_every_block_twice(undisturbed):
    trainer = trainer_of()
    with failing_at(trainer, 0, None) as count:
        trainer.run()
    assert count[0] == 4 * CALLS and same(everything(trainer), undisturbed["end"])


PLACES = {"forward": 2, "first block on the way back": 4, "last block on the way back": 6}


@pytest.mark.parametrize("place", PLACES)
def test_cancel_inside_a_checkpointed_step_leaves_all_as_before_it_and_resumes_to_the_same_bits(
    tmp_path, undisturbed, place
):  # fmt: skip
    inside, error = PLACES[place], Cancelled("stop") if place == "forward" else KeyboardInterrupt("stop")
    trainer = trainer_of(tmp_path)
    base = base_of(trainer)
    with failing_at(trainer, 2 * CALLS + inside, error), pytest.raises(type(error)) as caught:
        trainer.run()
    assert caught.value is error and trainer.step == 2 and not trainer.is_torn
    assert same(everything(trainer), undisturbed["two steps"])
    after = base_of(trainer)
    assert all(after[name][0] == key and torch.equal(after[name][1], value) for name, (key, value) in base.items())
    assert all(value.grad is None for value in trainer.values)
    saved = read_state(list_states(tmp_path)[0])
    assert saved.step == 2
    rest = trainer_of(tmp_path, resume="latest")
    rest.run()
    assert same(everything(rest), undisturbed["end"])


@pytest.mark.parametrize("inside", [2, 5], ids=["forward", "way back"])
def test_out_of_memory_says_what_a_step_takes_and_the_ways_out_and_the_state_is_whole(tmp_path, undisturbed, inside):
    trainer = trainer_of(tmp_path)
    full = torch.cuda.OutOfMemoryError("CUDA out of memory")
    with failing_at(trainer, 2 * CALLS + inside, full), pytest.raises(ConfigError) as caught:
        trainer.run()
    assert caught.value.__context__ is full
    for words in ("out of memory: a step on 2 videos of 9 frames, 32x32 px, takes about 1 MB beside 1 MB of the model",
                  "raise blocks_on_cpu (2 of 3 blocks now)", "fewer frames, a lower resolution or a smaller batch_size",
                  "then resume"):  # fmt: skip
        assert words in str(caught.value)
    assert same(everything(trainer), undisturbed["two steps"])
    less = CONFIG.changed(blocks_on_cpu=3)
    rest = trainer_of(tmp_path, less, resume="latest")
    rest.run()
    assert same(everything(rest), undisturbed["end"])  # what takes less memory changes no number


def test_out_of_memory_without_checkpointing_points_to_it_with_what_it_takes(undisturbed):
    trainer = trainer_of(config=CONFIG.changed(gradient_checkpointing=False, blocks_on_cpu=0))
    with failing_at(trainer, 2, torch.cuda.OutOfMemoryError("full")), pytest.raises(ConfigError) as caught:
        trainer.run()
    assert "set gradient_checkpointing to true (" in str(caught.value) and "blocks_on_cpu" not in str(caught.value)
    quicker = trainer_of(config=CONFIG.changed(gradient_checkpointing=False, blocks_on_cpu=0))
    quicker.run()
    assert same(everything(quicker), undisturbed["end"])
