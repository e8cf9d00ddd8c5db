"""Where reference, skeletons and target stand: every length fits, exactly as many frames come out."""

import pytest
import torch
from pack.motion.choices import JOINT, SEPARATE, SEQUENCE_MODES
from pack.motion.errors import ConfigError
from pack.motion.sequence.layout import SequenceLayout


def latent_of(frame):
    """Which latent frame of Wan's VAE holds a frame."""
    return -(-frame // 4)


@pytest.mark.parametrize("m, frames, latents", [(4, 16, 9), (5, 20, 11), (10, 40, 21), (15, 60, 31), (20, 80, 41)])
def test_joint_sequences_have_the_sizes_of_the_specification(m, frames, latents):
    layout = SequenceLayout(frames)
    assert (layout.target_latents, layout.latent_frames, layout.padded_frames) == (m, latents, frames)
    assert layout.is_longer_than_trained is (latents > 21)


@pytest.mark.parametrize("mode", SEQUENCE_MODES)
def test_every_length_fits_whole_latents_of_one_kind(mode):
    for count in range(1, 1001):
        layout = SequenceLayout(count, mode)
        padded, mask = layout.padded_frames, layout.frame_mask()
        assert count <= padded < count + 4 and layout.given_latents + layout.target_latents == len(mask)
        if mode == JOINT:  # reference, skeletons, target in one pass: the last of one kind, the first of the next
            held = [latent_of(frame) for frame in (0, 1, padded, padded + 1, 2 * padded)]
            assert held == [0, 1, layout.given_latents - 1, layout.given_latents, layout.latent_frames - 1]
        else:
            assert (padded - 1) % 4 == 0 and layout.target_latents == latent_of(padded - 1) + 1
        assert int(mask.sum()) == layout.target_latents and not mask[: layout.given_latents].any()


@pytest.mark.parametrize("mode", SEQUENCE_MODES)
def test_the_last_pose_is_repeated_and_nothing_is_where_none_is_missing(mode):
    video = torch.arange(6.0).view(1, 1, 6, 1, 1)
    padded = SequenceLayout(6, mode).padded(video).flatten()
    assert padded.tolist() == [0, 1, 2, 3, 4, 5] + [5] * (len(padded) - 6) and len(padded) in (8, 9)
    whole = torch.rand(1, 1, SequenceLayout(6, mode).padded_frames, 1, 1)
    assert SequenceLayout(whole.shape[2], mode).padded(whole) is whole


def test_the_mask_beside_says_1_where_frames_are_given():
    layout = SequenceLayout(8)
    shown = torch.rand(2, 16, 5, 3, 4)
    beside = layout.concat(shown)
    assert beside.shape == (2, 20, 5, 3, 4) and torch.equal(beside[:, 4:], shown)
    assert (beside[:, :4, :3] == 1).all() and (beside[:, :4, 3:] == 0).all()


@pytest.mark.parametrize("count", [0, -1, 1025, True, 4.0, "4"])
def test_a_count_that_is_none_is_refused(count):
    with pytest.raises(ConfigError, match="num_frames is"):
        SequenceLayout(count)


def test_an_unknown_mode_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=f"'both'; it must be one of: {JOINT}, {SEPARATE}"):
        SequenceLayout(8, "both")
