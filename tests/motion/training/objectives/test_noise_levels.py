"""How noise levels are drawn."""

import pytest
import torch
from pack.motion.errors import ConfigError
from pack.motion.sampling.schedules import shift_sigma
from pack.motion.training.objectives.noise_levels import NoiseLevels
from training_toys import FULL, tiny_spec


def test_noise_levels_follow_the_shift_the_table_and_the_top_share():
    spec = tiny_spec()
    generator = torch.Generator().manual_seed(0)
    own = NoiseLevels.of(FULL.objective, spec.sampling)
    levels = torch.tensor([own.draw(generator) for _ in range(4000)], dtype=torch.float64)
    base = levels / (3 - 2 * levels)
    assert ((base * 1000 - (base * 1000).round()).abs() < 1e-6)[(levels > 0.001) & (levels < 0.999)].all()
    assert abs(float(base.median()) - 0.5) < 0.03 and abs(float((base.logit()).std()) - 1) < 0.06
    asked = FULL.changed(sigma_sampling="uniform", shift=1.0, top_noise_share=0.2).objective
    even = NoiseLevels.of(asked, spec.sampling)
    levels = torch.tensor([even.draw(generator) for _ in range(4000)])
    assert abs(float((levels == 0.999).float().mean()) - 0.2) < 0.03
    rest = levels[levels != 0.999]
    assert abs(float((rest < 0.25).float().mean()) - 0.25) < 0.03


@pytest.mark.parametrize("sampling", ["logit_normal", "uniform"])
@pytest.mark.parametrize("low, high", [(0.875, 1.0), (0.0, 0.9), (0.4, 0.6)])
def test_levels_between_limits_are_those_that_would_have_been_drawn_there_anyway(sampling, low, high):
    """Against the textbook way: draw without limits, and throw away what lies outside."""
    generator = torch.Generator().manual_seed(1)
    limited = NoiseLevels(sampling, shift=5.0, low=low, high=high)
    found = torch.tensor([limited.draw(generator) for _ in range(3000)], dtype=torch.float64)
    assert found.min() >= max(low, 0.001) and found.max() <= min(high, 0.999)
    base = torch.randn(200_000, generator=generator, dtype=torch.float64).sigmoid()
    if sampling == "uniform":
        base = torch.rand(200_000, generator=generator, dtype=torch.float64)
    kept = shift_sigma(base, 5.0)
    kept = kept[(kept > low) & (kept < high)]
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    assert (found.quantile(shares) - kept[:100_000].quantile(shares)).abs().max() < 0.05 * (high - low)


def test_the_top_share_of_limited_levels_lies_at_their_upper_limit():
    generator = torch.Generator().manual_seed(0)
    low_noise = NoiseLevels(top_share=1.0, high=0.875)
    assert low_noise.draw(generator) == 0.875 and NoiseLevels(top_share=1.0, low=0.875).draw(generator) == 0.999


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match="from 0.9995 to 1.0 are asked for"):
        NoiseLevels(low=0.9995)
    with pytest.raises(ConfigError, match="sigma_min is 0.9, sigma_max 0.5"):
        FULL.changed(sigma_min=0.9, sigma_max=0.5)


def test_limits_reach_the_levels_from_the_settings_and_stand_in_files_only_where_they_are_set():
    asked = FULL.changed(sigma_min=0.875)
    assert NoiseLevels.of(asked.objective, tiny_spec().sampling).low == 0.875
    assert asked.to_dict()["sigma_min"] == 0.875 and "sigma_max" not in asked.to_dict()
    assert type(asked).from_dict(asked.to_dict()) == asked and asked.comparable() != FULL.comparable()
