"""The training task of motion models: the objective is the paper's, the flow head's is the built-in trainer's."""

import dataclasses

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.training.builtin_recipe import BuiltinRecipe
from pack.motion.training.builtin_trainer import Batch, batch_loss
from pack.motion.training.config import TrainingConfig
from pack.motion.training.latent_task import LatentTask, weights_fingerprint
from pack.motion.training.objectives import draw_sigma, network_input, sample_losses
from pack.motion.training.trainer import SampleKey, Trainer
from training_toys import flow_spec, tiny_dit, tiny_spec, toy_dataset

SHAPE = (4, 3, 4, 4)
FULL = TrainingConfig(mode="full", num_steps=4, learning_rate=1e-3, warmup_steps=0)


def keys(count, step=0, seed=0):
    return [SampleKey(seed, step, index) for index in range(count)]


def task_of(spec=None, shapes=(SHAPE,) * 4, config=FULL, **options):
    spec = spec or tiny_spec()
    return LatentTask(tiny_dit(spec), spec, toy_dataset(*shapes), config, **options)


def one_batch(task, count=3):
    return task.draw(keys(count))


def test_residual_objective_shows_z1_plus_noised_residual_and_counts_later_frames_only():
    spec = tiny_spec()
    batch = one_batch(task_of(spec))
    clean, noise = batch.clean.double(), batch.noise.double()
    seen = network_input(batch.clean, batch.noise, batch.sigma, spec.objective)
    raw = torch.randn_like(batch.clean)
    found = sample_losses(raw, batch.clean, batch.noise, batch.sigma, spec, flow_weight=0.0)
    for b, sigma in enumerate(batch.sigma.double()):
        z1, total = clean[b, :, 0], 0.0
        torch.testing.assert_close(seen[b, :, 0].double(), z1)
        for n in (1, 2):
            residual = clean[b, :, n] - z1
            truth = z1 + (1 - sigma) * residual + sigma * noise[b, :, n]
            torch.testing.assert_close(seen[b, :, n].double(), truth, atol=1e-5, rtol=1e-5)
            total += (raw[b, :, n].double() - (noise[b, :, n] - residual)).square().mean() / 2
        torch.testing.assert_close(found[b].double(), total, atol=1e-5, rtol=1e-5)
    raw[:, :, 0] = 99.0
    again = sample_losses(raw, batch.clean, batch.noise, batch.sigma, spec, flow_weight=0.0)
    assert torch.equal(found, again)


def test_text_to_video_objective_noises_and_counts_every_frame():
    spec = tiny_spec("t2v")
    batch = one_batch(task_of(spec))
    level = batch.sigma.view(-1, 1, 1, 1, 1)
    seen = network_input(batch.clean, batch.noise, batch.sigma, "t2v")
    torch.testing.assert_close(seen, (1 - level) * batch.clean + level * batch.noise)
    raw = torch.randn_like(seen)
    found = sample_losses(raw, batch.clean, batch.noise, batch.sigma, spec, flow_weight=0.0)
    torch.testing.assert_close(found, (raw - (batch.noise - batch.clean)).square().flatten(1).mean(1))


@pytest.mark.parametrize("objective", ["i2v_residual", "t2v"])
def test_clean_prediction_weighs_like_the_velocity_it_stands_for(objective):
    spec, as_velocity = tiny_spec(objective, "x0"), tiny_spec(objective)
    batch = one_batch(task_of(spec))
    batch = dataclasses.replace(batch, sigma=torch.tensor([0.3, 0.6, 0.9]))
    seen = network_input(batch.clean, batch.noise, batch.sigma, objective)
    raw = torch.randn_like(seen)
    velocity = (seen - raw) / batch.sigma.view(-1, 1, 1, 1, 1)
    arguments = (batch.clean, batch.noise, batch.sigma)
    found = sample_losses(raw, *arguments, spec, flow_weight=0.0)
    torch.testing.assert_close(found, sample_losses(velocity, *arguments, as_velocity, flow_weight=0.0))


def test_flow_head_loss_is_the_built_in_trainers():
    spec = flow_spec()
    task = LatentTask(tiny_dit(spec), spec, toy_dataset((200, 4, 8, 8), (200, 4, 8, 8)), FULL)
    batch = one_batch(task, 2)
    clean = batch.clean * 0.3
    clean[0, 192:] = 0.0  # a sample that stands still weighs more
    batch = dataclasses.replace(batch, clean=clean)
    raw_text = lambda ids: (batch.context, batch.pooled, batch.attention_mask)  # noqa: E731
    twin = Batch(clean, torch.arange(4).expand(2, -1), torch.zeros(2, 8, dtype=torch.long), batch.bucket, batch.sigma,
                 batch.noise)  # fmt: skip
    truth, _ = batch_loss(task.dit, raw_text, twin, BuiltinRecipe(), lambda: torch.autocast("cpu", enabled=False))
    torch.testing.assert_close(task.loss(batch).mean(), truth)


def test_flow_head_learns_small_motion_that_sampling_would_cut_to_zero():
    spec = flow_spec()
    clean = torch.zeros(1, 200, 3, 8, 8)
    raw = torch.full_like(clean, 1e-3).requires_grad_()
    sample_losses(raw, clean, clean, torch.tensor([0.5]), spec, flow_weight=1.0).sum().backward()
    assert (raw.grad[:, :, 1:].abs() > 0).all()


