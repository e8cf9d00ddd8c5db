"""Drawn puppets: joints are where the limbs are, they move slowly, windows are parts of the whole."""

import pytest
import torch
from pack.motion.data.procedural.puppets import ACTS, PuppetSource
from pack.motion.errors import ConfigError
from pack.motion.pose.body18 import POINTS


def drawn(seed, size=96, **more):
    return PuppetSource(size, size, **more).draw(torch.Generator().manual_seed(seed))


def test_equal_seeds_are_equal_clips():
    assert torch.equal(drawn(1).render()[0], drawn(1).render()[0])
    assert not torch.equal(drawn(1).joints, drawn(2).joints)


@pytest.mark.parametrize("act", ACTS)
def test_joints_move_and_none_faster_than_3_px_a_frame(act):
    for seed in range(8):
        speed = drawn(seed, 128, acts=(act,)).joints.diff(dim=0).norm(dim=2)
        assert 0.3 < float(speed.max()) < 3


@pytest.mark.parametrize("act, moving", [("waves", {"left elbow", "left wrist"}),
                                         ("bends", {"left wrist", "right wrist"})])  # fmt: skip
def test_an_act_moves_what_it_says_and_nothing_else(act, moving):
    way = drawn(3, acts=(act,)).joints
    moved = {POINTS[k] for k in (way - way[:1]).abs().amax((0, 2)).gt(1e-3).nonzero()[:, 0].tolist()}
    assert moved == moving


def test_every_joint_of_the_limbs_lies_on_the_puppet():
    for seed in range(6):
        clip = drawn(seed, 128)
        _, cover = clip.render()
        for k in range(14):
            x, y = clip.joints[:, k].round().long().clamp(0, 127).unbind(1)
            inside = (clip.joints[:, k] > 1).all(1) & (clip.joints[:, k] < 126).all(1)
            assert (cover[torch.arange(17), y, x][inside] > 0.5).all(), POINTS[k]


def test_bones_keep_their_length():
    joints = drawn(5, acts=("dances",)).joints
    for a, b in ((2, 3), (3, 4), (9, 10), (12, 13)):
        assert float((joints[:, a] - joints[:, b]).norm(dim=1).std()) < 1e-3


def test_a_window_is_a_part_of_the_whole_picture():
    clip = drawn(7)
    (whole, cover), (part, part_cover) = clip.render(), clip.render((16, 8, 64, 48))
    assert torch.allclose(part, whole[:, :, 16:80, 8:56], atol=1e-6)
    assert torch.allclose(part_cover, cover[:, 16:80, 8:56], atol=1e-6)


def test_skeletons_lie_on_the_puppet():
    clip = drawn(2, 128)
    skeletons, (_, cover) = clip.skeletons(), clip.render()
    assert skeletons.shape == (3, 17, 128, 128)
    lit = skeletons.amax(0) > 0.3
    assert float(cover[lit].mean()) > 0.8


def test_what_puppets_are_not_made_for_is_refused():
    with pytest.raises(ConfigError, match="96 to 192 px"):
        PuppetSource(64, 128)
    with pytest.raises(ConfigError, match="no puppet 'flies'"):
        PuppetSource(acts=("flies",))


def test_one_puppet_is_drawn_twice_with_its_looks_and_another_pose():
    one, other = PuppetSource(128, 128).draw_twice(torch.Generator().manual_seed(5))
    assert torch.equal(one.ground, other.ground) and one.girth == other.girth and one.head == other.head
    assert all(torch.equal(one.colours[part], other.colours[part]) for part in one.colours)

    def bones(clip):
        upper, fore, leg = ((2, 3), (3, 4), (8, 9))
        return [float((clip.joints[0, a] - clip.joints[0, b]).norm()) for a, b in (upper, fore, leg)]

    assert bones(one) == pytest.approx(bones(other), rel=1e-4)
    assert float((one.joints - other.joints).norm(dim=-1).amax()) > 5
    same = PuppetSource(128, 128).draw(torch.Generator().manual_seed(5))
    assert torch.equal(same.joints, one.joints) and torch.equal(same.ground, one.ground)


def test_only_the_grounds_that_are_named_are_drawn():
    night = PuppetSource(96, 96, grounds=("night",))
    assert all(float(night.draw(torch.Generator().manual_seed(k)).ground.mean()) < 0.3 for k in range(5))
