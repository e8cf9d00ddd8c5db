"""Motion residuals, guidance and the bound network against a hand-written sampler over N - 1 residual frames."""

import pytest
import torch
from pack.motion.errors import ConfigError, ShapeError
from pack.motion.models.conditions import Conditions
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.guidance import guide_velocity
from pack.motion.sampling.residual import network_velocity_to_clean, residual_state_to_network
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler, flow_dpm_2m

B, C, T, H, W = 2, 3, 5, 4, 6


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(latents, timestep, told):
    """A non-linear stand-in whose frames see each other, the time, the prompt, the bucket and the first latent."""
    time = (timestep / 1000).to(latents).view(-1, 1, 1, 1, 1)
    wish = told.context.mean(dim=(1, 2)).to(latents).view(-1, 1, 1, 1, 1)
    bucket, first = told.motion_bucket_id, told.first_latent
    strength = 1.0 if bucket is None else (bucket.to(latents) / 20).view(-1, 1, 1, 1, 1)
    across = latents.mean(dim=2, keepdim=True) + latents.roll(1, dims=2) * 0.3
    start = 0.0 if first is None else first.to(latents)
    return torch.tanh(across * (1 + time) + wish * strength) - 0.2 * start


def residual_sampler_reference(noise, first, text, bucket, sigmas, *, second_order, guidance=None):
    """MiraMo's own sampler: the state is r of N - 1 frames, the network sees (z1, z1 + r), frame 1 is dropped."""
    sigmas = sigmas.double()
    r, half = noise[:, :, 1:].clone(), torch.log((1 - sigmas) / sigmas)
    previous = None
    for k in range(len(sigmas) - 1):
        seen = torch.cat((first, first + r), dim=2)

        def velocity(prompt, seen=seen, k=k):
            timestep = torch.full((len(noise),), 1000 * float(sigmas[k].float()))
            return network(seen, timestep, Conditions(prompt, None, None, bucket, first))[:, :, 1:]

        v = velocity(text)
        if guidance is not None:
            uncond = velocity(guidance[1])
            v = uncond + guidance[0] * (v - uncond)
        estimate = r - sigmas[k] * v
        target = estimate
        if second_order and 0 < k < len(sigmas) - 2:
            h, before = half[k + 1] - half[k], half[k] - half[k - 1]
            target = estimate + h / (2 * before) * (estimate - previous)
        r = sigmas[k + 1] / sigmas[k] * r + (1 - sigmas[k + 1] / sigmas[k]) * target
        previous = estimate
    return torch.cat((first, first + r), dim=2)


@pytest.mark.parametrize(("solver", "second_order"), [(euler, False), (flow_dpm_2m, True)])
def test_walking_full_latents_equals_sampling_residuals(solver, second_order):
    noise, first, text = rand(B, C, T, H, W), rand(B, C, 1, H, W, seed=1), rand(B, 7, 8, seed=2)
    bucket, sigmas = torch.tensor([3, 15]), flow_sigmas(12)
    denoise = MotionDenoiser(network, Conditions(text, motion_bucket_id=bucket, first_latent=first))
    start = sigmas[0] * noise + (1 - sigmas[0]) * first
    out = solver(denoise, start, sigmas)
    truth = residual_sampler_reference(
        sigmas[0] * noise, first, text, bucket, sigmas, second_order=second_order
    )
    assert torch.allclose(out, truth, atol=1e-6)  # sigma reaches the network in float32
    assert torch.equal(out[:, :, :1], first)


@pytest.mark.parametrize("negative_tokens", [7, 4])
def test_guidance_over_residuals_equals_two_branches_by_hand(negative_tokens):
    noise, first, text = rand(B, C, T, H, W), rand(B, C, 1, H, W, seed=1), rand(B, 7, 8, seed=2)
    negative, bucket, sigmas = rand(1, negative_tokens, 8, seed=3), torch.tensor([3, 15]), flow_sigmas(6)
    told = Conditions(text, motion_bucket_id=bucket, first_latent=first)
    denoise = MotionDenoiser(network, told, told.with_text_of(Conditions(negative)), guidance_scale=5.5)
    out = flow_dpm_2m(denoise, sigmas[0] * noise + (1 - sigmas[0]) * first, sigmas)
    truth = residual_sampler_reference(
        sigmas[0] * noise, first, text, bucket, sigmas, second_order=True, guidance=(5.5, negative.expand(B, -1, -1))
    )
    assert torch.allclose(out, truth, atol=1e-5)


