"""SANA-Video as a MODEL of this host: equal to diffusers' pipelines, in every layout and number type."""

import json
import shutil

import comfy.model_management
import comfy.model_patcher
import pytest
import tiny
import torch
from comfy.latent_formats import Wan21
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.models.linear_video.attentions import CrossAttention
from safetensors.torch import load_file, save_file

SEED, STEPS, CFG = 5, 10, 6.0
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def truth(oracle):
    return load_file(oracle("sana_video") / "truth.safetensors")


@pytest.fixture(scope="module")
def layouts(oracle, models_folder):
    """Names of the three layouts in the host's folder."""
    source = oracle("sana_video")
    for name in ("whole", "shards"):
        shutil.copytree(source / name, models_folder / f"sv_{name}")
    shutil.copy(source / "nvlabs.safetensors", models_folder / "sv_nvlabs.safetensors")
    return "sv_whole", "sv_shards", "sv_nvlabs.safetensors"


@pytest.fixture(scope="module")
def model(ours, layouts):
    return ours["LoadModel"].execute(layouts[0], "fp32").args[0]


@pytest.fixture
def prompts(truth):
    """(positive, negative) as CONDITIONINGs, without a start image."""
    return [[[truth["text"][row : row + 1], {"attention_mask": truth["mask"][row : row + 1]}]] for row in (1, 0)]


@pytest.fixture
def started(prompts, truth):
    """The prompts with the start image's latent, as Photo to Video gives them."""
    told = {"first_latent": Wan21().process_out(truth["first"]), "first_latent_space": "wan21", "motion_bucket_id": 12}
    return [[[text, more | told]] for (((text, more),)) in prompts]


