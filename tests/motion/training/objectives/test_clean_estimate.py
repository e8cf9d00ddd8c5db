"""The loss of networks that answer with clean latents; that of the flow head is a loop of its formula in float64."""

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.recipes.tiny import BuiltinRecipe
from pack.recipes.tiny_trainer import Batch, batch_loss
from training_toys import flow_spec, keys, losses_of, task_of, tiny_spec


@pytest.mark.parametrize("objective", ["i2v_residual", "t2v"])
def test_clean_prediction_weighs_like_the_velocity_it_stands_for(objective):
    spec, as_velocity = tiny_spec(objective, "x0"), tiny_spec(objective)
    batch = {**task_of(spec).draw(keys(3)).tensors, "sigma": torch.tensor([0.3, 0.6, 0.9])}
    raw = torch.randn_like(batch["latents"])
    found, seen = losses_of(raw, batch, spec)
    velocity = (seen - raw) / batch["sigma"].view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(found, losses_of(velocity, batch, as_velocity)[0])


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
    batch = {"latents": clean, "noise": torch.zeros_like(clean), "sigma": sigma}
    found, _ = losses_of(raw, batch, flow_spec(), flow_weight=20.0)
    found.sum().backward()
    for b in range(3):
        loss, slope = flow_head_truth(raw[b], clean[b], float(sigma[b]))
        torch.testing.assert_close(found[b].double(), torch.tensor(loss, dtype=torch.float64), atol=0, rtol=1e-5)
        torch.testing.assert_close(raw.grad[b, 192:].double(), torch.from_numpy(slope), atol=1e-9, rtol=1e-5)


@pytest.mark.slow
def test_both_trainers_show_the_network_the_noised_residual_and_take_the_loss_of_the_loop():
    spec = flow_spec()
    task = task_of(spec, [(200, 4, 8, 8)] * 2)
    drawn = task.draw(keys(2))
    clean = drawn.tensors["latents"] * 0.3
    clean[0, 192:] = 0.0
    batch = {**drawn.tensors, "latents": clean}
    seen = torch.empty_like(clean)
    for b, sigma in enumerate(batch["sigma"].double()):
        z1, noise = clean[b, :, 0].double(), batch["noise"][b].double()
        seen[b, :, 0] = z1
        for n in range(1, 4):
            seen[b, :, n] = z1 + (1 - sigma) * (clean[b, :, n] - z1) + sigma * noise[:, n]
    text = (batch["context"], batch.get("attention_mask"), batch["pooled"])
    told = Conditions(*text, batch["motion_bucket_id"], clean[:, :, :1], torch.arange(4))
    raw = task.trainee.module.predict_raw(seen, batch["sigma"] * 1000, told)
    assert raw[:, 192:, 1:].abs().max() > 0.1  # else nothing would be warped
    truth = [flow_head_truth(raw[b], clean[b], float(batch["sigma"][b]))[0] for b in range(2)]
    truth = torch.tensor(truth, dtype=torch.float64)
    torch.testing.assert_close(task.loss(replace(drawn, tensors=batch)).double(), truth, atol=0, rtol=1e-5)

    raw_text = lambda ids: (text[0], text[2], text[1])  # noqa: E731
    ids, drawn = torch.zeros(2, 8, dtype=torch.long), [batch[name] for name in ("motion_bucket_id", "sigma", "noise")]
    twin = Batch(clean, torch.arange(4).expand(2, -1), ids, *drawn)
    found, _ = batch_loss(task.trainee.module, raw_text, twin, BuiltinRecipe(), nullcontext)
    torch.testing.assert_close(found.double(), truth.mean(), atol=0, rtol=1e-5)


def test_flow_head_learns_small_motion_that_sampling_would_cut_to_zero():
    spec = flow_spec()
    clean = torch.zeros(1, 200, 3, 8, 8)
    raw = torch.full_like(clean, 1e-3).requires_grad_()
    batch = {"latents": clean, "noise": clean, "sigma": torch.tensor([0.5])}
    losses_of(raw, batch, spec, flow_weight=1.0)[0].sum().backward()
    assert (raw.grad[:, :, 1:].abs() > 0).all()