@pytest.mark.parametrize("solver", [euler, flow_dpm_2m])
@pytest.mark.parametrize("num_steps", [1, 4, 25])
def test_oracle_velocity_recovers_the_residual_exactly(solver, num_steps):
    first, residual, noise = rand(1, C, 1, H, W), rand(1, C, T - 1, H, W, seed=1), rand(1, C, T, H, W, seed=2)

    def oracle(latents, timestep, told):
        return torch.cat((torch.full_like(first, 1e3), noise[:, :, 1:] - residual), dim=2)  # frame 1 must not count

    sigmas = flow_sigmas(num_steps)
    target = torch.cat((first, first + residual), dim=2)
    denoise = MotionDenoiser(oracle, Conditions(rand(1, 2, 4), first_latent=first))
    out = solver(denoise, (1 - sigmas[0]) * target + sigmas[0] * noise, sigmas)
    assert torch.allclose(out, target, atol=1e-6)
    assert torch.equal(out[:, :, :1], first)


def test_change_of_variable_shows_the_network_first_latent_plus_residual():
    first, residual, noise = rand(B, C, 1, H, W), rand(B, C, T - 1, H, W, seed=1), rand(B, C, T, H, W, seed=2)
    sigma = torch.tensor([0.9, 0.2], dtype=torch.float64)
    s = sigma.view(-1, 1, 1, 1, 1)
    state = (1 - s) * torch.cat((first, first + residual), dim=2) + s * noise
    seen = residual_state_to_network(state, sigma, first)
    noised = (1 - s) * residual + s * noise[:, :, 1:]
    assert torch.allclose(seen[:, :, 1:], first + noised, atol=1e-14)
    assert torch.equal(seen[:, :, :1], first)
    clean = network_velocity_to_clean(state, seen, noise - torch.cat((first, residual), dim=2), sigma, first)
    assert torch.allclose(clean[:, :, 1:], first + residual, atol=1e-14)
    assert torch.equal(clean[:, :, :1], first)


def test_first_latent_may_be_one_row_or_repeated_over_frames():
    state, first, sigma = rand(B, C, T, H, W), rand(1, C, 1, H, W, seed=1), torch.tensor([0.5, 0.5]).double()
    truth = residual_state_to_network(state, sigma, first.expand(B, -1, -1, -1, -1))
    assert torch.equal(residual_state_to_network(state, sigma, first), truth)
    assert torch.equal(residual_state_to_network(state, sigma, first.expand(-1, -1, T, -1, -1)), truth)
    assert torch.equal(residual_state_to_network(state, sigma[:1], first), truth)


def test_one_frame_comes_back_as_the_start_image():
    first = rand(1, C, 1, H, W)
    denoise = MotionDenoiser(network, Conditions(rand(1, 2, 4), first_latent=first))
    assert torch.equal(euler(denoise, rand(1, C, 1, H, W, seed=3), flow_sigmas(3)), first)


def test_without_first_latent_the_network_predicts_whole_frames():
    noise, clean = rand(1, C, T, H, W), rand(1, C, T, H, W, seed=1)
    sigmas = flow_sigmas(5)
    denoise = MotionDenoiser(lambda latents, *rest: noise - clean, Conditions(rand(1, 2, 4)))
    start = (1 - sigmas[0]) * clean + sigmas[0] * noise
    assert torch.allclose(flow_dpm_2m(denoise, start, sigmas), clean, atol=1e-6)


def test_network_hears_its_own_dtype_integer_timesteps_and_every_condition():
    heard = {}

    class Network:
        dtype = torch.bfloat16

        def __call__(self, latents, timestep, told):
            heard.update(vars(told), latents=latents, timestep=timestep)
            return latents

    told = Conditions(rand(1, 2, 4), torch.ones(1, 2), rand(1, 4), torch.tensor([12]), rand(1, C, T, H, W))
    told = told.at_places(torch.arange(T).expand(2, -1) / 2)
    denoise = MotionDenoiser(Network(), told, told, guidance_scale=2.0, integer_timesteps=True)
    latents = rand(B, C, T, H, W, dtype=torch.float32)
    before = latents.clone()
    clean = denoise(latents, torch.tensor([0.98596, 0.7]))
    assert clean.dtype == torch.float32 and torch.equal(latents, before)
    assert heard["latents"].dtype == torch.bfloat16 and heard["latents"].shape == (2 * B, C, T, H, W)
    assert heard["timestep"].tolist() == [985.0, 700.0] * 2
    assert heard["motion_bucket_id"].tolist() == [12] * 4
    assert heard["first_latent"].shape == (2 * B, C, 1, H, W)
    assert heard["attention_mask"].shape == (2 * B, 2) and heard["pooled"].shape == (2 * B, 4)
    assert torch.equal(heard["first_latent"][:B], heard["first_latent"][B:])
    assert {heard[name].dtype for name in ("context", "pooled", "first_latent")} == {torch.bfloat16}
    assert torch.equal(heard["frame_indices"], torch.arange(T) / 2)
    assert torch.equal(heard["curve"].weights, told.curve.weights)


