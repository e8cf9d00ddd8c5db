"""Blocks of a frozen base that visit the device: equal bits, one block there at a time, the rest as it was."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from pack.motion.adapters.lora import LoRA
from pack.motion.errors import ConfigError
from pack.motion.models.stored_layers import StoredLayers, StoredLinear
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.objectives.flow import Flow
from pack.motion.training.objectives.noise_levels import NoiseLevels
from pack.motion.training.tasks.adapter_task import AdapterTask, adapter_task
from pack.motion.training.trainees.blocks_on_cpu import BlocksOnCpu
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.motion.training.trainees.wan import WanTrainee
from tiny_wan import VARIANTS, fill
from training_toys import keys, tiny_dit, tiny_spec, toy_dataset

CONFIG = replace(VARIANTS["text"], in_channels=16, num_layers=4)
SHAPE = (16, 3, 4, 4)
LORA = TrainingConfig.of(gradient_checkpointing=True, targets=("self_attn", "ffn"), rank=2, alpha=2.0)


def base(kind=torch.float32, scaled=False):
    """A frozen network; fp8 kinds are those of its blocks' Linears."""
    network = fill(WanDiT(CONFIG, operations=StoredLayers)).requires_grad_(False)
    for layer in network.blocks.modules():
        if isinstance(layer, StoredLinear):
            layer.weight = torch.nn.Parameter(layer.weight.to(kind), requires_grad=False)
            layer.weight_scale = torch.tensor(1.25) if scaled else None
    return network


def gradients(trainee):
    """Loss of one step and the gradients of a drawn LoRA."""
    task = adapter_task(trainee, toy_dataset(SHAPE), LORA)
    for layer in task.adapter.layers.values():
        layer.up.data.fill_(0.02)
    with task.running():
        loss = task.loss(task.draw(keys(2))).mean()
        loss.backward()
    assert all(value.grad is None for value in trainee.module.parameters())
    return [loss.detach(), *(value.grad for value in task.parameters().values())]


class Elsewhere(BlocksOnCpu):
    """A device that is not there, beside memory that is poisoned: only what was fetched has its numbers."""

    def __init__(self, blocks, count):
        super().__init__(blocks, count, torch.device("cpu"))
        self.here, self.most, self.log = {}, 0, []
        self.truth, self.index_of = {}, {}
        for index, block in enumerate(blocks[self.first :], self.first):
            for value in [*block.parameters(), *block.buffers()]:
                self.truth[id(value)], self.index_of[id(value)] = value.detach().clone(), index
                value.data.fill_(torch.nan)

    def fetch(self, value):
        copy, index = self.truth[id(value)].clone(), self.index_of[id(value)]
        if self.log[-1:] != [index]:
            self.log.append(index)
        self.here[id(copy)] = index
        weakref.finalize(copy.untyped_storage(), self.here.pop, id(copy))
        self.most = max(self.most, len(set(self.here.values())))
        return copy


@pytest.mark.slow
@pytest.mark.parametrize("kind, scaled", [(torch.float32, False), (torch.bfloat16, False), (torch.float8_e4m3fn, False),
                                          (torch.float8_e4m3fn, True)], ids=str)  # fmt: skip
def test_loss_and_gradients_are_the_same_bits_wherever_blocks_lie(kind, scaled):
    expected = gradients(WanTrainee(base(kind, scaled), WanSpec(CONFIG), checkpointing=True))
    assert expected[0].isfinite() and all(value.abs().max() > 0 for value in expected[1:])
    for count in (2, 4):
        trainee = WanTrainee(base(kind, scaled), WanSpec(CONFIG), checkpointing=True, blocks_on_cpu=count)
        away = trainee._away = Elsewhere(trainee.module.blocks, count)
        found = gradients(trainee)
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
        visits = list(range(4 - count, 4))
        assert away.log == visits + visits[-2::-1]  # forward, then back, the last one twice in a row
        gc.collect()
        assert away.most == 1 and not away.here  # never two blocks at once, and none stays


