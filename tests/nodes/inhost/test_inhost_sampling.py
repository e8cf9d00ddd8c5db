"""Our MODEL under the host's own samplers: pinned first frame, parity with the library, seams, cancel."""

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import comfy.utils
import pytest
import tiny
import torch
from pack.motion.io.networks.linear_video import build_linear_video, read_linear_video
from pack.motion.models.conditions import Conditions
from pack.motion.sampling.denoiser import MotionDenoiser
from pack.motion.sampling.solvers import euler, flow_dpm_2m

SCALE = 0.18215
PINNING = ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "res_multistep", "lcm", "heun", "ddim")


@pytest.fixture(scope="module")
def model(ours, models_folder):
    tiny.tiny_file(models_folder / "sampling.safetensors")
    return ours["LoadModel"].execute("sampling.safetensors", "fp32").args[0]


def ksampler(core, model, *, seed=5, steps=4, cfg=3.0, sampler="euler", denoise=1.0, latent=None, **conditions):
    first = tiny.first_latent()
    positive = conditions.get("positive") or tiny.prompt(1, first=first)
    negative = conditions.get("negative") or tiny.prompt(2, first=first)
    return core(
        "KSampler", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name=sampler, scheduler="simple",
        positive=positive, negative=negative, latent_image=latent or tiny.start(first=first), denoise=denoise,
    )[0]["samples"]  # fmt: skip


@pytest.mark.parametrize("sampler", PINNING)
def test_frame_1_stays_the_start_image(core, model, sampler):
    first = tiny.first_latent()
    out = ksampler(core, model, sampler=sampler)
    error = (out[:, :, :1] - first).abs().max() / first.abs().max()
    assert error <= 1e-5
    assert out.isfinite().all() and (out[:, :, 1:] - first).abs().max() > 0.1


def test_frame_1_under_uni_pc_is_near_the_start_image_only(core, model):
    """uni_pc ends above sigma 0, so a trace of noise stays: 9e-3 was found when this was designed."""
    first = tiny.first_latent()
    out = ksampler(core, model, sampler="uni_pc", steps=8)
    assert (out[:, :, :1] - first).abs().max() * SCALE <= 5e-2


def test_ksampler_euler_equals_the_library(core, model, models_folder):
    out = ksampler(core, model)
    with torch.inference_mode(False):
        dit = build_linear_video(read_linear_video(models_folder / "sampling.safetensors"))
    (text, more), (text_n, more_n) = tiny.prompt(1)[0], tiny.prompt(2)[0]
    told = Conditions(text, more["attention_mask"], None, torch.tensor([12]), tiny.first_latent() * SCALE)
    negative = told.with_text_of(Conditions(text_n, more_n["attention_mask"]))
    denoise = MotionDenoiser(dit, told, negative, guidance_scale=3.0, integer_timesteps=True)
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    ours = euler(denoise, noise * sigmas[0], sigmas) / SCALE
    assert (out - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_our_sampler_sigmas_and_noise_equal_the_library(core, ours, model, models_folder):
    first = tiny.first_latent()
    (noise,) = core("RandomNoise", noise_seed=9)
    (guider,) = core("BasicGuider", model=model, conditioning=tiny.prompt(1, first=first))
    (sigmas,) = ours["FlowScheduler"].execute(model, 6).args
    (sampler,) = ours["FlowDPM2M"].execute().args
    latent = {"samples": torch.zeros(1, tiny.CHANNELS, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}
    out = core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )[0]["samples"]
    with torch.inference_mode(False):
        dit = build_linear_video(read_linear_video(models_folder / "sampling.safetensors"))
    text, more = tiny.prompt(1)[0]
    told = Conditions(text, more["attention_mask"], None, torch.tensor([12]), first * SCALE)
    denoise = MotionDenoiser(dit, told, integer_timesteps=True)
    start = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)) * sigmas[0]
    expected = flow_dpm_2m(denoise, start, sigmas) / SCALE
    assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (out[:, :, :1] - first).abs().max() <= 1e-5 * first.abs().max()


