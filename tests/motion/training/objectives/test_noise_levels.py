"""How noise levels are drawn."""

import torch
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
