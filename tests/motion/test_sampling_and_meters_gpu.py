"""On a CUDA device everything stays there and gives what the CPU gives."""

import pytest
import torch
from pack.motion.conditioning.noise_init import dct_init, fft_init
from pack.motion.errors import ShapeError
from pack.motion.metrics.dynamics import degree_to_bucket, dynamics_degree, mean_absolute_difference
from pack.motion.models.conditions import Conditions
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.schedules import flow_sigmas
from pack.motion.sampling.solvers import euler, flow_dpm_2m, midpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("solver", [euler, flow_dpm_2m, midpoint])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_solvers_walk_on_the_device_of_the_latents(solver, dtype):
    latents, first, text = rand(2, 3, 4, 5, 6), rand(1, 3, 1, 5, 6, seed=1), rand(1, 2, 4, seed=2)

    def network(x, timestep, told):
        return torch.tanh(x + told.context.to(x).mean() * told.motion_bucket_id.to(x).view(-1, 1, 1, 1, 1) / 20)

    def run(device):
        told = Conditions(text.to(device), motion_bucket_id=torch.tensor([3]), first_latent=first.to(device))
        negative = told.with_text_of(Conditions(text * 0))
        denoise = MotionDenoiser(network, told, negative, guidance_scale=3.0, integer_timesteps=True)
        return solver(denoise, latents.to(device=device, dtype=dtype), flow_sigmas(6))

    out = run("cuda")
    assert out.device.type == "cuda" and out.dtype == torch.float32
    assert torch.allclose(out.cpu(), run("cpu"), atol=1e-4)


def test_nan_on_the_device_is_named_by_its_first_step_at_the_end():
    calls = []

    def denoise(x, sigma):
        calls.append(1)
        return x / 0 if len(calls) >= 3 else x * 0.5

    with pytest.raises(ShapeError, match="step 3 of 6"):
        flow_dpm_2m(denoise, torch.ones(1, 2, 3, device="cuda"), flow_sigmas(6))


@pytest.mark.parametrize("method", [dct_init, fft_init])
def test_refined_noise_equals_the_cpu(method):
    first, noise = rand(1, 3, 1, 8, 9), rand(2, 3, 5, 8, 9, seed=1)
    out = method(first, noise.cuda(), sigma_tau=0.9)
    assert out.device.type == "cuda"
    assert torch.allclose(out.cpu(), method(first, noise, sigma_tau=0.9), atol=1e-6)


@pytest.mark.parametrize("size", [64, 256])
def test_meters_equal_the_cpu(size):
    clip = rand(2, 3, 3, size, size)
    degree = dynamics_degree(clip.cuda(), measure_size=size)
    assert degree.device.type == "cuda" and degree_to_bucket(degree).device.type == "cuda"
    assert torch.allclose(degree.cpu(), dynamics_degree(clip, measure_size=size), atol=1e-5)
    assert torch.allclose(mean_absolute_difference(clip.cuda()).cpu(), mean_absolute_difference(clip), atol=1e-6)
