"""The scheduler node's two schedules in a host: levels, old calls, denoise, and the host's own `normal` beside them."""

import comfy.samplers
import pytest
import tiny
import torch
from pack.motion.sampling.schedules import flow_match_sigmas, flow_sigmas

SHIFT = 8.0


@pytest.fixture(scope="module")
def model(ours, core, models_folder):
    tiny.tiny_file(models_folder / "schedules.safetensors")
    loaded = ours["LoadModel"].execute("schedules.safetensors", "fp32").args[0]
    return core("ModelSamplingSD3", model=loaded, shift=SHIFT)[0]


@pytest.mark.parametrize("schedule, grid", [("flow_dpm", flow_sigmas), ("flow_match_euler", flow_match_sigmas)])
def test_each_schedule_is_its_grid_at_the_shift_of_the_model(ours, model, schedule, grid):
    (sigmas,) = ours["FlowScheduler"].execute(model, 7, 1.0, schedule).args
    assert sigmas.dtype == torch.float32 and torch.equal(sigmas, grid(7, shift=SHIFT).float())


def test_a_graph_saved_before_the_choice_existed_gets_the_flow_dpm_levels(ours, model):
    (sigmas,) = ours["FlowScheduler"].execute(model=model, num_steps=5, denoise=0.5).args
    assert torch.equal(sigmas, flow_sigmas(10, shift=SHIFT).float()[5:])
    names = [entry.id for entry in ours["FlowScheduler"].GET_SCHEMA().inputs]
    assert names == ["model", "num_steps", "denoise", "schedule"], "new widgets go last, or saved graphs shift"
    assert ours["FlowScheduler"].GET_SCHEMA().inputs[-1].optional


def test_denoise_keeps_the_tail_of_the_image_to_video_schedule(ours, model):
    (half,) = ours["FlowScheduler"].execute(model, 5, 0.5, "flow_match_euler").args
    assert torch.equal(half, flow_match_sigmas(10, shift=SHIFT).float()[5:])


def test_the_hosts_normal_scheduler_gives_the_image_to_video_levels_at_50_steps_and_simple_does_not(ours, model):
    (sigmas,) = ours["FlowScheduler"].execute(model, 50, 1.0, "flow_match_euler").args
    sampling = model.get_model_object("model_sampling")
    distance = {
        name: float((comfy.samplers.calculate_sigmas(sampling, name, 50) - sigmas).abs().max())
        for name in ("normal", "simple")
    }
    assert distance["normal"] <= 1e-6 and distance["simple"] > 0.02


def test_core_euler_walks_the_image_to_video_schedule(core, ours, model):
    (sigmas,) = ours["FlowScheduler"].execute(model, 3, 1.0, "flow_match_euler").args
    (noise,) = core("RandomNoise", noise_seed=9)
    (guider,) = core("BasicGuider", model=model, conditioning=tiny.prompt(1, first=tiny.first_latent()))
    out = core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=core("KSamplerSelect", sampler_name="euler")[0],
        sigmas=sigmas, latent_image=tiny.start(),
    )[0]["samples"]  # fmt: skip
    assert out.isfinite().all() and (out[:, :, :1] - tiny.first_latent()).abs().max() <= 1e-5 * 4 * 4


def test_an_unknown_schedule_is_refused_by_its_name(ours, model):
    with pytest.raises(ValueError, match="schedule is 'karras'; it must be one of: flow_dpm, flow_match_euler"):
        ours["FlowScheduler"].execute(model, 5, 1.0, "karras")
