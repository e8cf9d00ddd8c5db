"""The table of latent spaces: which sizes and frame counts each VAE holds, and what a refusal says."""

from pathlib import Path

import pytest
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.latent_spaces import SPACES


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