def test_guidance_scale_one_is_the_conditional_velocity_bit_for_bit():
    cond, uncond = rand(1, 2, 3, 4, 4), rand(1, 2, 3, 4, 4, seed=1)
    assert guide_velocity(cond, uncond, 1.0) is cond
    assert torch.equal(guide_velocity(cond, uncond, 0.0), uncond)
    assert torch.allclose(guide_velocity(cond, uncond, 5.5), 5.5 * cond - 4.5 * uncond)


@pytest.mark.parametrize("scale", [-1.0, 1e9, float("nan"), float("inf")])
def test_guidance_scale_out_of_range_is_refused(scale):
    with pytest.raises(ConfigError, match="guidance_scale is .* 1 switches guidance off"):
        guide_velocity(rand(1, 2), rand(1, 2), scale)
    with pytest.raises(ConfigError, match="guidance_scale is"):
        MotionDenoiser(network, Conditions(rand(1, 2, 4)), guidance_scale=scale)


@pytest.mark.parametrize(
    ("state", "sigma", "first", "text"),
    [
        ((C, T, H, W), (1,), (1, C, 1, H, W), "(b, c, t, h, w)"),
        ((1, C, 0, H, W), (1,), (1, C, 1, H, W), "(b, c, t, h, w)"),
        ((2, C, T, H, W), (3,), (1, C, 1, H, W), "sigma is (3,)"),
        ((2, C, T, H, W), (2,), (3, C, 1, H, W), "start image latent"),
        ((2, C, T, H, W), (2,), (2, C + 1, 1, H, W), "VAE of this model"),
        ((2, C, T, H, W), (2,), (2, C, 2, H, W), "start image latent"),
        ((2, C, T, H, W), (2,), (2, C, 1, H, W + 1), "size of the video"),
        ((2, C, T, H, W), (2,), (2, C, H, W), "start image latent"),
    ],
)
def test_residual_inputs_that_do_not_fit_are_refused(state, sigma, first, text):
    with pytest.raises(ShapeError) as caught:
        residual_state_to_network(torch.ones(state), torch.full(sigma, 0.5), torch.ones(first))
    assert text in str(caught.value)


def test_conditions_that_do_not_fit_are_refused():
    text, first = rand(1, 2, 4), rand(1, C, 1, H, W)
    sigma, latents = torch.tensor([0.5, 0.5]), rand(2, C, T, H, W)
    with pytest.raises(ConfigError, match="no negative prompt"):
        MotionDenoiser(network, Conditions(text), guidance_scale=2.0)
    with pytest.raises(ConfigError, match="one prompt has the start image"):
        MotionDenoiser(network, Conditions(text, first_latent=first), Conditions(text), guidance_scale=2.0)
    with pytest.raises(ShapeError, match="n >= 1"):
        MotionDenoiser(network, Conditions(rand(1, 0, 4)))
    with pytest.raises(ShapeError, match="attention_mask"):
        MotionDenoiser(network, Conditions(text, torch.ones(1, 3)))
    with pytest.raises(ShapeError, match="negative prompt: pooled"):
        MotionDenoiser(network, Conditions(text), Conditions(text, None, rand(2, 4)), guidance_scale=2.0)
    with pytest.raises(ShapeError, match="prompt has 3 rows, the latents 2"):
        MotionDenoiser(network, Conditions(rand(3, 2, 4), first_latent=first))(latents, sigma)
    with pytest.raises(ShapeError, match="motion_bucket_id has 3 rows"):
        MotionDenoiser(network, Conditions(text, motion_bucket_id=torch.tensor([1, 2, 3])))(latents, sigma)
    for start in (first, None):
        with pytest.raises(ShapeError, match="the network answered"):
            MotionDenoiser(lambda x, *rest: x[:, :, :2], Conditions(text, first_latent=start))(latents, sigma)
    with pytest.raises(ShapeError, match="velocity is"):
        network_velocity_to_clean(latents, latents, latents[:, :, :2], sigma, first)