def test_a_block_has_its_own_tensors_back_whatever_happens_in_it():
    network = base(torch.float8_e4m3fn, scaled=True)
    away = BlocksOnCpu(network.blocks, 2, torch.device("meta"))
    before = {name: id(value) for name, value in [*network.named_parameters(), *network.named_buffers()]}
    with pytest.raises(KeyboardInterrupt), away.at_hand(3):
        assert all(value.is_meta for value in [*network.blocks[3].parameters(), *network.blocks[3].buffers()])
        assert not any(value.is_meta for value in network.blocks[2].parameters())
        raise KeyboardInterrupt
    with away.at_hand(1):
        assert not any(value.is_meta for value in network.blocks[1].parameters())
    assert before == {name: id(value) for name, value in [*network.named_parameters(), *network.named_buffers()]}


def test_other_devices_give_up_the_last_blocks_and_adapters_go_where_the_rest_is(monkeypatch):
    monkeypatch.setattr(WanTrainee, "fingerprint", lambda self, *, with_weights: {})  # of values that are not there
    network = WanDiT(CONFIG, device="meta").requires_grad_(False)
    network.blocks[3].to_empty(device="cpu")
    spare = network.blocks[3].self_attn.q.weight
    trainee = WanTrainee(network, WanSpec(CONFIG), checkpointing=True, blocks_on_cpu=1)
    assert trainee.device.type == "meta" and network.blocks[3].self_attn.q.weight is spare
    task = adapter_task(trainee, toy_dataset(SHAPE), LORA)
    assert all(value.is_meta for value in task.parameters().values())


@pytest.mark.parametrize("count", [-1, 5])
def test_a_count_of_blocks_that_the_model_lacks_is_refused(count):
    with pytest.raises(ConfigError, match=f"blocks_on_cpu is {count}; this model has 4 blocks, so 0 to 4 is needed"):
        WanTrainee(base(), WanSpec(CONFIG), checkpointing=True, blocks_on_cpu=count)


def test_blocks_on_the_cpu_need_checkpointing_and_a_frozen_base():
    with pytest.raises(ConfigError, match="blocks_on_cpu is 2; without gradient_checkpointing .* blocks_on_cpu to 0"):
        WanTrainee(base(), WanSpec(CONFIG), blocks_on_cpu=2)
    trainee = WanTrainee(base(), WanSpec(CONFIG), checkpointing=True, blocks_on_cpu=2)
    task = AdapterTask(trainee, None, toy_dataset(SHAPE), Flow(NoiseLevels()))
    with pytest.raises(ConfigError, match="blocks_on_cpu is 2 and mode full; .*use mode lora, or blocks_on_cpu 0"):
        task.running().__enter__()


def test_settings_say_what_blocks_on_the_cpu_need_and_files_of_before_have_none():
    told = {"gradient_checkpointing": True, "blocks_on_cpu": 3}
    assert TrainingConfig.from_dict(told) == TrainingConfig.from_dict({"loop": told})
    assert TrainingConfig.from_dict({"num_steps": 7}).loop.blocks_on_cpu == 0
    assert "blocks_on_cpu" not in TrainingConfig.from_dict(told).comparable()
    for wrong, words in (({"blocks_on_cpu": 3}, "blocks_on_cpu is 3; it needs gradient_checkpointing true"),
                         ({**told, "blocks_on_cpu": -1}, "blocks_on_cpu is -1; it must be 0 to 1000"),
                         ({**told, "mode": "full"}, "blocks_on_cpu is 3; .* it needs mode lora")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            TrainingConfig.from_dict(wrong)


def test_blocks_of_the_linear_video_models_may_lie_there_too():
    spec = tiny_spec()
    found = []
    for count in (0, 2):
        network = tiny_dit(spec).requires_grad_(False)
        trainee = LinearVideoTrainee(network, spec, checkpointing=True, blocks_on_cpu=count)
        if count:
            trainee._away = Elsewhere(trainee.module.transformer_blocks, count)
        lora = LoRA(trainee.module, targets=("attn",), rank=2, alpha=2.0)
        task = AdapterTask(trainee, lora, toy_dataset((4, 3, 4, 4)), Flow(NoiseLevels()))
        with task.running():
            task.loss(task.draw(keys(2))).mean().backward()
        found.append([layer.up.grad for layer in lora.layers.values()])
    assert all(torch.equal(one, two) for one, two in zip(*found)) and found[0][0].abs().max() > 0