def ksampler(core, model, prompts, latent, **more):
    given = {"steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0} | more
    return core(
        "KSampler", model=model, seed=SEED, positive=prompts[0], negative=prompts[1], latent_image=latent, **given
    )[0]["samples"]


def empty(truth):
    return {"samples": torch.zeros_like(truth["noise"])}


def scaled(latents):
    return Wan21().process_in(latents)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_host_draws_the_noise_that_the_truth_was_made_with(truth):
    from comfy.sample import prepare_noise

    assert torch.equal(prepare_noise(torch.zeros_like(truth["noise"]), SEED), truth["noise"])


def test_image_to_video_through_ksampler_equals_the_diffusers_pipeline(core, model, started, truth):
    out = scaled(ksampler(core, model, started, empty(truth)))
    assert relative(out, truth["i2v"]) <= 1e-5
    assert relative(out[:, :, :1], truth["first"]) <= 1e-6
    assert relative(truth["i2v"][:, :, 1:], truth["noise"][:, :, 1:]) > 0.1, "the case must move the noise"


def test_text_to_video_by_flow_dpm_equals_the_diffusers_pipeline(core, ours, model, prompts, truth):
    """The host starts at sigma_0 · noise, the pipeline at the noise it is given: the truth was given the former."""
    (guider,) = core("CFGGuider", model=model, positive=prompts[0], negative=prompts[1], cfg=CFG)
    (noise,) = core("RandomNoise", noise_seed=SEED)
    (sigmas,) = ours["FlowScheduler"].execute(model, STEPS).args
    assert (sigmas - truth["flow_dpm"]).abs().max() <= 1e-6
    out = core(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=ours["FlowDPM2M"].execute().args[0],
        sigmas=sigmas, latent_image=empty(truth),
    )[0]["samples"]  # fmt: skip
    assert relative(scaled(out), truth["t2v"]) <= 1e-4


@pytest.mark.parametrize("which", [1, 2], ids=["shards", "nvlabs"])
def test_every_layout_holds_the_same_network(ours, model, layouts, which):
    (other,) = ours["LoadModel"].execute(layouts[which], "fp32").args
    state, expected = other.model.diffusion_model.state_dict(), model.model.diffusion_model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("which, naming", [(0, "diffusers names, 1 file"), (1, "diffusers names, 6 files"),
                                           (2, "NVlabs names, 1 file")])  # fmt: skip
def test_loader_says_what_it_is_and_what_belongs_to_it(ours, layouts, which, naming):
    text = ours["LoadModel"].execute(layouts[which], "fp32").ui.as_dict()["text"][0]
    assert f"SANA-Video ({naming}), row SANA-Video 480p" in text
    assert "VAE: Wan 2.1 VAE (row Wan 2.1 VAE), sides in multiples of 16 px, 4k+1 frames" in text
    assert "Gemma-2-2B (row Gemma-2), 10 wide" in text
    assert "50 steps, cfg 6, shift 8, 81 frames at 16 fps" in text
    assert "here: kept in float32, computed in float32, torch operators" in text


def test_network_hears_zero_for_the_start_image_and_fractions_for_the_rest(core, model, started, truth, heard):
    ksampler(core, model, started, empty(truth), steps=3)
    assert all(tuple(each.shape) == (2, 3) and not each[:, 0].any() for each in heard)
    assert torch.equal(heard[0][0], torch.tensor([0.0, 1000.0, 1000.0]))
    assert any(float(each[0, 1]) % 1 for each in heard)


def test_network_hears_whole_timesteps_without_a_start_image(core, model, prompts, truth, heard):
    ksampler(core, model, prompts, empty(truth), steps=3)
    assert all(tuple(each.shape) == (2,) and float(each[0]) % 1 == 0 for each in heard)


@pytest.fixture
def heard(monkeypatch):
    """Timesteps that reach the library's network."""
    from pack.motion.models.sana_video.network import SanaVideoDiT

    seen, plain = [], SanaVideoDiT.forward

    def listen(self, latents, timestep, *rest, **more):
        seen.append(timestep)
        return plain(self, latents, timestep, *rest, **more)

    monkeypatch.setattr(SanaVideoDiT, "forward", listen)
    return seen


def test_sampling_patch_that_counts_timesteps_to_1_changes_nothing_but_the_shift(core, model, started, truth):
    (sd3,) = core("ModelSamplingSD3", model=model, shift=8.0)
    (aura,) = core("ModelSamplingAuraFlow", model=model, shift=8.0)
    plain = ksampler(core, model, started, empty(truth), steps=3)
    assert torch.equal(ksampler(core, sd3, started, empty(truth), steps=3), plain)
    one = ksampler(core, aura, started, empty(truth), steps=3, scheduler="simple")
    assert relative(one, ksampler(core, model, started, empty(truth), steps=3, scheduler="simple")) <= 1e-4


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "lcm", "res_multistep"])
def test_start_image_stays_under_other_samplers(core, model, started, truth, sampler):
    out = ksampler(core, model, started, empty(truth), sampler_name=sampler, steps=4)
    assert relative(scaled(out)[:, :, :1], truth["first"]) <= 1e-5 and out.isfinite().all()


def test_partial_denoising_keeps_the_start_image_and_stays_near_the_given_video(core, model, started, truth):
    given = {"samples": Wan21().process_out(truth["i2v"])}
    out = ksampler(core, model, started, given, denoise=0.2, steps=3)
    assert relative(scaled(out)[:, :, :1], truth["first"]) <= 1e-5
    assert relative(out, given["samples"]) < 0.5 and not torch.equal(out, given["samples"])


def test_a_batch_of_two_videos_equals_each_alone(core, model, started, truth):
    twice = {"samples": torch.zeros_like(truth["noise"]).repeat(2, 1, 1, 1, 1), "batch_index": [0, 0]}
    out = ksampler(core, model, started, twice)
    assert all(relative(scaled(row[None]), truth["i2v"]) <= 2e-5 for row in out)


