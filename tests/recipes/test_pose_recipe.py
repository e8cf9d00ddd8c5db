"""The recipe of motionblocks-wan-pose: sequences by key, what is held back, the forms that are compared."""

from dataclasses import replace

import pytest
import torch
from pack.motion.choices import JOINT, SEPARATE
from pack.motion.data.procedural.puppets import ACTS, SPEED
from pack.motion.models.small_vae import SmallVAE, SmallVAEConfig
from pack.motion.models.wan.config import WanConfig
from pack.motion.training.task import SampleKey
from pack.recipes.pose import HELD_BACK_ACTS, HELD_BACK_GROUNDS, TAUGHT_ACTS, PoseRecipe, PoseSource, PoseTask
from pack.recipes.wan import build_wan, wan_spec

SIZES = ((96, 96, 5, 0.5), (96, 112, 8, 0.5))


def task_of(**changes):
    torch.manual_seed(0)
    vae = SmallVAE(SmallVAEConfig(4, 1, 4, 1)).requires_grad_(False)
    config = WanConfig(num_layers=1, num_attention_heads=1, hidden_width=32, concat_channels=20)
    spec = replace(wan_spec(from_image=True), config=config)
    recipe = PoseRecipe(**{"sizes": SIZES, "lead_steps": 0, **changes})
    dit = build_wan(spec, 0)
    torch.nn.init.normal_(dit.head.head.weight)
    return PoseTask(spec, dit, vae, recipe)


def keys(step, *indices):
    return [SampleKey(3, step, index) for index in indices]


def test_a_sample_hangs_on_its_key_alone():
    task = task_of()
    whole, alone = task.draw(keys(1, 0, 1, 2)), task.draw(keys(1, 1))
    assert set(whole) == {"latents", "noise", "sigma", "context", "frame_mask", "concat_latents"}
    for name, value in alone.items():
        torch.testing.assert_close(whole[name][1:2], value, msg=name)  # rounding of a batch in the VAE


@pytest.mark.parametrize("mode, given, made", [(SEPARATE, 3, 2), (JOINT, 3, 2)])
def test_reference_and_skeletons_stand_clean_before_the_target_and_beside_it(mode, given, made):
    task = task_of(mode=mode, sizes=((96, 96, 5, 1.0),))
    batch = task.draw(keys(0, 0, 1))
    assert batch["latents"].shape == (2, 16, given + made, 12, 12)
    assert batch["frame_mask"].tolist() == [[0.0] * given + [1.0] * made] * 2
    beside = batch["concat_latents"]
    assert (beside[:, :4, :given] == 1).all() and not beside[:, :4, given:].any()
    assert torch.equal(beside[:, 4:, :given], batch["latents"][:, :, :given])
    assert not torch.equal(beside[:, 4:, given:], batch["latents"][:, :, given:])


def test_the_loss_is_of_the_target_alone_and_of_all_frames_where_the_recipe_says_so():
    for loss, is_all in (("half", False), ("all", True)):
        task = task_of(loss=loss)
        batch = task.draw(keys(0, 0))
        noise = batch["noise"].clone()
        noise[:, :, 0] += 3
        assert torch.equal(task.loss(batch), task.loss({**batch, "noise": noise})) is not is_all


def test_in_the_other_form_skeletons_stand_beside_the_target():
    task = task_of(form="channels", sizes=((96, 96, 5, 1.0),))
    batch = task.draw(keys(0, 0))
    assert batch["latents"].shape[2] == 1 + 2 and batch["frame_mask"].tolist() == [[0.0, 1.0, 1.0]]
    assert (batch["concat_latents"][:, :4, 0] == 1).all() and not batch["concat_latents"][:, :4, 1:].any()


def test_puppets_of_a_clip_are_one_and_the_reference_has_a_pose_of_its_own():
    source = PoseSource(96, 96, 9)
    for seed in range(4):
        clip = source.draw(torch.Generator().manual_seed(seed))
        assert clip.reference.shape == (3, 1, 96, 96) and clip.target.shape == clip.skeletons.shape == (3, 9, 96, 96)
        border = torch.cat([(clip.reference - clip.target[:, :1])[..., row, :].flatten() for row in (0, -1)])
        assert float(border.abs().mean()) < 0.02  # one ground
        assert float((clip.reference - clip.target[:, :1]).abs().amax()) > 0.2
        assert float((clip.joints[1:] - clip.joints[:-1]).norm(dim=-1).amax()) < 2 * SPEED


def test_small_clips_show_the_whole_puppet_and_its_skeleton_in_place():
    large, small = (PoseSource(side, side, 5).draw(torch.Generator().manual_seed(2)) for side in (96, 64))
    torch.testing.assert_close(small.joints * 1.5, large.joints, rtol=0, atol=1e-3)
    assert small.target.shape == (3, 5, 64, 64) and float((small.skeletons > 0.3).any(0).float().mean()) > 0.01


def test_acts_and_grounds_that_tests_need_are_never_taught():
    assert set(TAUGHT_ACTS) | set(HELD_BACK_ACTS) == set(ACTS) and not set(TAUGHT_ACTS) & set(HELD_BACK_ACTS)
    source = PoseSource(96, 96, 5)
    assert source.source.acts == TAUGHT_ACTS
    drawn = {source.draw(torch.Generator().manual_seed(seed)).ground for seed in range(30)}
    assert not drawn & set(HELD_BACK_GROUNDS) and len(drawn) == 5


def test_the_first_steps_are_small_and_sizes_come_in_their_shares():
    task = task_of(lead_steps=2, lead_side=64)
    assert task.draw(keys(1, 0))["latents"].shape[3:] == (8, 8)
    drawn = [tuple(task.draw(keys(step, 0))["latents"].shape[2:]) for step in range(2, 14)]
    assert set(drawn) == {(5, 12, 12), (7, 12, 14)}