def test_scheduler_follows_the_shift_of_model_sampling_sd3(core, ours, model):
    (patched,) = core("ModelSamplingSD3", model=model, shift=9.0)
    plain, moved = (ours["FlowScheduler"].execute(kind, 5).args[0] for kind in (model, patched))
    base = 0.999 * torch.arange(5, 0, -1, dtype=torch.float64) / 5
    for shift, found in ((3.0, plain), (9.0, moved)):
        expected = torch.cat((shift * base / (1 + (shift - 1) * base), torch.zeros(1)))
        assert (found.double() - expected).abs().max() < 1e-6
    assert (ksampler(core, patched) - ksampler(core, model)).abs().max() > 1e-3


def test_denoise_below_1_keeps_the_tail_of_a_longer_schedule(ours, model):
    (half,) = ours["FlowScheduler"].execute(model, 5, 0.5).args
    (whole,) = ours["FlowScheduler"].execute(model, 10).args
    assert torch.equal(half, whole[5:])


def test_half_denoise_stays_nearer_to_the_start_latent(core, model):
    latent = tiny.start()
    far, near = (ksampler(core, model, denoise=amount, latent=latent) for amount in (1.0, 0.2))
    assert (near - latent["samples"]).abs().mean() < 0.7 * (far - latent["samples"]).abs().mean()


def test_batch_rows_do_not_mix(core, model):
    first = tiny.first_latent()
    two = ksampler(core, model, latent=tiny.start(2, first))
    (noise,) = core("RandomNoise", noise_seed=5)
    both = noise.generate_noise(tiny.start(2, first))
    again = ksampler(core, model, latent={**tiny.start(1, first), "batch_index": [1]})
    assert two.shape[0] == 2 and not torch.equal(both[0], both[1])
    assert (two[1:] - again).abs().max() <= 1e-4 * two.abs().max()


def calls_of(core, model, **conditions):
    """Batch size of every model call of a run."""
    seen, patched = [], model.clone()

    def count(apply, given):
        seen.append(given["input"].shape[0])
        return apply(given["input"], given["timestep"], **given["c"])

    patched.set_model_unet_function_wrapper(count)
    ksampler(core, patched, **conditions)
    return seen


def test_positive_and_negative_run_as_one_batch_even_with_different_dynamics(core, model):
    first = tiny.first_latent()
    prompts = {"positive": tiny.prompt(1, first=first, bucket=0), "negative": tiny.prompt(2, first=first, bucket=19)}
    assert calls_of(core, model, **prompts) == [2, 2, 2, 2]


def test_a_prompt_without_dynamics_is_sampled_with_the_default_bucket(core, model):
    first = tiny.first_latent()
    default, named, other = (
        ksampler(core, model, positive=tiny.prompt(1, first=first, bucket=bucket), cfg=1.0) for bucket in (None, 15, 3)
    )
    assert torch.equal(default, named) and not torch.equal(default, other)


def test_block_patch_that_changes_nothing_is_bit_equal_and_one_that_skips_is_not(core, model):
    seen = []

    def same(given, more):
        seen.append((tuple(given["img"].shape), given["transformer_options"]["block_index"]))
        return more["original_block"](given)

    identity, skipping = model.clone(), model.clone()
    identity.set_model_patch_replace(same, "dit", "double_block", 1)
    skipping.set_model_patch_replace(lambda given, more: {"img": given["img"]}, "dit", "double_block", 1)
    plain = ksampler(core, model)
    assert torch.equal(ksampler(core, identity), plain)
    assert seen[0] == ((2, tiny.FRAMES * 9, 32), 1)
    assert not torch.equal(ksampler(core, skipping), plain)
    assert torch.equal(ksampler(core, model), plain)