def test_each_prompt_is_projected_once_a_run(core, model, started, truth, monkeypatch):
    seen, plain = [], CrossAttention.project_text

    def counting(self, states):
        seen.append(tuple(states.shape[:2]))
        return plain(self, states)

    monkeypatch.setattr(CrossAttention, "project_text", counting)
    ksampler(core, model, started, empty(truth))
    assert sorted(seen) == [(1, 2)] * 2 + [(1, 5)] * 2


def test_patch_in_place_of_a_block_sees_its_tokens_and_may_change_nothing(core, model, started, truth):
    seen = []

    def around(given, more):
        seen.append((tuple(given["img"].shape), given["transformer_options"]["block_index"]))
        return more["original_block"](given)

    patched = model.clone()
    patched.set_model_patch_replace(around, "dit", "double_block", 1)
    out = ksampler(core, patched, started, empty(truth), steps=2)
    assert relative(out, ksampler(core, model, started, empty(truth), steps=2)) <= 1e-5
    assert set(seen) == {((2, 3 * 2 * 4, 28), 1)}


LIMITS = [("bf16", torch.bfloat16, 0.05), ("fp16", torch.float16, 0.01), ("fp8_e4m3fn", torch.float8_e4m3fn, 0.4)]


@pytest.mark.parametrize("choice, stored, limit", LIMITS)
def test_narrow_weights_sample_near_float32_and_keep_the_start_image(
    core, ours, layouts, started, truth, choice, stored, limit
):  # fmt: skip
    (other,) = ours["LoadModel"].execute(layouts[0], choice).args
    assert {tensor.dtype for tensor in other.model.diffusion_model.state_dict().values()} == {stored}
    out = scaled(ksampler(core, other, started, empty(truth)))
    assert relative(out, truth["i2v"]) <= limit and relative(out[:, :, :1], truth["first"]) <= 1e-6


def test_computing_in_bf16_as_a_card_does_stays_near_float32(core, ours, layouts, started, truth, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *given: None)
    (other,) = ours["LoadModel"].execute(layouts[0], "bf16").args
    out = scaled(ksampler(core, other, started, empty(truth)))
    assert relative(out, truth["i2v"]) <= 0.1 and relative(out[:, :, :1], truth["first"]) <= 1e-6


def test_low_memory_mode_gives_the_same_output(core, ours, layouts, started, truth):
    (model,) = ours["LoadModel"].execute(layouts[0], "fp32").args
    low = model.clone()
    low.patch_model(device_to=CPU, lowvram_model_memory=1)
    assert sum(getattr(layer, "comfy_cast_weights", False) for layer in low.model.modules()) > 20
    out = low.model.apply_model(*direct(truth))
    low.unpatch_model()
    model.patch_model(device_to=CPU)
    assert torch.equal(out, model.model.apply_model(*direct(truth)))


def direct(truth):
    return truth["noise"], torch.tensor([0.7]), None, truth["text"][:1]


def test_lora_changes_the_output_and_strength_0_is_bit_equal(core, model, started, truth, loras_folder):
    key = "diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file({f"{key}.lora_A.weight": tiny.randn(4, 28, seed=8), f"{key}.lora_B.weight": tiny.randn(28, 4, seed=9)},
              loras_folder / "sv.safetensors")  # fmt: skip
    plain = ksampler(core, model, started, empty(truth), steps=2)
    on, off = (core("LoraLoaderModelOnly", model=model, lora_name="sv.safetensors", strength_model=s)[0]
               for s in (1.0, 0.0))  # fmt: skip
    assert relative(ksampler(core, on, started, empty(truth), steps=2), plain) > 1e-3
    assert torch.equal(ksampler(core, off, started, empty(truth), steps=2), plain)
    assert torch.equal(ksampler(core, model, started, empty(truth), steps=2), plain)


