"""Sizes of the Wan networks: what is refused, and what the published ones are."""

import pytest
from pack.motion.errors import ConfigError
from pack.motion.models.wan.config import PUBLISHED, WanConfig


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; it must be 1 to 200"),
        ({"attention_head_dim": 15}, "attention_head_dim is 15; rotation needs an even number"),
        ({"concat_channels": 32}, "concat_channels is 32; it must be 0, or 20 for a start video's 4 channels of mask"),
        ({"position_tokens": 514}, "position_tokens is 514; without image_tokens it must be 0"),
        ({"hidden_width": 0, "caption_channels": 0}, "hidden_width is 0.*; caption_channels is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_config_that_no_wan_has_is_refused_with_every_reason(wrong, message):
    with pytest.raises(ConfigError, match=message):
        WanConfig(**wrong)


def test_every_published_config_comes_back_from_its_record():
    for config in PUBLISHED.values():
        assert WanConfig.from_dict(config.to_dict()) == config


def test_a_published_head_turns_by_frame_row_and_column():
    assert WanConfig().axes == (44, 42, 42) and WanConfig(attention_head_dim=20).axes == (8, 6, 6)
