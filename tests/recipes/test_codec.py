"""The recipe of motionblocks-vae: drawn by key, starts as principal components, its latents as large as Wan's."""

import pytest
import torch
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.small_vae import SmallVAEConfig
from pack.motion.training.task import SampleKey
from pack.recipes.codec import CodecRecipe, CodecTask, build_codec, draw_clip, measure_scale

RECIPE = CodecRecipe(start_clips=24, measured_clips=6)
SIZES = SmallVAEConfig(encoder_width=8, encoder_blocks=1, decoder_width=8, decoder_blocks=1)


@pytest.fixture(scope="module")
def task():
    return CodecTask(build_codec(RECIPE, 0, SIZES), RECIPE)


def keys(*indices):
    return [SampleKey(5, 2, index) for index in indices]


def test_a_batch_hangs_on_its_keys_alone(task):
    together, alone = task.draw(keys(0, 1, 2)), task.draw(keys(1))
    assert together[0].shape == (3, 3, 17, 64, 64)
    assert torch.equal(together[0][1:2], alone[0]) and torch.equal(together[1][1:2], alone[1])
    assert -1 <= float(alone[0].min()) and float(alone[0].max()) <= 1


def test_sprites_puppets_and_skeletons_are_drawn_in_their_shares():
    clips = [draw_clip(SampleKey(1, 0, k), CodecRecipe()) for k in range(60)]
    black = sum(float((clip == 0).all(0).float().mean()) > 0.5 for clip in clips)
    assert 6 <= black <= 26  # skeletons: a quarter of 60


@pytest.mark.slow
@torch.no_grad()
def test_it_starts_as_the_best_linear_map_of_its_clips(task):
    """A linear map to 16 numbers cannot do better on the clips whose components it holds."""
    vae = task.vae
    clips = torch.stack([draw_clip(SampleKey(0, -10, k), RECIPE) for k in range(RECIPE.start_clips)]) * 2 - 1
    error = (vae.decode_cells(vae.encode_cells(clips)) - clips)[:, :, 1:].square().mean()
    groups = clips[:, :, 1:].unfold(2, 4, 4).unfold(3, 8, 8).unfold(4, 8, 8).permute(0, 2, 3, 4, 5, 1, 6, 7).flatten(4)
    rows = groups.flatten(0, 3)
    values = torch.linalg.svdvals((rows - rows.mean(0)).double())
    left = values[16:].square().sum() / rows.numel()
    assert float(error) == pytest.approx(float(left), rel=1e-3)


@torch.no_grad()
def test_latents_have_wans_scale_once_it_is_measured(task):
    measure_scale(task.vae, RECIPE, 0)
    videos, _ = task.draw(keys(0, 1, 2, 3))
    seen = SPACES["wan21"].scaled(task.vae.encode(videos))
    assert 0.5 < float(seen.std()) < 2 and float(task.vae.deviation.std()) == 0


def test_the_loss_falls(task):
    batch = task.draw(keys(*range(4)))
    optimizer = torch.optim.Adam(task.vae.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = task.loss(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