def test_model_can_be_made_anew_from_what_it_remembers(core, model, started, truth):
    factory, arguments = model.cached_patcher_init
    with torch.inference_mode():
        fresh, plain = factory(*arguments), factory(*arguments, disable_dynamic=True)
    assert type(plain) is comfy.model_patcher.ModelPatcher and fresh.model is not model.model
    assert not any(parameter.is_inference() for parameter in fresh.model.diffusion_model.parameters())
    steps = {"steps": 2}
    assert torch.equal(ksampler(core, fresh, started, empty(truth), **steps),
                       ksampler(core, model, started, empty(truth), **steps))  # fmt: skip


def other(prompts, **change):
    return [[[text, more | change]] for (((text, more),)) in prompts]


def test_start_image_of_another_vae_is_refused_by_both_names(core, model, started, truth):
    with pytest.raises(ShapeError, match="with the DC-AE f32c32; this model needs the Wan 2.1 VAE .*row Wan 2.1"):
        ksampler(core, model, other(started, first_latent_space="dcae"), empty(truth))


def test_latent_of_another_vae_is_refused_with_the_row_of_the_right_one(core, model, prompts):
    with pytest.raises(ShapeError, match=r"works on \(b, 16, t, h, w\).*docs/models.md, row Wan 2.1 VAE"):
        ksampler(core, model, prompts, {"samples": torch.ones(1, 32, 2, 4, 4)})


def test_text_of_another_encoder_is_refused_with_the_row_of_the_right_one(core, model, truth):
    wrong = [[[torch.zeros(1, 5, 768), {}]]] * 2
    with pytest.raises(ShapeError, match=r"needs \(b, n, 10\).*docs/models.md, row Gemma-2"):
        ksampler(core, model, wrong, empty(truth))


def test_start_image_on_one_prompt_alone_is_refused_unless_the_other_is_not_used(core, model, started, prompts, truth):
    with pytest.raises(ConfigError, match="both of them, to the sampler"):
        ksampler(core, model, (started[0], prompts[1]), empty(truth))
    out = ksampler(core, model, (started[0], prompts[1]), empty(truth), cfg=1.0, steps=2)
    assert relative(scaled(out)[:, :, :1], truth["first"]) <= 1e-5


def test_video_that_cannot_fit_is_refused_with_numbers_before_the_first_call(core, model, prompts, heard, monkeypatch):
    from pack.nodes.host import devices

    monkeypatch.setattr(devices, "total_memory", lambda device: 2**22)
    with pytest.raises(ShapeError, match="81 frames, 832x480 px, need about .* GiB.*fewer frames"):
        ksampler(core, model, prompts, {"samples": torch.zeros(1, 16, 21, 60, 104)})
    assert not heard


def test_weights_that_cannot_fit_are_refused_before_they_are_read(ours, layouts, monkeypatch):
    from pack.nodes.host import devices

    monkeypatch.setattr(devices, "total_memory", lambda device: 2**10)
    with pytest.raises(ConfigError, match="its weights take .* GiB; this machine has"):
        ours["LoadModel"].execute(layouts[0], "fp32")


def test_start_image_of_another_size_is_refused(core, model, started, truth):
    with pytest.raises(ShapeError, match="channels, height and width must agree"):
        ksampler(core, model, started, {"samples": torch.zeros(1, 16, 3, 4, 4)})


def test_conditioning_without_text_is_refused(core, model, truth):
    with pytest.raises(ConfigError, match="no text embedding"):
        ksampler(core, model, [[[None, {}]]] * 2, empty(truth))


