"""Our model on Triton kernels inside the host, by Triton's interpreter: beside LoRA, low memory and narrow weights."""

import pytest
import tiny
import tiny_sana
import torch
from pack.kernels import backend_choice, self_test
from safetensors.torch import save_file

CPU = torch.device("cpu")
FRAMES = 2  # an interpreted step takes seconds a frame


@pytest.fixture(scope="module")
def name(models_folder):
    tiny.tiny_file(models_folder / "kernels.safetensors")
    return "kernels.safetensors"


@pytest.fixture(scope="module")
def lora(loras_folder):
    """A LoRA on a layer before every operator, on one whose weights an operator reads, and on its bias."""
    weights = {}
    for seed, module in enumerate(("attn1.to_q", "attn_temporal.to_v", "attn2.to_k", "attn2.to_out.0")):
        for half, shape in (("A", (4, 32)), ("B", (32, 4))):
            key = f"diffusion_model.transformer_blocks.0.{module}.lora_{half}.weight"
            weights[key] = tiny.randn(*shape, seed=seed) * 0.5
    weights["diffusion_model.transformer_blocks.1.ff.conv_depth.diff"] = tiny.randn(128, 1, 3, 3, seed=9) * 0.2
    weights["diffusion_model.transformer_blocks.1.ff.conv_depth.diff_b"] = tiny.randn(128, seed=10) * 0.2
    save_file(weights, loras_folder / "kernels.safetensors")
    return "kernels.safetensors"


def load(ours, name, kernels, weight_dtype="fp32"):
    (model,) = ours["LoadModel"].execute(name, weight_dtype, kernels).args
    assert model.model.diffusion_model.kernels == kernels
    return model


def ksampler(core, model):
    first = tiny.first_latent()
    return core(
        "KSampler", model=model, seed=5, steps=1, cfg=1.0, sampler_name="euler", scheduler="simple",
        positive=tiny.prompt(1, first=first), negative=tiny.prompt(2, first=first), denoise=1.0,
        latent_image={"samples": first.repeat(1, 1, FRAMES, 1, 1)},
    )[0]["samples"]  # fmt: skip


@pytest.fixture
def launches(monkeypatch):
    """Names of the operators whose Triton backend was chosen."""
    seen, plain = [], backend_choice.use_triton

    def noting(kernels, *tensors):
        chosen = plain(kernels, *tensors)
        if chosen:
            seen.append(kernels)
        return chosen

    for operator in self_test.OPERATORS:
        module = __import__(f"pack.kernels.{operator}", fromlist=["use_triton"])
        monkeypatch.setattr(module, "use_triton", noting)
    return seen


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_sampling_on_kernels_equals_sampling_on_torch(core, ours, name, launches):
    plain = ksampler(core, load(ours, name, "torch"))
    assert not launches
    assert relative(ksampler(core, load(ours, name, "triton")), plain) < 1e-5
    assert len(launches) >= 2 * 6


def test_sana_video_on_kernels_equals_sana_video_on_torch(ours, models_folder, launches):
    name = tiny_sana.folder_of(models_folder, "wan21")
    given = tiny.randn(1, 16, 2, 4, 4), torch.tensor([0.6]), None, tiny.randn(1, 5, 24)
    first = {"first_latent": tiny.randn(1, 16, 2, 4, 4, seed=2)}
    plain = load(ours, name, "torch").model.apply_model(*given, **first)
    assert not launches
    assert relative(load(ours, name, "triton").model.apply_model(*given, **first), plain) < 1e-5
    assert len(launches) >= 6


def test_sana_video_tries_its_own_operators_before_it_takes_the_kernels(ours, models_folder, monkeypatch):
    tried = []
    monkeypatch.setattr(self_test, "try_operator", lambda operator, *where: tried.append(operator))
    self_test.kernel_problem.cache_clear()
    name = tiny_sana.folder_of(models_folder, "wan21")
    assert load(ours, name, "auto").model.diffusion_model.kernels == "auto"
    assert set(tried) == {"joint_linear_attention", "token_rstd", "gate_norm_modulate", "glu_depthwise"}
    self_test.kernel_problem.cache_clear()


def test_lora_comes_and_goes_without_a_trace(core, ours, name, lora):
    model = load(ours, name, "triton")
    before = ksampler(core, model)
    (patched,) = core("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)
    (truth,) = core("LoraLoaderModelOnly", model=load(ours, name, "torch"), lora_name=lora, strength_model=1.0)
    on = ksampler(core, patched)
    assert relative(on, before) > 1e-2
    assert relative(on, ksampler(core, truth)) < 1e-5
    assert torch.equal(ksampler(core, model), before)


def apply_model(patcher):
    first = (tiny.first_latent() * 0.18215).expand(-1, -1, FRAMES, -1, -1)
    text, more = tiny.prompt(1)[0]
    return patcher.model.apply_model(
        tiny.randn(1, tiny.CHANNELS, FRAMES, tiny.SIDE, tiny.SIDE), torch.tensor([0.7]), c_crossattn=text,
        attention_mask=more["attention_mask"], motion_bucket_id=torch.tensor([3]), first_latent=first,
    )  # fmt: skip


def test_streamed_weights_with_a_lora_give_the_same_output(core, ours, name, lora):
    (model,) = core(
        "LoraLoaderModelOnly", model=load(ours, name, "triton"), lora_name=lora, strength_model=1.0
    )
    model.patch_model(device_to=CPU)
    resident = apply_model(model)
    model.unpatch_model()
    low = model.clone()
    low.patch_model(device_to=CPU, lowvram_model_memory=1)
    functions = [layer for layer in low.model.modules() if getattr(layer, "weight_function", None)]
    assert len(functions) >= 5
    assert relative(apply_model(low), resident) < 1e-5
    low.unpatch_model()


@pytest.mark.parametrize("weights", ["fp8_e4m3fn", "bf16"])
def test_narrow_weights_on_kernels_equal_those_on_torch(core, ours, name, weights):
    on_kernels, on_torch = (ksampler(core, load(ours, name, kernels, weights)) for kernels in ("triton", "torch"))
    assert relative(on_kernels, on_torch) < (1e-5 if weights.startswith("fp8") else 0.02)


def test_auto_takes_the_kernels_where_every_one_of_them_works(ours, name, monkeypatch, caplog):
    assert load(ours, name, "auto").model.diffusion_model.kernels == "auto"
    monkeypatch.setattr(self_test, "try_operator", lambda operator, *where: f"the kernel {operator} is out of order")
    self_test.kernel_problem.cache_clear()
    (model,) = ours["LoadModel"].execute(name, "fp32", "auto").args
    assert model.model.diffusion_model.kernels == "torch"
    self_test.kernel_problem.cache_clear()


def test_out_of_memory_in_a_kernel_passes(core, ours, name, monkeypatch):
    from pack.kernels import spatial_linear_attention as operator

    def full(*given, **more):
        raise torch.OutOfMemoryError("no room")

    model = load(ours, name, "triton")
    monkeypatch.setattr(operator, "use_triton", full)
    with pytest.raises(torch.OutOfMemoryError):
        ksampler(core, model)
