"""Algorithm 1: its closed form, as the paper's steps written out give it."""

import pytest
import torch
from pack.motion.conditioning.shared_noise import adapter_noise, share_first_noise
from pack.motion.errors import ConfigError, ShapeError
from scipy.fft import dctn, idctn

GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.randn(2, 3, 4, 9, 13, generator=GENERATOR, dtype=torch.float64)
FIRST = torch.randn(1, 3, 1, 9, 13, generator=GENERATOR, dtype=torch.float64)


def by_steps(first, noise, share, keep, sigma):
    """The algorithm step by step, with scipy's 3-D transform."""
    mixed = noise.clone()
    for f in range(1, noise.shape[2]):
        mixed[:, :, f] = share * noise[:, :, 0] + (1 - share) * noise[:, :, f]
    noised = (1 - sigma) * first.expand_as(noise) + sigma * mixed
    low, high = (torch.from_numpy(dctn(part.numpy(), axes=(2, 3, 4), norm="ortho")) for part in (noised, mixed))
    rows, columns = int(keep * noise.shape[3]), int(keep * noise.shape[4])
    high[..., :rows, :columns] = low[..., :rows, :columns]
    return torch.from_numpy(idctn(high.numpy(), axes=(2, 3, 4), norm="ortho"))


@pytest.mark.parametrize(("share", "keep", "sigma"), [(0.05, 0.23, 0.975), (0.2, 0.5, 0.9), (0.0, 0.3, 0.5), (1, 1, 0)])
def test_it_is_the_papers_algorithm_step_by_step(share, keep, sigma):
    made = adapter_noise(FIRST, NOISE, share=share, keep=keep, sigma_tau=sigma)
    torch.testing.assert_close(made, by_steps(FIRST, NOISE, share, keep, sigma), atol=1e-12, rtol=0)


def test_frames_share_the_firsts_noise_and_the_rest_stays_their_own():
    noise = torch.randn(1, 1, 2, 300, 300, generator=torch.Generator().manual_seed(1))
    kept = noise.clone()
    made = share_first_noise(noise, 0.05)
    assert torch.equal(noise, kept) and torch.equal(made[:, :, 0], noise[:, :, 0])
    assert float(made[:, :, 1].var()) == pytest.approx(0.05**2 + 0.95**2, abs=0.01)
    assert float((made[:, :, 1] * noise[:, :, 0]).mean()) == pytest.approx(0.05, abs=0.01)
    assert share_first_noise(noise, 0.0) is noise


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="share is 1.5; it must be 0"):
        share_first_noise(NOISE, 1.5)
    with pytest.raises(ShapeError, match="that of a video"):
        share_first_noise(NOISE[:, :, 0], 0.1)