@pytest.mark.parametrize("spec", [tiny_spec(), tiny_spec("t2v"), tiny_spec(prediction="x0"), flow_spec()],
                         ids=["residual", "t2v", "x0", "flow"])  # fmt: skip
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_objective_trains_and_leaves_the_network_as_it_found_it(spec, mode):
    shape = (spec.config.in_channels, 3, 8, 8)
    config = TrainingConfig(mode=mode, num_steps=12, learning_rate=3e-3, warmup_steps=0, rank=4, alpha=4.0,
                            batch_size=2, schedule="constant", caption_dropout=0.0)  # fmt: skip
    task = LatentTask(tiny_dit(spec), spec, toy_dataset(shape), config)
    needed = [value.requires_grad for value in task.dit.parameters()]
    before = weights_fingerprint(task.dit)
    batch = task.draw(keys(8))
    losses = []
    for step in range(2):
        with torch.no_grad(), task.running():
            losses.append(task.loss(batch).mean().item())
        if not step:
            Trainer(task, config).run()
    assert losses[1] < losses[0]
    assert [value.requires_grad for value in task.dit.parameters()] == needed
    assert (weights_fingerprint(task.dit) == before) == (mode == "lora")


def test_checkpointed_blocks_give_the_same_gradients():
    gradients = []
    for saving in (False, True):
        config = dataclasses.replace(FULL, gradient_checkpointing=saving, mode="lora", rank=2, alpha=2.0)
        task = task_of(config=config)
        for layer in task.adapter.layers.values():
            layer.up.data.fill_(0.01)
        with task.running():
            task.loss(one_batch(task)).mean().backward()
        gradients.append({name: value.grad for name, value in task.parameters().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_checkpointing_keeps_the_insides_of_blocks_out_of_memory():
    held = []
    for saving in (False, True):
        task = task_of(config=dataclasses.replace(FULL, gradient_checkpointing=saving))
        kept = 0

        def pack(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.loss(one_batch(task))
        held.append(kept)
    assert held[1] < held[0] / 2


def test_a_batch_holds_one_size_and_sizes_come_as_often_as_their_samples():
    task = task_of(shapes=[SHAPE] * 6 + [(4, 5, 4, 6)] * 2)
    sizes = [tuple(task.draw(keys(2, step)).clean.shape[1:]) for step in range(200)]
    assert set(sizes) == {SHAPE, (4, 5, 4, 6)}
    assert 30 < sizes.count((4, 5, 4, 6)) < 70


def test_a_sample_depends_on_its_key_alone():
    task = task_of()
    both, second = task.draw(keys(2)), task.draw(keys(2)[1:])
    for name in ("clean", "noise", "sigma", "bucket"):
        assert torch.equal(getattr(both, name)[1:], getattr(second, name))
    assert both.names[1:] == second.names
    other = task.draw(keys(2, seed=1))
    assert not torch.equal(both.noise, other.noise)


def test_captions_are_dropped_as_often_as_asked_and_padded_ones_are_masked():
    empty = task_of(config=dataclasses.replace(FULL, caption_dropout=1.0))
    batch = one_batch(empty)
    assert torch.equal(batch.context, empty.dataset.text("").context.expand(3, -1, -1)) and batch.attention_mask is None
    none = task_of(config=dataclasses.replace(FULL, caption_dropout=0.0))
    batch = none.draw(keys(12))
    assert batch.context.shape[1] == 3 and set(batch.attention_mask.sum(1).tolist()) == {2.0}
    some = task_of(config=dataclasses.replace(FULL, caption_dropout=0.25), shapes=[SHAPE, SHAPE])
    text = some.dataset.text("").context
    batch = some.draw(keys(400))
    share = sum(torch.equal(row[:2], text) for row in batch.context) / 400
    assert 0.18 < share < 0.32


def test_noise_levels_follow_the_shift_the_table_and_the_top_share():
    spec = tiny_spec()
    generator = torch.Generator().manual_seed(0)
    levels = torch.tensor([draw_sigma(FULL, spec, generator) for _ in range(4000)], dtype=torch.float64)
    base = levels / (3 - 2 * levels)
    assert ((base * 1000 - (base * 1000).round()).abs() < 1e-6)[(levels > 0.001) & (levels < 0.999)].all()
    assert abs(float(base.median()) - 0.5) < 0.03 and abs(float((base.logit()).std()) - 1) < 0.06
    even = dataclasses.replace(FULL, sigma_sampling="uniform", shift=1.0, top_noise_share=0.2)
    levels = torch.tensor([draw_sigma(even, spec, generator) for _ in range(4000)])
    assert abs(float((levels == 0.999).float().mean()) - 0.2) < 0.03
    rest = levels[levels != 0.999]
    assert abs(float((rest < 0.25).float().mean()) - 0.25) < 0.03


def test_what_does_not_fit_together_is_refused_before_training():
    spec = tiny_spec()
    for shapes, text in (
        ([], "data set is empty"),
        ([(5, 3, 4, 4)], "needs 4 channels"),
        ([(4, 3, 5, 4)], "must divide by 2"),
        ([(4, 1, 4, 4)], "at least 2 frames"),
    ):
        with pytest.raises(ConfigError, match=text):
            LatentTask(tiny_dit(spec), spec, toy_dataset(*shapes), FULL)
    with pytest.raises(ConfigError, match="start image, which t2v"):
        task_of(tiny_spec("t2v", concat_first_frame=True))
    with torch.inference_mode():
        dit = tiny_dit(spec)
    with pytest.raises(ConfigError, match="inference_mode"):
        LatentTask(dit, spec, toy_dataset(SHAPE), FULL)


def test_task_names_its_batches_and_what_changed():
    task = task_of()
    told = task.describe(one_batch(task))
    assert "clip" in told and "latents of 4 channels, 3 frames, 4x4" in told
    other = LatentTask(tiny_dit(tiny_spec(), seed=1), tiny_spec(), toy_dataset(SHAPE), dataclasses.replace(
        FULL, mode="lora"))  # fmt: skip
    assert other.differences(other.fingerprint()) == []
    assert "the base weights differ" in other.differences({**other.fingerprint(), "base": "x"})