def test_diffusion_model_wrapper_sees_the_network_and_can_change_its_answer(core, model):
    patched, seen = model.clone(), []

    def halve(executor, x, timestep, *rest, **more):
        seen.append((type(executor.class_obj).__name__, float(timestep[0])))
        return executor(x, timestep, *rest, **more) * 0.5

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patched.add_wrapper_with_key(kind, "halve", halve)
    out = ksampler(core, patched)
    assert seen[0][0] == "HostLinearVideo" and seen[0][1] == 1000.0
    assert not torch.equal(out, ksampler(core, model))


@pytest.mark.parametrize("integer", [True, False])
def test_network_hears_whole_timesteps_only_where_the_file_says_so(core, ours, models_folder, monkeypatch, integer):
    name = f"integer_{integer}.safetensors"
    tiny.tiny_file(models_folder / name, integer_timesteps=integer)
    (model,) = ours["LoadModel"].execute(name, "fp32").args
    heard = []
    network = model.model.diffusion_model
    parent = next(kind for kind in type(network).__mro__ if kind.__name__ == "LinearVideoDiT")
    original = parent.forward

    def listen(self, latents, timestep, *rest, **more):
        heard.append(float(timestep[0]))
        return original(self, latents, timestep, *rest, **more)

    monkeypatch.setattr(parent, "forward", listen)
    ksampler(core, model, steps=5)
    assert all(value == int(value) for value in heard) == integer
    assert heard[0] == 1000.0


def cancel_at(core, model, step):
    """Run until the user presses Cancel while a step is computed, as the host's progress hook sees it."""
    patched, calls = model.clone(), []

    def watch(apply, given):
        calls.append(1)
        if len(calls) == step:
            comfy.model_management.interrupt_current_processing()
        return apply(given["input"], given["timestep"], **given["c"])

    patched.set_model_unet_function_wrapper(watch)

    def hook(*_unused, **_named):
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            ksampler(core, patched)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)
    return len(calls)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_cancel_stops_within_a_step_and_the_next_run_equals_a_fresh_one(core, ours, model, step):
    before = ksampler(core, model)
    assert cancel_at(core, model, step) == step
    assert torch.equal(ksampler(core, model), before)
    (fresh,) = ours["LoadModel"].execute("sampling.safetensors", "fp32").args
    assert torch.equal(ksampler(core, fresh), before)


def test_out_of_memory_in_the_network_passes_and_a_second_run_succeeds(core, model):
    before, patched = ksampler(core, model), model.clone()

    def fail(apply, given):
        raise torch.OutOfMemoryError("simulated")

    patched.set_model_unet_function_wrapper(fail)
    with pytest.raises(torch.OutOfMemoryError):
        ksampler(core, patched)
    assert torch.equal(ksampler(core, model), before)


def test_inputs_of_a_run_are_not_written_into(core, model):
    first, latent = tiny.first_latent(), tiny.start()
    positive, negative = tiny.prompt(1, first=first), tiny.prompt(2, first=first)
    kept = [tensor.clone() for tensor in (first, latent["samples"], positive[0][0], negative[0][0])]
    weights = {name: tensor.clone() for name, tensor in model.model.diffusion_model.state_dict().items()}
    ksampler(core, model, positive=positive, negative=negative, latent=latent)
    after = (first, latent["samples"], positive[0][0], negative[0][0])
    assert all(torch.equal(a, b) for a, b in zip(kept, after, strict=True))
    assert sorted(positive[0][1]) == ["attention_mask", "first_latent", "motion_bucket_id", "pooled_output"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.model.diffusion_model.state_dict().items())


def test_two_settings_of_one_model_do_not_reach_each_other(core, model):
    (moved,) = core("ModelSamplingSD3", model=model, shift=9.0)
    plain, other = ksampler(core, model), ksampler(core, moved)
    assert torch.equal(ksampler(core, model), plain) and torch.equal(ksampler(core, moved), other)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bucket": 20}, "dynamics is 20; this model knows 0"),
        ({"first": torch.zeros(1, 4, 1, 8, 8)}, "take positive, negative and latent from one Photo to Video node"),
    ],
)
def test_conditions_that_do_not_fit_are_refused_before_the_first_step(core, model, change, words):
    given = {"first": tiny.first_latent(), **change}
    with pytest.raises(ValueError, match=words):
        ksampler(core, model, positive=tiny.prompt(1, **given))


