"""How much of sampling is done at a noise level: the inverse of the shifted schedule."""

import pytest
from pack.motion.errors import ConfigError
from pack.motion.sampling.schedules import shift_sigma, sigma_to_percent


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 8.0])
def test_percent_is_the_inverse_of_the_shifted_schedule_and_ends_are_ends(shift):
    for percent in (0.0, 0.125, 0.5, 0.93, 1.0):
        assert sigma_to_percent(shift_sigma(1 - percent, shift), shift) == pytest.approx(percent, abs=1e-12)
    assert sigma_to_percent(1.2, shift) == 0.0 and sigma_to_percent(-0.1, shift) == 1.0


def test_a_shift_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="shift is 0"):
        sigma_to_percent(0.5, 0)
