"""AdaIN to the first frame: by the formula in float64, channel by channel."""

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.sampling.first_frame_statistics import match_first_frame

LATENTS = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LATENTS = LATENTS * torch.linspace(0.5, 3, 4).view(4, 1, 1) + torch.linspace(-2, 2, 4).view(4, 1, 1)


def test_it_is_the_formula():
    kept, made = LATENTS.clone(), match_first_frame(LATENTS)
    assert torch.equal(LATENTS, kept) and torch.equal(made[:, :, 0], LATENTS[:, :, 0])
    for b in range(2):
        for c in range(3):
            first = LATENTS[b, c, 0]
            for f in range(1, 4):
                z = LATENTS[b, c, f]
                expected = (z - z.mean()) / (z.var() + 1e-8).sqrt() * (first.var() + 1e-8).sqrt() + first.mean()
                torch.testing.assert_close(made[b, c, f], expected)
                assert float(made[b, c, f].mean()) == pytest.approx(float(first.mean()))
                assert float(made[b, c, f].std()) == pytest.approx(float(first.std()), rel=1e-6)


def test_strength_goes_from_nothing_to_all():
    assert torch.equal(match_first_frame(LATENTS, 0.0), LATENTS)
    half = (LATENTS + match_first_frame(LATENTS)) / 2
    torch.testing.assert_close(match_first_frame(LATENTS, 0.5), half)


def test_bfloat16_comes_back_as_it_came_and_flat_frames_stay_finite():
    made = match_first_frame(LATENTS.bfloat16())
    assert made.dtype == torch.bfloat16 and torch.equal(made[:, :, 0], LATENTS.bfloat16()[:, :, 0])
    assert match_first_frame(torch.zeros(1, 1, 2, 3, 3)).isfinite().all()


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="strength is 2; it must be 0"):
        match_first_frame(LATENTS, 2)
    with pytest.raises(ShapeError, match="that of a video"):
        match_first_frame(LATENTS[:, :, 0])
