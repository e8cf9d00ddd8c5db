"""What the host is told of a model's memory, and refusals with numbers before anything is loaded or computed."""

import comfy.model_management as host_memory
import comfy.sampler_helpers
import pytest
import tiny
import tiny_sana
import torch
from pack.motion.models.linear_video.architecture import LINEAR_VIDEO
from pack.nodes.host import devices
from pack.nodes.models import limits

GIB = 2**30
step_bytes = LINEAR_VIDEO.memory.step_bytes


@pytest.fixture(scope="module")
def model(ours, models_folder):
    tiny.tiny_file(models_folder / "memory.safetensors")
    return ours["LoadModel"].execute("memory.safetensors", "fp32").args[0]


def sample(core, model, latent=None, **more):
    first = tiny.first_latent()
    positive, negative = (tiny.prompt(seed, first=first) for seed in (1, 2))
    return core(
        "KSampler", model=model, seed=5, steps=2, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        positive=positive, negative=negative, latent_image=tiny.start() if latent is None else latent, **more,
    )[0]["samples"]  # fmt: skip


def machine_of(monkeypatch, num_bytes):
    monkeypatch.setattr(devices, "total_memory", lambda device: num_bytes)


def calls_of(monkeypatch, model):
    """Counts calls of the network and loads of the model from now on."""
    seen = {"network": 0, "loads": 0}

    def count(name, original):
        def call(*arguments, **keywords):
            seen[name] += 1
            return original(*arguments, **keywords)

        return call

    network = model.model.diffusion_model
    monkeypatch.setattr(type(network), "forward", count("network", type(network).forward))
    monkeypatch.setattr(host_memory, "load_models_gpu", count("loads", host_memory.load_models_gpu))
    return seen


def test_the_host_reserves_the_estimate_of_one_call_with_a_margin(model):
    shape = [2, tiny.CHANNELS, tiny.FRAMES, tiny.SIDE, tiny.SIDE]
    need = step_bytes(model.model.spec.config, tuple(shape), itemsize=4, kernels="torch")
    assert model.model.memory_required(shape) == pytest.approx(1.1 * need) and need > 0
    conds = {"positive": [], "negative": []}
    both, one = comfy.sampler_helpers.estimate_memory(model, [1, *shape[1:]], conds)
    assert both == pytest.approx(1.1 * need) and one < both


def test_8_bit_weights_are_counted_in_the_numbers_they_are_computed_in(ours, model):
    shape = (1, tiny.CHANNELS, 40, 60, 60)
    loaded = ours["LoadModel"].execute("memory.safetensors", "fp8_e4m3fn").args[0].model
    assert loaded.get_dtype().itemsize == 1 and loaded.manual_cast_dtype.itemsize > 1
    size = loaded.manual_cast_dtype.itemsize
    need = step_bytes(loaded.spec.config, shape, itemsize=size, kernels=loaded.diffusion_model.kernels)
    assert loaded.memory_required(shape) == pytest.approx(1.1 * need)


def test_a_video_that_cannot_fit_is_refused_with_both_numbers_before_anything_is_loaded(core, model, monkeypatch):
    weights = model.model_size()
    need = limits.least_memory(model.model, tiny.start()["samples"].shape)
    machine_of(monkeypatch, weights + need - 1)
    seen = calls_of(monkeypatch, model)
    with pytest.raises(ValueError, match=r"1 video\(s\) of 4 frames, 48x48 px, need about 0\.0 GiB") as refusal:
        sample(core, model)
    assert "cpu has 0.0 GiB" in str(refusal.value) and "about 3 fit at this size" in str(refusal.value)
    assert seen == {"network": 0, "loads": 0}


def test_the_same_video_runs_once_it_fits_and_the_refusal_left_the_model_as_it_was(core, model, monkeypatch):
    expected = sample(core, model)
    weights = model.model_size()
    need = limits.least_memory(model.model, tiny.start()["samples"].shape)
    machine_of(monkeypatch, weights + need - 1)
    with pytest.raises(ValueError, match="need about"):
        sample(core, model)
    machine_of(monkeypatch, weights + need)
    assert torch.equal(sample(core, model), expected)


