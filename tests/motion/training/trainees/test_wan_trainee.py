"""Wan as a trainee: the flow objective by its formula, gradients, what each variant sees, a run stopped and resumed."""

from dataclasses import replace

import pytest
import torch
from causal_clips import encoders, filmed, same_weights, whole_and_resumed
from pack.motion.adapters.lora import LoRA
from pack.motion.data.clips import ClipCollection
from pack.motion.data.latent_dataset import build_latent_dataset
from pack.motion.data.windows import WindowConfig
from pack.motion.errors import ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.objectives.flow import Flow
from pack.motion.training.objectives.noise_levels import NoiseLevels
from pack.motion.training.tasks.adapter_task import AdapterTask, adapter_task
from pack.motion.training.trainees.wan import WanTrainee
from tiny_wan import VARIANTS, fill
from training_toys import TEXT, keys, toy_dataset

T2V = replace(VARIANTS["text"], in_channels=16)
I2V = replace(VARIANTS["image"], in_channels=16, concat_channels=20)
SHAPE = (16, 3, 4, 4)


def trainee_of(config=T2V, dtype=torch.float32, **options):
    return WanTrainee(fill(WanDiT(config, dtype=dtype)), WanSpec(config), **options)


def test_the_network_is_asked_at_its_noise_level_for_the_velocity_of_every_frame():
    trainee = trainee_of()
    task = AdapterTask(trainee, None, toy_dataset(SHAPE, SHAPE), Flow(NoiseLevels(shift=5.0)), caption_dropout=0.0)
    batch = task.draw(keys(2))
    found = task.loss(batch).double()
    told, exact = batch.tensors, fill(WanDiT(T2V, dtype=torch.float64))
    for b, sigma in enumerate(told["sigma"].double()):
        clean, noise = told["latents"][b].double(), told["noise"][b].double()
        state = ((1 - sigma) * clean + sigma * noise).unsqueeze(0)
        text = told["context"][b : b + 1].double()
        context = Conditions(torch.cat((text, torch.zeros(1, 512 - text.shape[1], TEXT)), 1))
        answer = exact(state, 1000 * sigma.view(1), context)[0]
        torch.testing.assert_close(found[b], (answer - (noise - clean)).square().mean(), rtol=1e-4, atol=0)


def test_a_model_with_words_of_its_own_reads_its_few_tokens_without_padding():
    trainee = WanTrainee(fill(WanDiT(T2V)), WanSpec(T2V, text_tokens=3))
    context = torch.randn(2, 3, TEXT)
    assert torch.equal(trainee.conditions({"context": context}).context, context)
    assert trainee.conditions({"context": context[:, :2]}).context.shape == (2, 3, TEXT)


def test_checkpointed_blocks_give_the_same_gradients_and_the_base_none():
    gradients, held = [], []

    def keep(tensor):
        held[-1] += tensor.numel()
        return tensor

    for saving in (False, True):
        held.append(0)
        trainee = trainee_of(checkpointing=saving)
        lora = LoRA(trainee.module, targets=trainee.own_targets, rank=2, alpha=2.0)
        for layer in lora.layers.values():
            layer.up.data.fill_(0.01)
        task = AdapterTask(trainee, lora, toy_dataset(SHAPE), Flow(NoiseLevels()), caption_dropout=0.0)
        with task.running():
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = task.loss(task.draw(keys(2))).mean()
            loss.backward()
        assert all(value.grad is None for value in trainee.module.parameters())
        gradients.append([value.grad for value in task.parameters().values()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients)) and gradients[0]
    assert held[1] < held[0] / 2  # kept for the backward pass
    assert task.matrices() and all(name.startswith("blocks.") for name in task.matrices())


def test_a_variant_sees_what_the_data_set_holds_for_it_and_its_absence_is_refused_by_name():
    batch = {"context": torch.zeros(1, 2, TEXT), "attention_mask": torch.ones(1, 2), "concat_latents": torch.ones(1),
             "image_tokens": torch.zeros(1)}  # fmt: skip
    both = trainee_of(I2V)
    told = both.conditions(batch)
    assert told.context.shape == (1, 512, TEXT)
    long = torch.ones(1, 513, TEXT)
    assert both.conditions(batch | {"context": long}).context is long
    assert told.concat_latents is batch["concat_latents"] and told.image_tokens is batch["image_tokens"]
    plain = trainee_of().conditions(batch)
    assert plain.concat_latents is None and plain.image_tokens is None and plain.attention_mask is None
    with pytest.raises(ConfigError, match="sees concat_latents, which the data set does not hold"):
        both.conditions({"context": batch["context"]})
    with pytest.raises(ConfigError, match="train it with the objective flow"):
        both.conditions(batch, first_latent=torch.zeros(1))


@pytest.mark.slow
def test_clips_teach_a_lora_and_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path):
    config = TrainingConfig.of(num_steps=8, warmup_steps=0, learning_rate=1e-2, rank=2, alpha=2.0, save_every=2,
                               batch_size=2, schedule="constant", caption_dropout=0.0)  # fmt: skip
    windows = WindowConfig(windows_per_clip=1, resolution=32)
    clips = ClipCollection((filmed("a", 0), filmed("b", 1)), fps=0.0)

    whole, resumed = whole_and_resumed(
        tmp_path, config, lambda: build_latent_dataset(clips, WanSpec(T2V), encoders(), windows, cache_folder=None),
        lambda data: adapter_task(trainee_of(), data, config),
    )  # fmt: skip
    assert sum(whole.training.losses[-3:]) < sum(whole.training.losses[:3])
    for line in ("num_frames 17: the model's own", "clips resampled to 16 fps", "targets self_attn, cross_attn"):
        assert line in whole.summary
    assert same_weights(whole.path, resumed.path) and load_adapter(whole.path, WanDiT(T2V)).layers
    assert "diffusion_model.blocks.0.self_attn.q.lora_down.weight" in read_safetensors(whole.path)[0]
