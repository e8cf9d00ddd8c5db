"""The task of training a network or an adapter beside it: batches by key, gradients, refusals, fingerprints."""

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.training.tasks.adapter_task import AdapterTask
from pack.motion.training.trainee import weights_fingerprint
from pack.motion.training.trainees.linear_video import LinearVideoTrainee
from pack.motion.training.trainer import Trainer
from training_toys import FULL, SHAPE, flow_spec, keys, task_of, tiny_dit, tiny_spec


@pytest.mark.slow
@pytest.mark.parametrize("spec", [tiny_spec(), tiny_spec("t2v"), tiny_spec(prediction="x0"), flow_spec()],
                         ids=["residual", "t2v", "x0", "flow"])  # fmt: skip
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_objective_trains_and_leaves_the_network_as_it_found_it(spec, mode):
    shape = (spec.config.in_channels, 3, 8, 8)
    config = FULL.changed(mode=mode, num_steps=12, learning_rate=3e-3, warmup_steps=0, rank=4, alpha=4.0,
                            batch_size=2, schedule="constant", caption_dropout=0.0)  # fmt: skip
    task = task_of(spec, [shape], config)
    needed = [value.requires_grad for value in task.trainee.module.parameters()]
    before = weights_fingerprint(task.trainee.module)
    batch = task.draw(keys(8))
    losses = []
    for step in range(2):
        with torch.no_grad(), task.running():
            losses.append(task.loss(batch).mean().item())
        if not step:
            Trainer(task, config).run()
    assert losses[1] < losses[0]
    assert [value.requires_grad for value in task.trainee.module.parameters()] == needed
    assert (weights_fingerprint(task.trainee.module) == before) == (mode == "lora")