def test_latent_of_another_space_is_refused_by_name(core, model):
    wrong = {"samples": tiny.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}
    with pytest.raises(ValueError, match=r"works on \(b, 4, t, h, w\), the latents of the Stable Video Diffusion V"):
        ksampler(core, model, latent=wrong)


def test_joined_conditionings_are_refused(core, model):
    first = tiny.first_latent()
    one, two = tiny.prompt(1, first=first), tiny.prompt(2, first=first)
    (joined,) = core("ConditioningConcat", conditioning_to=one, conditioning_from=two)
    with pytest.raises(ValueError, match="write both motions into one prompt"):
        ksampler(core, model, positive=joined)


def test_text_to_video_file_runs_without_and_refuses_a_start_image(core, ours, models_folder):
    tiny.tiny_file(models_folder / "t2v.safetensors", objective="t2v")
    (model,) = ours["LoadModel"].execute("t2v.safetensors", "fp32").args
    (latent,) = ours["EmptyLatent"].execute(model, 48, 48, 4, 2).args
    assert latent["samples"].shape == (2, 4, 4, 6, 6)
    out = ksampler(core, model, positive=tiny.prompt(1), negative=tiny.prompt(2), latent=latent)
    assert out.shape == (2, 4, 4, 6, 6) and out.isfinite().all()
    with pytest.raises(ValueError, match="makes videos from text alone and got a start image"):
        ksampler(core, model)


def test_sigmas_that_rise_or_do_not_end_at_zero_are_refused(core, ours, model):
    first = tiny.first_latent()
    (noise,) = core("RandomNoise", noise_seed=9)
    (guider,) = core("BasicGuider", model=model, conditioning=tiny.prompt(1, first=first))
    (sampler,) = ours["FlowDPM2M"].execute().args
    for sigmas, words in (([1.0, 0.5, 0.7, 0.0], "they must fall at every step"), ([1.0, 0.5], "must end at 0")):
        with pytest.raises(ValueError, match=words):
            core(
                "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=torch.tensor(sigmas),
                latent_image=tiny.start(),
            )  # fmt: skip


@pytest.mark.parametrize(
    "steps, denoise, words", [(0, 1.0, "num_steps is 0"), (4, 0.0, "denoise is 0"), (10**6, 1.0, "10000")]
)
def test_impossible_step_counts_are_refused(ours, model, steps, denoise, words):
    with pytest.raises(ValueError, match=words):
        ours["FlowScheduler"].execute(model, steps, denoise)


@pytest.mark.parametrize("form", ["attention_basic", "attention_sub_quad", "attention_split", "attention_pytorch"])
@pytest.mark.parametrize("masked", [True, False])
def test_every_attention_of_the_host_equals_the_library(ours, model, monkeypatch, form, masked):
    from comfy.ldm.modules import attention
    from pack.motion.models.linear_video.network import torch_attention

    chosen, calls = getattr(attention, form), []

    def counted(*given, **named):
        calls.append(form)
        return chosen(*given, **named)

    for switch in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, switch, counted)
    host_attention = model.model.diffusion_model.transformer_blocks[0].attn2.attention
    query, key, value = tiny.randn(2, 9, 32, seed=1), tiny.randn(2, 5, 32, seed=2), tiny.randn(2, 5, 32, seed=3)
    mask = torch.tensor([[0, 0, 0, -10000.0, -10000.0], [0, 0, 0, 0, 0]])[:, None, None] if masked else None
    out = host_attention(query, key, value, 2, mask)
    assert (out - torch_attention(query, key, value, 2, mask)).abs().max() <= 1e-5
    assert calls
