"""The training task of motion models: the objective is the paper's, the flow head's loss a loop of its formula."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.models.conditions import Conditions
from pack.motion.training.config import TrainingConfig
from pack.motion.training.latent_task import LatentTask, weights_fingerprint
from pack.motion.training.objectives import draw_sigma, network_input, sample_losses
from pack.motion.training.trainer import SampleKey, Trainer
from pack.recipes.tiny import BuiltinRecipe
from pack.recipes.tiny_trainer import Batch, batch_loss
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


def block_cosines():
    """cosines[frequency, sample] of the orthonormal DCT-II of 8 samples."""
    rows = [[math.cos(math.pi / 8 * (sample + 0.5) * frequency) for sample in range(8)] for frequency in range(8)]
    return np.array(rows) * np.sqrt(np.where(np.arange(8) == 0, 1 / 8, 2 / 8))[:, None]


def bump(distance):
    """The cubic B-spline of unit-spaced cells."""
    distance = abs(distance)
    if distance < 1:
        return 2 / 3 - distance**2 + distance**3 / 2
    return max(2 - distance, 0.0) ** 3 / 6


def spread_cells(cells):
    """Flow of 16x16 cells at each of 64x64 px: splines, with cells beyond the border on the line of the last two."""
    shares = np.zeros((64, 16))
    for pixel in range(64):
        place = (pixel + 0.5) / 4 - 0.5
        for cell in range(-2, 18):
            share = bump(place - cell)
            near, inner = (0, 1) if cell < 0 else (15, 14)
            beyond = max(-cell, cell - 15, 0)
            shares[pixel, near if beyond else cell] += (1 + beyond) * share
            shares[pixel, inner] -= beyond * share
    return shares @ cells @ shares.T


def mirrored(place):
    """A coordinate in px folded at the edges -0.5 and 63.5 of the picture, and the two pixels it lies between."""
    place = (place + 0.5) % 128
    place = min(max((128 - place if place > 64 else place) - 0.5, 0.0), 63.0)
    low = min(int(place), 62)
    return low, place - low


def warped_picture(picture, dx, dy):
    """Each pixel read at its own flow, between four neighbours."""
    out = np.empty_like(picture)
    for y in range(64):
        for x in range(64):
            (top, down), (left, right) = mirrored(y + dy[y, x]), mirrored(x + dx[y, x])
            upper, lower = picture[:, top, left : left + 2], picture[:, top + 1, left : left + 2]
            row = (1 - down) * upper + down * lower
            out[:, y, x] = (1 - right) * row[:, 0] + right * row[:, 1]
    return out


def flow_head_truth(raw, clean, sigma, flow_weight=20.0):
    """Loss of one sample and its slope along raw flow, in float64 loops. raw, clean: (200, t, 8, 8), frame 0 first.

    Velocity loss of the clean estimate enc(warp(picture, flow)) + delta, over the 192 channels of the picture; plus the
    L1 of flow over the root of n / 4, where raw flow times n / 4 is flow in units of 4 px; 4-fold in a still sample.
    """
    raw, clean = raw.detach().double().numpy(), clean.double().numpy()
    cosines, num_frames = block_cosines(), clean.shape[1]
    blocks = clean[:192, 0].reshape(3, 8, 8, 8, 8)  # colour, v, u, row, column
    picture = np.einsum("vp,cvuij,uq->cipjq", cosines, blocks, cosines).reshape(3, 64, 64)
    weight = flow_weight * (4.0 if np.abs(clean[192:, 1:]).max() < 1e-3 else 1.0)
    appearance, flow_error, slope = 0.0, 0.0, np.zeros_like(raw[192:])
    for n in range(1, num_frames):
        grown = raw[192:, n] * n / 4
        dx, dy = 4 * grown.reshape(2, 2, 2, 8, 8).transpose(0, 3, 1, 4, 2).reshape(2, 16, 16)
        moved = warped_picture(picture, spread_cells(dx), spread_cells(dy)).reshape(3, 8, 8, 8, 8)
        found = np.einsum("vp,cipjq,uq->cvuij", cosines, moved, cosines).reshape(192, 8, 8) + raw[:192, n]
        appearance += np.square((found - clean[:192, n]) / max(sigma, 0.1)).sum()
        flow_error += np.abs(grown - clean[192:, n]).sum() / math.sqrt(n / 4)
        slope[:, n] = weight * np.sign(grown - clean[192:, n]) * n / 4 / math.sqrt(n / 4)
    cells = (num_frames - 1) * 8 * 8
    return appearance / (192 * cells) + weight * flow_error / (8 * cells), slope / (8 * cells)


def test_flow_head_loss_equals_the_loop_and_only_its_own_truth_moves_the_flow():
    generator = torch.Generator().manual_seed(0)
    raw, clean = (torch.randn(3, 200, 3, 8, 8, generator=generator) * 0.3 for _ in range(2))
    clean[0, 192:] = 0.0  # a sample that stands still weighs more
    sigma = torch.tensor([0.6, 0.03, 0.9])
    raw.requires_grad_()
    found = sample_losses(raw, clean, torch.zeros_like(clean), sigma, flow_spec(), flow_weight=20.0)
    found.sum().backward()
    for b in range(3):
        loss, slope = flow_head_truth(raw[b], clean[b], float(sigma[b]))
        torch.testing.assert_close(found[b].double(), torch.tensor(loss, dtype=torch.float64), atol=0, rtol=1e-5)
        torch.testing.assert_close(raw.grad[b, 192:].double(), torch.from_numpy(slope), atol=1e-9, rtol=1e-5)


@pytest.mark.slow
def test_both_trainers_show_the_network_the_noised_residual_and_take_the_loss_of_the_loop():
    spec = flow_spec()
    task = LatentTask(tiny_dit(spec), spec, toy_dataset((200, 4, 8, 8), (200, 4, 8, 8)), FULL)
    batch = one_batch(task, 2)
    clean = batch.clean * 0.3
    clean[0, 192:] = 0.0
    batch = dataclasses.replace(batch, clean=clean)
    seen = torch.empty_like(clean)
    for b, sigma in enumerate(batch.sigma.double()):
        z1, noise = clean[b, :, 0].double(), batch.noise[b].double()
        seen[b, :, 0] = z1
        for n in range(1, 4):
            seen[b, :, n] = z1 + (1 - sigma) * (clean[b, :, n] - z1) + sigma * noise[:, n]
    told = Conditions(
        batch.context, batch.attention_mask, batch.pooled, batch.bucket, clean[:, :, :1], torch.arange(4)
    )  # fmt: skip
    raw = task.dit.predict_raw(seen, batch.sigma * 1000, told)
    assert raw[:, 192:, 1:].abs().max() > 0.1  # else nothing would be warped
    truth = [flow_head_truth(raw[b], clean[b], float(batch.sigma[b]))[0] for b in range(2)]
    truth = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(task.loss(batch).double(), truth, atol=0, rtol=1e-5)

    raw_text = lambda ids: (batch.context, batch.pooled, batch.attention_mask)  # noqa: E731
    twin = Batch(clean, torch.arange(4).expand(2, -1), torch.zeros(2, 8, dtype=torch.long), batch.bucket, batch.sigma,
                 batch.noise)  # fmt: skip
    found, _ = batch_loss(task.dit, raw_text, twin, BuiltinRecipe(), lambda: torch.autocast("cpu", enabled=False))
    torch.testing.assert_close(found.double(), truth.mean(), atol=0, rtol=1e-5)


def test_flow_head_learns_small_motion_that_sampling_would_cut_to_zero():
    spec = flow_spec()
    clean = torch.zeros(1, 200, 3, 8, 8)
    raw = torch.full_like(clean, 1e-3).requires_grad_()
    sample_losses(raw, clean, clean, torch.tensor([0.5]), spec, flow_weight=1.0).sum().backward()
    assert (raw.grad[:, :, 1:].abs() > 0).all()


@pytest.mark.slow
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
