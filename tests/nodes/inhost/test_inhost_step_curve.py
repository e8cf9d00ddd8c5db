"""A step curve counts as the host's percent does."""

import comfy.model_sampling
import pytest
from pack.motion.adapters.stack import AdapterStack, StackEntry


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_a_step_curve_has_at_each_noise_level_the_value_of_the_hosts_percent(shift):
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=shift)
    stack = AdapterStack((StackEntry(None, 1.0, "0:0, 1:1"),), shift=shift)
    for percent in (0.0, 0.01, 0.3, 0.5, 0.875, 0.99, 1.0):
        (weight,) = stack.weights(sampling.percent_to_sigma(percent), 5, (2, 2))
        assert weight == pytest.approx(percent, abs=1e-9)
