"""The experts of Wan 2.2 A14B: their share of the noise levels, and which networks may be one."""

import pytest
from pack.motion.models.wan.config import PUBLISHED
from pack.motion.models.wan.experts import may_be_expert, noise_range


@pytest.mark.parametrize("title, high, low", [("A14B T2V", (0.875, 1.0), (0.0, 0.875)),
                                              ("A14B I2V", (0.9, 1.0), (0.0, 0.9))])  # fmt: skip
def test_two_experts_share_the_levels_at_the_published_border(title, high, low):
    config = PUBLISHED[title]
    assert noise_range(config, "high_noise") == high and noise_range(config, "low_noise") == low
    assert noise_range(config, "") == (0.0, 1.0)


def test_only_networks_of_the_size_of_an_expert_may_be_one():
    found = {title for title, config in PUBLISHED.items() if may_be_expert(config)}
    assert found == {"T2V 14B", "A14B T2V", "A14B I2V"}