def test_checkpointed_blocks_give_the_same_gradients():
    gradients = []
    for saving in (False, True):
        config = FULL.changed(gradient_checkpointing=saving, mode="lora", rank=2, alpha=2.0)
        task = task_of(config=config)
        for layer in task.adapter.layers.values():
            layer.up.data.fill_(0.01)
        with task.running():
            task.loss(task.draw(keys(3))).mean().backward()
        gradients.append({name: value.grad for name, value in task.parameters().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_checkpointing_keeps_the_insides_of_blocks_out_of_memory():
    held = []
    for saving in (False, True):
        task = task_of(config=FULL.changed(gradient_checkpointing=saving))
        kept = 0

        def pack(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.loss(task.draw(keys(3)))
        held.append(kept)
    assert held[1] < held[0] / 2


def test_a_batch_holds_one_size_and_sizes_come_as_often_as_their_samples():
    task = task_of(shapes=[SHAPE] * 6 + [(4, 5, 4, 6)] * 2)
    sizes = [tuple(task.draw(keys(2, step)).tensors["latents"].shape[1:]) for step in range(200)]
    assert set(sizes) == {SHAPE, (4, 5, 4, 6)}
    assert 30 < sizes.count((4, 5, 4, 6)) < 70


def test_a_sample_depends_on_its_key_alone():
    task = task_of()
    both, second = task.draw(keys(2)), task.draw(keys(2)[1:])
    assert {"latents", "noise", "sigma", "motion_bucket_id", "context", "pooled"} <= set(both.tensors)
    for name in ("latents", "noise", "sigma", "motion_bucket_id"):
        assert torch.equal(both.tensors[name][1:], second.tensors[name])
    assert both.names[1:] == second.names
    other = task.draw(keys(2, seed=1))
    assert not torch.equal(both.tensors["noise"], other.tensors["noise"])


def test_captions_are_dropped_as_often_as_asked_and_padded_ones_are_masked():
    empty = task_of(config=FULL.changed(caption_dropout=1.0))
    batch = empty.draw(keys(3)).tensors
    assert torch.equal(batch["context"], empty.dataset.text("").context.expand(3, -1, -1))
    assert "attention_mask" not in batch
    none = task_of(config=FULL.changed(caption_dropout=0.0))
    batch = none.draw(keys(12)).tensors
    assert batch["context"].shape[1] == 3 and set(batch["attention_mask"].sum(1).tolist()) == {2.0}
    some = task_of(config=FULL.changed(caption_dropout=0.25), shapes=[SHAPE, SHAPE])
    text = some.dataset.text("").context
    batch = some.draw(keys(400)).tensors
    share = sum(torch.equal(row[:2], text) for row in batch["context"]) / 400
    assert 0.18 < share < 0.32


def test_what_does_not_fit_together_is_refused_before_training():
    spec = tiny_spec()
    for shapes, text in (
        ([], "data set is empty"),
        ([(5, 3, 4, 4)], "needs 4 channels"),
        ([(4, 3, 5, 4)], "must divide by 2"),
        ([(4, 1, 4, 4)], "at least 2 frames"),
    ):
        with pytest.raises(ConfigError, match=text):
            task_of(spec, shapes)
    with pytest.raises(ConfigError, match="start image, which t2v"):
        task_of(tiny_spec("t2v", concat_first_frame=True))
    with torch.inference_mode():
        dit = tiny_dit(spec)
    with pytest.raises(ConfigError, match="inference_mode"):
        LinearVideoTrainee(dit, spec)


def test_task_names_its_batches_and_what_changed():
    task = task_of()
    told = task.describe(task.draw(keys(3)))
    assert "clip" in told and "latents of 4 channels, 3 frames, 4x4" in told
    other = task_of(seed=1, config=FULL.changed(mode="lora"))
    assert other.differences(other.fingerprint()) == []
    assert "the base weights differ" in other.differences({**other.fingerprint(), "base": "x"})


def test_an_adapter_is_trained_beside_a_base_that_stays_where_it_lies_and_is_told_of():
    task = task_of(config=FULL.changed(mode="lora", rank=2, alpha=2.0, num_steps=2))
    base = task.trainee.module
    places, before = [value.data_ptr() for value in base.parameters()], weights_fingerprint(base)
    assert task.fingerprint()["base"] == before
    seen = []

    def look(report):
        seen.append([value.grad is None and not value.requires_grad for value in base.parameters()])

    Trainer(task, FULL.changed(num_steps=2), on_step=look).run()
    assert len(seen) == 2 and all(map(all, seen))
    assert [value.data_ptr() for value in base.parameters()] == places and weights_fingerprint(base) == before
    assert any(float(layer.up.detach().abs().max()) > 0 for layer in task.adapter.layers.values())


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_muon_takes_the_matrices_of_the_blocks_as_the_trainee_names_them(mode):
    task = task_of(config=FULL.changed(mode=mode, rank=2, alpha=2.0))
    chosen = task.matrices()
    assert chosen and all(name.startswith("transformer_blocks.") and "table" not in name for name in chosen)
    assert all(task.parameters()[name].ndim in (2, 4) for name in chosen)
    task.trainee.blocks = "blocks"
    assert not task.matrices()


class SecondHalf:
    """An objective that nobody here has: the velocity of the later half of the frames."""

    name, least_frames = "second_half", 2

    def draw(self, sample, generator):
        return {"sigma": torch.rand((), generator=generator), "noise": torch.randn(SHAPE, generator=generator)}

    def loss(self, trainee, batch):
        level = batch["sigma"].view(-1, 1, 1, 1, 1)
        state = (1 - level) * batch["latents"] + level * batch["noise"]
        answer = trainee.predict(state, batch["sigma"], trainee.conditions(batch))
        half = SHAPE[1] // 2
        return (answer - (batch["noise"] - batch["latents"]))[:, :, half:].square().flatten(1).mean(1)


def test_an_objective_of_ones_own_needs_one_class_and_its_name_stands_in_the_state():
    own = task_of()
    task = AdapterTask(own.trainee, None, own.dataset, SecondHalf(), caption_dropout=0.0)
    assert task.fingerprint()["objective"] == "second_half" and "objective" not in own.fingerprint()
    assert task.differences(own.fingerprint()) == ["the objective is another one"]
    batch = task.draw(keys(8))
    with torch.no_grad():
        before = float(task.loss(batch).mean())
    Trainer(task, FULL.changed(num_steps=8, learning_rate=3e-3, batch_size=2)).run()
    with torch.no_grad():
        assert float(task.loss(batch).mean()) < before
