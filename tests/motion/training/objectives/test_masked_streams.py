"""Two videos at once: what each is shown, what steers the clip, when the true masks are told, and a run resumed."""

import math
from dataclasses import replace

import pytest
import torch
from causal_clips import same_weights, whole_and_resumed
from masked_data import masked_dataset
from pack.motion.errors import ConfigError
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from pack.motion.models.wan.spec import WanSpec
from pack.motion.training.config import TrainingConfig
from pack.motion.training.objectives.masked_streams import LEVELS, MaskedStreams
from pack.motion.training.objectives.noise_levels import NoiseLevels
from pack.motion.training.tasks.adapter_task import adapter_task
from pack.motion.training.trainees.wan import WanTrainee
from tiny_wan import VARIANTS, fill
from training_toys import TEXT, keys

T2V = replace(VARIANTS["text"], in_channels=16)
SETTINGS = TrainingConfig.of(adapter="miva", masked=True, rank=2, num_steps=5, learning_rate=1e-2, warmup_steps=0,
                             save_every=2)  # fmt: skip


def wan_task(dataset=None, settings=SETTINGS):
    return adapter_task(WanTrainee(fill(WanDiT(T2V)), WanSpec(T2V)), dataset or masked_dataset(), settings)


class Hearing:
    """Answers 0, and keeps what it is shown and told."""

    def __init__(self):
        self.shown = []

    def conditions(self, batch, *, first_latent=None):
        return Conditions(torch.zeros(len(batch["latents"]), 1, TEXT))

    def predict(self, latents, sigma, conditions):
        self.shown.append((latents, sigma, conditions.masks))
        return torch.zeros_like(latents)


def drawn(progress, count=2, seed=0):
    objective = MaskedStreams(NoiseLevels("uniform"), lambda latents: latents.mean(1).flatten(2)[..., :4])
    rows = [{**masked_dataset().sample(n % 3), "progress": torch.tensor(progress)} for n in range(count)]
    rows = [row | objective.draw(row, key.generator()) for row, key in zip(rows, keys(count, seed=seed))]
    return objective, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_both_videos_begin_clean_and_the_rest_of_both_counts():
    objective, batch = drawn(0.0)
    trainee = Hearing()
    loss = objective.loss(trainee, batch)
    assert len(trainee.shown) == 2, "masks are told at the beginning: no estimate is made"
    (video, sigma, steered), (masks, mask_sigma, shown) = trainee.shown
    assert torch.equal(sigma, batch["sigma"]) and torch.equal(mask_sigma, sigma)
    assert torch.equal(steered.scores, batch["mask_scores"].flatten(2)) and shown.are_shown
    expected = 0
    for seen, clean, noise in ((video, batch["latents"], batch["noise"]),
                               (masks, batch["mask_latents"], batch["mask_noise"])):  # fmt: skip
        level = sigma.view(-1, 1, 1, 1, 1)
        assert torch.equal(seen[:, :, :1], clean[:, :, :1])
        torch.testing.assert_close(seen[:, :, 1:], ((1 - level) * clean + level * noise)[:, :, 1:])
        expected = expected + (noise - clean)[:, :, 1:].square().mean((1, 2, 3, 4)) / 2
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(batch["noise"], batch["mask_noise"])


def test_at_the_end_the_clip_is_steered_by_an_estimate_of_noisier_masks():
    objective, batch = drawn(1.0)
    trainee = Hearing()
    objective.loss(trainee, batch)
    (shown, level, told), (_, _, steered), _ = trainee.shown
    assert told.are_shown and torch.equal(level, batch["mask_sigma"]) and (level >= batch["sigma"]).all()
    found = objective.scores_of(shown)  # the answer is 0, so the estimate is what was shown
    assert torch.equal(steered.scores[:, 1:], found[:, 1:])
    assert torch.equal(steered.scores[:, 0], batch["mask_scores"].flatten(2)[:, 0]), "frame 1 is known"


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_masks_are_told_as_often_as_half_a_cosine_says(progress):
    _, batch = drawn(progress, count=400)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    assert abs(float(batch["masks_told"].double().mean()) - share) < 0.08


def test_the_estimates_level_is_the_one_above_of_five():
    _, batch = drawn(0.5, count=600)
    same = (batch["mask_sigma"] == batch["sigma"]).double().mean()
    assert LEVELS == 5 and abs(float(same) - 0.2) < 0.06
    gaps = (batch["mask_sigma"] - batch["sigma"])[batch["mask_sigma"] > batch["sigma"]]
    assert abs(float(gaps.mean()) - 1 / 6) < 0.03, "the mean gap between neighbours of five even draws"


def test_the_task_tells_how_far_it_is_and_fits_what_reads_the_masks():
    task = wan_task()
    assert task.objective.name == "masked_streams" and task.fingerprint()["objective"] == "masked_streams"
    assert any(note.startswith("masks are read off latents, ") for note in task.notes)
    told = [float(task.draw(keys(1, step=step)).tensors["progress"]) for step in (0, 2, 4)]
    assert told == pytest.approx([0, 0.4, 0.8])
    sample = task.dataset.sample(0)
    found = task.adapter.scores(sample["mask_latents"].unsqueeze(0))
    assert (found[0] - sample["mask_scores"].flatten(1)).abs().max() < 1e-2
    assert "mask_reader" in task.adapter.tensors() and "mask_reader" not in task.parameters()
    plain = wan_task(settings=SETTINGS.changed(masked=False))
    assert plain.objective.name == "flow_after_first" and "progress" not in plain.draw(keys(1)).tensors


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_part_learns_from_a_step_that_makes_an_estimate(checkpointing):
    task = wan_task(settings=SETTINGS.changed(gradient_checkpointing=checkpointing))
    with torch.no_grad():
        for number, (name, value) in enumerate(task.parameters().items()):
            if name.endswith(".up"):
                value.normal_(generator=torch.Generator().manual_seed(number))
    with task.running():
        task.loss(task.draw(keys(3, step=4))).mean().backward()
    assert [name for name, value in task.parameters().items() if value.grad is None or not value.grad.any()] == []
    assert task.adapter.reader.grad is None


def test_a_masked_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    whole, resumed = whole_and_resumed(tmp_path, SETTINGS, masked_dataset, wan_task)
    assert same_weights(whole.path, resumed.path)


def test_a_step_that_does_not_fit_counts_the_masks_as_videos_too():
    for settings, videos in ((SETTINGS, 4), (SETTINGS.changed(masked=False), 2)):
        task = wan_task(settings=settings)
        batch = task.draw(keys(2))
        if not settings.adapter.masked:
            batch = replace(batch, tensors={name: value for name, value in batch.tensors.items() if "mask" not in name})
        with pytest.raises(ConfigError, match=f"out of memory: a step on {videos} videos of 9 frames"):
            task.save_memory(batch)


def test_masks_that_say_nothing_are_refused():
    with pytest.raises(ConfigError, match="the masks of the clips are white on 0 % of their area"):
        wan_task(masked_dataset(flat=0.0))


def test_masked_without_miva_is_refused():
    with pytest.raises(ConfigError, match="masked is true, adapter lora; masks are learnt by adapter: miva"):
        TrainingConfig.of(masked=True)
    assert "masked" not in TrainingConfig().to_dict() and SETTINGS.to_dict()["masked"] is True
