"""Number types, low memory, LoRAs, reloading, and weight files that are not what they seem."""

import json
import struct

import comfy.model_management
import comfy.model_patcher
import pytest
import tiny
import torch
from safetensors.torch import save_file

CPU = torch.device("cpu")


def ksampler(core, model):
    first = tiny.first_latent()
    return core(
        "KSampler", model=model, seed=5, steps=3, cfg=3.0, sampler_name="euler", scheduler="simple",
        positive=tiny.prompt(1, first=first), negative=tiny.prompt(2, first=first), denoise=1.0,
        latent_image=tiny.start(first=first),
    )[0]["samples"]  # fmt: skip


@pytest.fixture(scope="module")
def name(models_folder):
    tiny.tiny_file(models_folder / "weights.safetensors")
    return "weights.safetensors"


@pytest.fixture(scope="module")
def model(ours, name):
    return ours["LoadModel"].execute(name, "default").args[0]


def relative(a, b):
    return float((a - b).norm() / b.norm())


LIMITS = [("fp32", 0.0), ("bf16", 0.02), ("fp16", 0.004), ("fp8_e4m3fn", 0.2), ("fp8_e5m2", 0.4)]
NAMES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}  # fmt: skip


@pytest.mark.parametrize("choice, limit", LIMITS)
def test_every_weight_type_samples_near_float32(core, ours, model, name, choice, limit):
    (other,) = ours["LoadModel"].execute(name, choice).args
    stored = {tensor.dtype for tensor in other.model.diffusion_model.state_dict().values()}
    assert stored == {NAMES[choice]}
    out = ksampler(core, other)
    assert out.isfinite().all() and relative(out, ksampler(core, model)) <= limit
    assert (out[:, :, :1] - tiny.first_latent()).abs().max() <= 1e-5 * out.abs().max()