def test_weights_count_on_a_cpu_and_not_on_a_device_that_streams_them(model, monkeypatch):
    shape = tiny.start()["samples"].shape
    machine_of(monkeypatch, limits.least_memory(model.model, shape))
    with pytest.raises(ValueError, match="GiB of weights"):
        limits.check_step_fits(model, shape)
    streaming = model.clone()
    streaming.load_device = torch.device("cuda", 0)
    limits.check_step_fits(streaming, shape)
    machine_of(monkeypatch, limits.least_memory(model.model, shape) - 1)
    with pytest.raises(ValueError, match="cuda:0 has"):
        limits.check_step_fits(streaming, shape)


def test_latents_that_outgrow_a_small_network_count_as_well(model):
    shape = (1, tiny.CHANNELS, 40, 60, 60)
    held = limits.least_memory(model.model, shape) - limits.step_memory(model.model, shape, fused_norms=True)
    assert held >= 4 * torch.zeros(shape).nbytes


def test_a_clip_cut_up_by_context_windows_is_let_through(core, model, monkeypatch):
    machine_of(monkeypatch, 1)
    windowed = model.clone()

    class Whole:
        """A context handler that cuts nothing up."""

        def should_use_context(self, *arguments):
            return False

    windowed.model_options["context_handler"] = Whole()
    assert sample(core, windowed).isfinite().all()


def test_shapes_that_are_no_video_get_the_hosts_own_estimate(model):
    assert model.model.memory_required([1, tiny.CHANNELS, tiny.SIDE, tiny.SIDE]) > 0


def test_weights_larger_than_the_machine_are_refused_before_they_are_read(ours, model, monkeypatch):
    machine_of(monkeypatch, 1000)
    with pytest.raises(ValueError, match="its weights take .* GiB; this machine has .* choose a smaller weight_dtype"):
        ours["LoadModel"].execute("memory.safetensors", "bf16")
    with pytest.raises(ValueError, match="made.safetensors: its weights take 40.0 GiB; this machine has 32.0 GiB"):
        machine_of(monkeypatch, 32 * GIB)
        limits.check_weights_fit("made.safetensors", 40 * GIB)


def test_sana_video_is_refused_in_frames_and_pixels_before_it_is_loaded(core, ours, models_folder, monkeypatch):
    name = tiny_sana.folder_of(models_folder, "wan21", "memory_video")
    video = ours["LoadModel"].execute(name, "fp32").args[0]
    latent = {"samples": torch.zeros(1, 16, 21, 6, 8)}
    need = limits.least_memory(video.model, latent["samples"].shape)
    machine_of(monkeypatch, video.model_size() + need // 2)
    seen = calls_of(monkeypatch, video)
    with pytest.raises(ValueError, match=r"of 81 frames, 64x48 px, need about .* \(about 37 fit at this size\)"):
        core(
            "KSampler", model=video, seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
            positive=tiny.prompt(1), negative=tiny.prompt(2), latent_image=latent,
        )  # fmt: skip
    assert seen == {"network": 0, "loads": 0}


@pytest.mark.parametrize("name", ["fp8_e4m3fn", "fp8_e5m2"])
def test_8_bit_weights_on_a_device_that_cannot_convert_them_are_refused(ours, model, monkeypatch, name):
    assert ours["LoadModel"].execute("memory.safetensors", name).args[0] is not None
    monkeypatch.setattr(devices, "can_cast", lambda device, dtype: dtype.itemsize > 1)
    with pytest.raises(ValueError, match=rf"weight_dtype is float{name[2:]}; cpu cannot convert .* bf16 or default"):
        ours["LoadModel"].execute("memory.safetensors", name)
    assert ours["LoadModel"].execute("memory.safetensors", "bf16").args[0] is not None
