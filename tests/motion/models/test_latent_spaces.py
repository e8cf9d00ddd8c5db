"""The table of latent spaces: which sizes and frame counts each VAE holds, and what a refusal says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.model_spec import LatentSpec


@pytest.mark.parametrize("kind, px, frames", [("wan21", 16, 4), ("ltx2", 32, 8), ("dcae", 32, 1)])
def test_rules_are_those_of_the_public_vaes(kind, px, frames):
    space = SPACES[kind]
    assert (space.multiple, space.temporal_ratio) == (px, frames)
    space.check_size(3 * px, 5 * px, "start_image")
    assert space.latent_frames(frames * 20 + 1) == 21


def test_a_wrong_side_names_value_need_and_the_two_nearest_sizes():
    words = r"start_image is 840x480 px; Wan 2.1 VAE needs multiples of 16; .*832x480 or 848x480 .*row Wan 2.1 VAE"
    with pytest.raises(ShapeError, match=words):
        SPACES["wan21"].check_size(840, 480, "start_image")


def test_a_wrong_frame_count_names_the_nearest_counts():
    with pytest.raises(ConfigError, match="num_frames is 80; Wan 2.1 VAE needs 4k \\+ 1; use 77 or 81"):
        SPACES["wan21"].latent_frames(80)
    with pytest.raises(ConfigError, match="use 9 \\(docs/models.md, row LTX-2 VAE\\)$"):
        SPACES["ltx2"].latent_frames(3)


@pytest.mark.parametrize("count", [0, -1, 1025, True, 2.5, "81"])
def test_counts_that_are_no_counts_are_refused(count):
    with pytest.raises(ConfigError, match="num_frames"):
        SPACES["dcae"].latent_frames(count)


def test_rows_stand_in_the_table_of_models():
    text = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    assert all(f"| {space.row} |" in text for space in SPACES.values() if space.row)


@pytest.mark.parametrize("kind", SPACES)
def test_scaling_is_what_the_space_says_and_the_way_back_undoes_it(kind):
    space = replace(SPACES[kind], scale_factor=0.5)
    latents = torch.randn(2, space.channels, 3, 2, 2, dtype=torch.float64) * 3
    scaled = space.scaled(latents)
    for channel in range(space.channels):
        mean, deviation = (space.mean[channel], space.deviation[channel]) if space.mean else (0.0, 1.0)
        torch.testing.assert_close(scaled[:, channel], (latents[:, channel] - mean) / deviation * 0.5)
    torch.testing.assert_close(space.unscaled(scaled), latents)
    torch.testing.assert_close(space.scaled(latents[0]), scaled[0])


def test_a_space_says_which_frame_counts_it_holds():
    assert [count for count in range(12) if SPACES["wan21"].holds(count)] == [1, 5, 9]
    assert all(SPACES["dcae"].holds(count) for count in range(1, 12)) and not SPACES["dcae"].holds(0)


def test_a_model_may_work_in_any_space_of_the_table_and_in_no_other():
    spec = LatentSpec(kind="wan21", channels=16, spatial_ratio=8, scale_factor=1.0)
    assert LatentSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ConfigError, match="kind wan21 has 16 channels with their own scales; scale_factor must be 1"):
        LatentSpec(kind="wan21", channels=16, spatial_ratio=8, scale_factor=0.5)
    with pytest.raises(ConfigError, match="kind is 'wan'; known kinds are dcae, wan21, ltx2, svd, builtin"):
        LatentSpec(kind="wan", channels=16, spatial_ratio=8, scale_factor=1.0)