@pytest.mark.parametrize(
    "choice, compute", [("fp8_e4m3fn", torch.bfloat16), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_computing_in_a_narrow_type_stays_near_float32(core, ours, model, name, monkeypatch, choice, compute):
    """What a GPU does: weights and activations in the narrow type, latents and the residual in float32."""
    monkeypatch.setattr(
        comfy.model_management, "unet_manual_cast", lambda stored, *rest: None if stored == compute else compute
    )
    (other,) = ours["LoadModel"].execute(name, choice).args
    heard = []
    network = other.model.diffusion_model
    network.register_forward_pre_hook(lambda module, given: heard.append(given[0].dtype))
    out = ksampler(core, other)
    assert heard[0] == compute
    assert out.isfinite().all() and relative(out, ksampler(core, model)) < 0.2
    assert (out[:, :, :1] - tiny.first_latent()).abs().max() <= 1e-5 * out.abs().max()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_files_in_narrow_types_load_by_default(core, ours, models_folder, stored):
    name = f"{str(stored)[6:]}.safetensors"
    tiny.tiny_file(models_folder / name, dtype=stored)
    (model,) = ours["LoadModel"].execute(name).args
    assert ksampler(core, model).isfinite().all()


def apply_model(model, patcher):
    first = (tiny.first_latent() * 0.18215).expand(-1, -1, tiny.FRAMES, -1, -1)
    text, more = tiny.prompt(1)[0]
    return patcher.model.apply_model(
        tiny.randn(1, tiny.CHANNELS, tiny.FRAMES, tiny.SIDE, tiny.SIDE), torch.tensor([0.7]), c_crossattn=text,
        attention_mask=more["attention_mask"], motion_bucket_id=torch.tensor([3]), first_latent=first,
    )  # fmt: skip


def test_low_memory_mode_gives_the_same_output(ours, name):
    (model,) = ours["LoadModel"].execute(name, "fp32").args
    model.patch_model(device_to=CPU)
    plain = apply_model(model, model)
    model.unpatch_model()
    low = model.clone()
    low.patch_model(device_to=CPU, lowvram_model_memory=1)
    assert sum(getattr(layer, "comfy_cast_weights", False) for layer in low.model.modules()) > 20
    assert torch.equal(apply_model(low, low), plain)
    low.unpatch_model()


def test_weights_can_be_trained_although_nodes_run_in_inference_mode(model):
    parameters = list(model.model.diffusion_model.parameters())
    assert parameters and not any(parameter.is_inference() for parameter in parameters)
    with torch.inference_mode(False), torch.enable_grad():
        weight = parameters[0].detach().clone().requires_grad_()
        (weight.sum() ** 2).backward()
        assert weight.grad is not None


def test_model_can_be_made_anew_from_what_it_remembers(core, model):
    factory, arguments = model.cached_patcher_init
    with torch.inference_mode():
        fresh, plain = factory(*arguments), factory(*arguments, disable_dynamic=True)
    assert type(plain) is comfy.model_patcher.ModelPatcher
    assert fresh.model is not model.model and not fresh.patches
    assert torch.equal(ksampler(core, fresh), ksampler(core, model))


def test_patcher_class_is_read_when_a_model_is_loaded(ours, name, monkeypatch):
    class Rebound(comfy.model_patcher.ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Rebound, raising=False)
    assert type(ours["LoadModel"].execute(name, "fp32").args[0]) is Rebound


def lora(folder, name, prefix, *, module="transformer_blocks.0.attn1.to_q", width=32):
    down, up = tiny.randn(4, width, seed=8), tiny.randn(width, 4, seed=9)
    save_file({f"{prefix}{module}.lora_A.weight": down, f"{prefix}{module}.lora_B.weight": up}, folder / name)
    return name


def test_lora_changes_the_output_and_strength_0_is_bit_equal(core, model, loras_folder):
    name = lora(loras_folder, "ours.safetensors", "diffusion_model.")
    plain = ksampler(core, model)
    on, off = (core("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=s)[0] for s in (1.0, 0.0))
    assert relative(ksampler(core, on), plain) > 1e-3
    assert torch.equal(ksampler(core, off), plain)
    assert torch.equal(ksampler(core, model), plain)


@pytest.mark.parametrize("key, shape", [("proj_out.diff_b", (16,)), ("patch_embed.proj.diff", (32, 4, 2, 2))])
def test_lora_difference_on_a_bias_and_on_a_convolution_is_applied(core, model, loras_folder, key, shape):
    """The host itself skips differences on bare tables of modules that hold others (scale_shift_table)."""
    plain = ksampler(core, model)
    save_file({f"diffusion_model.{key}": tiny.randn(*shape)}, loras_folder / "diff.safetensors")
    (patched,) = core("LoraLoaderModelOnly", model=model, lora_name="diff.safetensors", strength_model=0.3)
    assert not torch.equal(ksampler(core, patched), plain)
    assert torch.equal(ksampler(core, model), plain)


def test_lora_of_another_family_changes_nothing_and_is_named_in_the_log(core, model, loras_folder, caplog):
    name = lora(loras_folder, "wan.safetensors", "diffusion_model.", module="blocks.0.self_attn.q", width=64)
    plain = ksampler(core, model)
    (patched,) = core("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    assert torch.equal(ksampler(core, patched), plain)
    assert "blocks.0.self_attn.q" in caplog.text


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return name


def header(entries, tail=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + tail


def hostile(folder, good):
    whole = (folder / good).read_bytes()
    nan = {"patch_embed.proj.weight": torch.full((32, 4, 2, 2), float("nan"))}
    save_file(nan, folder / "partial.safetensors")
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(4, 4)}, folder / "wan_like.safetensors")
    bomb = header({"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}})
    return {
        "cut_data": write(folder, "cut_data.safetensors", whole[:-100]),
        "cut_header": write(folder, "cut_header.safetensors", whole[:40]),
        "empty": write(folder, "empty.safetensors", b""),
        "pickle": write(folder, "pickle.safetensors", b"\x80\x04\x95" + b"0" * 64),
        "zip": write(folder, "zip.safetensors", b"PK\x03\x04" + b"0" * 64),
        "html": write(folder, "page.safetensors", b"<!DOCTYPE html><html>404</html>"),
        "lfs": write(folder, "lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "bomb": write(folder, "bomb.safetensors", bomb),
        "huge header": write(folder, "huge.safetensors", struct.pack("<Q", 2**40) + b"{}"),
        "partial": "partial.safetensors",
        "another family": "wan_like.safetensors",
    }


def test_hostile_files_are_refused_by_name_and_the_host_lives_on(core, ours, model, models_folder, name):
    before, loaded = ksampler(core, model), len(comfy.model_management.current_loaded_models)
    for kind, file in hostile(models_folder, name).items():
        with pytest.raises(ValueError) as caught:
            ours["LoadModel"].execute(file, "default")
        assert file in str(caught.value) and type(caught.value).__name__ == "CheckpointError", kind
    assert len(comfy.model_management.current_loaded_models) == loaded
    assert torch.equal(ksampler(core, model), before)


@pytest.mark.parametrize(
    "wanted", ["../secret.safetensors", "/etc/passwd", "missing.safetensors", "old.pt", "", "a\0b.safetensors"]
)
def test_names_that_are_not_in_the_list_are_refused(ours, models_folder, wanted):
    (models_folder / "old.pt").write_bytes(b"\x80\x04")
    (models_folder.parent / "secret.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="not in models/diffusion_models; a .safetensors file or a diffusers folder"):
        ours["LoadModel"].execute(wanted, "default")


def test_pickles_are_not_offered(ours, models_folder, name):
    (models_folder / "old.pt").write_bytes(b"\x80\x04")
    options = ours["LoadModel"].INPUT_TYPES()["required"]["model_name"]
    listed = options[0] if isinstance(options[0], list) else options[1]["options"]
    assert name in listed and "old.pt" not in listed


def test_unknown_weight_type_is_refused(ours, name):
    with pytest.raises(ValueError, match="weight_dtype is 'int3'; it must be one of: default"):
        ours["LoadModel"].execute(name, "int3")


def test_a_changed_file_is_loaded_again(ours, models_folder):
    tiny.tiny_file(models_folder / "changing.safetensors")
    before = ours["LoadModel"].fingerprint_inputs("changing.safetensors", "fp32")
    assert ours["LoadModel"].fingerprint_inputs("changing.safetensors", "fp32") == before
    tiny.tiny_file(models_folder / "changing.safetensors", seed=1, dtype=torch.float16)
    assert ours["LoadModel"].fingerprint_inputs("changing.safetensors", "fp32") != before
    assert ours["LoadModel"].fingerprint_inputs("gone.safetensors", "fp32") == "gone.safetensors fp32 auto"