def broken(folder, source):
    """Folders that are not whole, by what their refusal must say."""
    def copy(name):
        shutil.copytree(source, folder / name)
        return folder / name / "transformer"

    shard = "diffusion_pytorch_model-00002-of-00006.safetensors"
    index = "diffusion_pytorch_model.safetensors.index.json"
    (copy("SANA-Video_2B_480p_a") / shard).unlink()
    yield "SANA-Video_2B_480p_a", "1 of 6 files that it names are missing.*SANA-Video 480p"
    (copy("SANA-Video_2B_480p_b") / index).unlink()
    yield "SANA-Video_2B_480p_b", "without their index.*SANA-Video 480p"
    path = copy("SANA-Video_2B_480p_c") / shard
    path.write_bytes(path.read_bytes()[:-50])
    yield "SANA-Video_2B_480p_c", "SANA-Video 480p"
    (copy("SANA-Video_2B_720p_d") / shard).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    yield "SANA-Video_2B_720p_d", "[Ll][Ff][Ss].*SANA-Video 720p"
    (copy("SANA-Video_2B_480p_e") / shard).write_bytes(b"<!DOCTYPE html><html>404</html>")
    yield "SANA-Video_2B_480p_e", "HTML.*SANA-Video 480p"
    part = copy("SANA-Video_2B_480p_f")
    for path in part.glob("*.safetensors*"):
        path.unlink()
    (part / "diffusion_pytorch_model.safetensors.incomplete").write_bytes(b"0")
    yield "SANA-Video_2B_480p_f", "a download that did not end"
    config = json.loads((source / "transformer" / "config.json").read_text())
    place = copy("SANA-Video_2B_480p_g") / "config.json"
    place.write_text(json.dumps(config | {"num_attention_heads": 4}))
    yield "SANA-Video_2B_480p_g", "4 heads of 14, the weights are 28 wide"
    place = copy("SANA-Video_2B_480p_h") / "config.json"
    place.write_text(json.dumps(config | {"guidance_embeds": True}))
    yield "SANA-Video_2B_480p_h", "SANA-Sprint"


def test_broken_folders_are_refused_with_the_row_and_the_loaded_model_stays(core, ours, model, models_folder, started,
                                                                           truth, oracle):  # fmt: skip
    before = ksampler(core, model, started, empty(truth), steps=2)
    for name, words in broken(models_folder, oracle("sana_video") / "shards"):
        with pytest.raises(CheckpointError, match=f"(?s){name}.*{words}"):
            ours["LoadModel"].execute(name)
    assert torch.equal(ksampler(core, model, started, empty(truth), steps=2), before)


def file_with(folder, name, source, change):
    """A single file of the tiny network, changed."""
    state = load_file(source / "whole" / "transformer" / "diffusion_pytorch_model.safetensors")
    config = json.loads((source / "whole" / "transformer" / "config.json").read_text())
    save_file(change(state), folder / name, {"config": json.dumps(config)})
    return name


def test_file_that_lacks_weights_is_refused_with_their_names_and_the_row(ours, models_folder, oracle):
    def lack(state):
        return {name: value for name, value in state.items() if "conv_temp" not in name or "blocks.0" in name}

    name = file_with(models_folder, "sana_video_480p_cut.safetensors", oracle("sana_video"), lack)
    with pytest.raises(CheckpointError, match="(?s)1 weights missing.*conv_temp.*docs/models.md"):
        ours["LoadModel"].execute(name)


def test_video_model_with_the_32_channel_dcae_is_refused_by_name(ours, models_folder, oracle):
    def widen(state):
        return state | {"patch_embedding.weight": torch.zeros(28, 32, 1, 2, 2), "proj_out.weight": torch.zeros(128, 28),
                        "proj_out.bias": torch.zeros(128)}  # fmt: skip

    name = file_with(models_folder, "sana_video_dcaev.safetensors", oracle("sana_video"), widen)
    with pytest.raises(CheckpointError, match="DC-AE-V.*not supported"):
        ours["LoadModel"].execute(name)


def test_nan_in_a_weight_is_refused_by_its_name(ours, models_folder, oracle):
    def poison(state):
        return state | {"caption_norm.weight": torch.full((28,), torch.nan)}

    name = file_with(models_folder, "sana_video_nan.safetensors", oracle("sana_video"), poison)
    with pytest.raises(CheckpointError, match="caption_norm.weight.*NaN"):
        ours["LoadModel"].execute(name)
