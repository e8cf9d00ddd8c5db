"""Growing the built-in model: the larger network starts out doing what the smaller one does; its task is keyed."""

from dataclasses import replace

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.errors import CheckpointError
from pack.motion.models.linear_video.network import LinearVideoDiT
from pack.motion.training.task import SampleKey
from pack.recipes.growth import double, grown_state, halve
from pack.recipes.scene_task import SceneTask
from pack.recipes.small import SmallRecipe, build_small, small_spec

RECIPE = SmallRecipe(num_textures=4, num_targets=2)


@pytest.fixture(scope="module")
def task():
    spec = small_spec(num_layers=7)
    return SceneTask(spec, *build_small(spec, RECIPE, 0), RECIPE)


def keys(*indices, step=0):
    return [SampleKey(5, step, index) for index in indices]


def test_halving_undoes_doubling():
    latents = torch.randn(2, 200, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(halve(double(latents)), latents, atol=1e-5)


@pytest.mark.slow
def test_the_grown_network_moves_a_picture_as_the_smaller_one_moves_it_at_half_the_size(task):
    tiny = load_builtin("motionblocks-tiny")
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(1, 200, 3, 8, 8, generator=generator) * 0.3
    small[:, 192:, :1] = 0
    large = torch.stack([double(small[:, :, n]) for n in range(3)], 2)
    told = replace(tiny.encode(["pan left"]), motion_bucket_id=torch.tensor([12]))
    ours = task.encoder(torch.tensor([task.vocabulary.tokenize("pan left")]))
    assert torch.allclose(ours[0], told.context) and torch.allclose(ours[1], told.pooled)
    # the texture embedding looks at absolute strengths, which halving changes: give both the same
    dit = LinearVideoDiT(replace(task.spec.config, first_frame_texture=False))
    dit.load_state_dict({name: value for name, value in task.dit.state_dict().items() if "texture" not in name})
    other = LinearVideoDiT(replace(tiny.spec.config, first_frame_texture=False))
    other.load_state_dict({name: value for name, value in tiny.dit.state_dict().items() if "texture" not in name})
    with torch.no_grad():
        said = [net.predict_raw(x, torch.tensor([900.0]), replace(told, first_latent=x[:, :, :1]))
                for net, x in ((dit, large), (other, small))]
    for n in range(3):
        assert torch.allclose(halve(said[0][:, :, n]), said[1][:, :, n], atol=2e-3)


@pytest.mark.slow
def test_networks_that_do_not_belong_together_are_refused(task):
    tiny = load_builtin("motionblocks-tiny").dit.state_dict()
    with pytest.raises(CheckpointError, match="no place"):
        grown_state({**tiny, "extra.weight": torch.zeros(1)}, task.dit.state_dict())
    with pytest.raises(CheckpointError, match="frame_index"):
        name = next(name for name in tiny if "frame_index" in name and tiny[name].ndim == 2)
        grown_state({**tiny, name: torch.zeros(3, 3)}, task.dit.state_dict())


def test_the_network_keeps_the_promised_size():
    spec = small_spec()
    count = sum(p.numel() for p in LinearVideoDiT(spec.config, device="meta").parameters())
    assert count < 8e6 and spec.latent.working_size == 128


def test_a_batch_depends_on_its_keys_and_not_on_who_else_is_in_it(task):
    first, again = task.draw(keys(0, 1, 2)), task.draw(keys(0, 1, 2))
    assert torch.equal(first.clean, again.clean) and torch.equal(first.noise, again.noise)
    alone = task.draw(keys(1))
    assert alone.captions == first.captions[1:2] and torch.equal(alone.frame_indices, first.frame_indices[1:2])
    for name in ("clean", "noise", "sigma", "bucket", "ids", "flow_weight"):
        assert torch.allclose(getattr(alone, name), getattr(first, name)[1:2], atol=1e-5), name
    assert not torch.equal(task.draw(keys(0, step=1)).noise, first.noise[:1])


@pytest.mark.slow
def test_one_loss_a_sample_and_gradients_reach_every_part(task):
    batch = task.draw(keys(0, 1))
    loss = task.loss(batch)
    assert loss.shape == (2,) and loss.isfinite().all()
    loss.mean().backward()
    silent = [name for name, value in task.parameters().items() if value.grad is None]
    assert not silent
    task.dit.zero_grad()
    task.encoder.zero_grad()


@pytest.mark.slow
def test_what_stands_still_has_bucket_0_or_the_word_still(task):
    batch = task.draw(keys(*range(60)))
    moves = batch.clean[:, 192:].abs().amax((1, 2, 3, 4)) > 0
    weather = torch.tensor([any(word in caption for word in ("rain", "snow")) for caption in batch.captions])
    still = torch.tensor([caption == "still" for caption in batch.captions])
    assert not moves[(batch.bucket == 0)].any()
    assert moves[(batch.bucket > 0) & ~still & ~weather].all()
    assert not set(RECIPE.left_out) & {word for caption in batch.captions for word in caption.split(", ")}


def test_where_a_part_moves_the_flow_counts_more(task):
    truth = torch.zeros(2, 8, 1, 8, 8)
    truth[0, 0, :, 2:4, 2:4] = 1.0
    weight = task._flow_weight(truth)
    assert weight[0, 0, 0, 2, 2] == RECIPE.moving_weight and weight[0, 0, 0, 0, 0] == 1.0
    assert (weight[1] == RECIPE.still_weight).all()
