"""Noise and conditions in, latents out: against a loop by hand, with the file's own settings unless told otherwise."""

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.sampling.draw import draw, draw_by, make_noise
from pack.motion.sampling.solvers import euler, midpoint

B, C, T, H, W = 2, 3, 4, 2, 3
OWN = SamplingDefaults(shift=5.0, num_steps=3, guidance_scale=1.0, integer_timesteps=True)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Network:
    """Bends what it sees by the prompt, and keeps what it was told."""

    def __init__(self):
        self.timesteps, self.starts, self.texts = [], [], []

    def __call__(self, latents, timestep, told):
        self.timesteps.append(timestep[0].item())
        self.starts.append(latents)
        self.texts.append(told.context)
        return torch.tanh(latents + told.context.mean((1, 2)).view(-1, 1, 1, 1, 1)) * (timestep[0] / 500)


def by_hand(noise, first, text, *, shift=5.0, num_steps=3, negative=None, scale=1.0):
    """Euler steps over residual frames: x = z - z1 starts as noise, the network sees z1 + x, frame 1 stays z1."""
    levels = [0.999 * k / num_steps for k in range(num_steps, 0, -1)]
    levels = [shift * level / (1 + (shift - 1) * level) for level in levels] + [0.0]
    network, x = Network(), levels[0] * noise[:, :, 1:]
    for here, after in zip(levels, levels[1:]):
        timestep = torch.tensor([float(int(1000 * here + 1e-4))])
        seen = torch.cat((first, first + x), 2)
        v = network(seen, timestep, Conditions(text))[:, :, 1:]
        if negative is not None:
            opposite = network(seen, timestep, Conditions(negative))[:, :, 1:]
            v = opposite + scale * (v - opposite)
        x = x + (after - here) * v
    return torch.cat((first, first + x), 2)


def test_a_sample_is_the_loop_by_hand_with_the_files_own_settings():
    noise, first, text = numbers(B, C, T, H, W), numbers(B, C, 1, H, W, seed=1), numbers(1, 2, 4, seed=2)
    out = draw(Network(), noise, Conditions(text, first_latent=first), OWN, solver=euler)
    assert torch.allclose(out, by_hand(noise, first, text), atol=1e-6) and torch.equal(out[:, :, :1], first)


def test_steps_shift_and_guidance_that_are_told_replace_those_of_the_file():
    noise, first, text = numbers(1, C, T, H, W), numbers(1, C, 1, H, W, seed=1), numbers(1, 2, 4, seed=2)
    told, empty = Conditions(text, first_latent=first), numbers(1, 2, 4, seed=3)
    out = draw(Network(), noise, told, OWN, negative=told.with_text_of(Conditions(empty)), num_steps=5, shift=2.0,
               guidance_scale=3.0, solver=euler)  # fmt: skip
    expected = by_hand(noise, first, text, shift=2.0, num_steps=5, negative=empty, scale=3.0)
    assert torch.allclose(out, expected, atol=1e-6)
    unguided = draw(Network(), noise, told, OWN, negative=told.with_text_of(Conditions(empty)), solver=euler)
    assert torch.equal(unguided, draw(Network(), noise, told, OWN, solver=euler))


def test_one_start_serves_all_rows_and_of_its_frames_only_the_first_counts():
    noise, first = numbers(B, C, T, H, W), numbers(1, C, T, H, W, seed=1)
    told = Conditions(numbers(1, 2, 4, seed=2), first_latent=first)
    repeated = Conditions(told.context, first_latent=first[:, :, :1].expand(B, -1, -1, -1, -1))
    assert torch.equal(draw(Network(), noise, told, OWN), draw(Network(), noise, repeated, OWN))


def test_without_a_start_image_the_noise_is_the_start():
    network, noise = Network(), numbers(1, C, T, H, W)
    draw(network, noise, Conditions(numbers(1, 2, 4, seed=2)), OWN)
    assert torch.equal(network.starts[0], noise) and network.timesteps == [999.0, 908.0, 713.0]


def test_any_solver_walks_and_reports_its_steps():
    noise, steps = numbers(1, C, T, H, W), []
    network, told = Network(), Conditions(numbers(1, 2, 4, seed=2), first_latent=numbers(1, C, 1, H, W, seed=1))
    draw(network, noise, told, OWN, solver=midpoint, on_step=lambda *step: steps.append(step[:2]))
    assert steps == [(0, 3), (1, 3), (2, 3)] and len(network.timesteps) == 6


def test_a_denoiser_of_ones_own_is_walked_from_noise_mixed_with_what_stands_still():
    seen, noise, still = [], numbers(1, C, T, H, W), numbers(1, C, 1, H, W, seed=1)

    def denoise(latents, sigma):
        seen.append(latents)
        return latents * 0

    draw_by(denoise, noise, still, num_steps=1, shift=1.0)
    assert torch.allclose(seen[0], 0.999 * noise + 0.001 * still, atol=1e-15)


@pytest.mark.parametrize("seed", [0, 123456789, 2**64 - 1])
def test_noise_is_what_the_host_makes_for_this_seed(seed):
    shape = (1, 200, 3, 8, 8)
    assert torch.equal(make_noise(shape, seed), torch.randn(shape, generator=torch.manual_seed(seed)))


@pytest.mark.parametrize("levels, begins, ends", [((0.9, 1.0), None, 0.9), ((0.0, 0.6), 0.6, None)])
def test_a_network_that_knows_a_part_of_the_noise_is_asked_inside_it_alone(levels, begins, ends):
    asked, noise, clean = [], numbers(1, C, T, H, W), numbers(1, C, T, H, W, seed=1)

    def denoise(latents, sigma):
        asked.append(sigma[0].item())
        if len(asked) == 1:
            torch.testing.assert_close(latents, asked[0] * noise + (1 - asked[0]) * clean)
        return clean

    drawn = draw_by(denoise, noise, clean, num_steps=12, shift=5.0, levels=levels)
    whole = []
    draw_by(lambda latents, sigma: whole.append(sigma[0].item()) or clean, noise, num_steps=12, shift=5.0)
    inside = [level for level in whole if levels[0] < level < levels[1]]
    expected = [*([begins] if begins else []), *inside, *([ends] if ends else [])]
    assert asked == pytest.approx(expected, abs=1e-6) and 1 < len(asked) < len(whole)
    torch.testing.assert_close(drawn, clean)
