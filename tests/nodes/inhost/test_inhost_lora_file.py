"""A LoRA file in the host's own hands: every layer is found by name and gets the weight that our merge gives."""

from types import SimpleNamespace

import comfy.lora
import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import tiny
import torch
from pack.motion.adapters.lora import LoRA, LoRAMatrices, target_names
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.models.linear_video.network import LinearVideoDiT

TARGETS = ("attn1", "attn_temporal", "attn2", "ff")


def mixed_lora(dit):
    """Ranks 1 to 4 and alphas of their own, layer by layer."""
    layers = {}
    for index, name in enumerate(target_names(dit, TARGETS)):
        outside, *inside = dit.get_submodule(name).weight.shape
        rank = index % 4 + 1
        down, up = tiny.randn(rank, *inside, seed=index), tiny.randn(outside, rank, seed=100 + index) / 10
        layers[name] = LoRAMatrices(down, up.reshape(outside, rank, *(1 for _ in inside[1:])), 1.0 + index / 3)
    return LoRA.of_layers(dit, layers, "here")


def in_kohyas_names(lora):
    tensors = {}
    for name, layer in lora.layers.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": layer.down.detach(), f"{flat}.lora_up.weight": layer.up.detach(),
                    f"{flat}.alpha": torch.tensor(layer.alpha)}  # fmt: skip
    return tensors


@pytest.mark.parametrize("names", ["ours", "kohya's"])
def test_the_host_patches_every_adapted_layer_to_the_weight_of_our_merge(tmp_path, names):
    path = tmp_path / "a.safetensors"
    with torch.inference_mode(False):
        torch.manual_seed(0)
        dit = LinearVideoDiT(tiny.tiny_spec().config)
        lora = mixed_lora(dit)
        if names == "ours":
            save_adapter(path, lora)
        else:
            write_safetensors(path, in_kohyas_names(lora))
        merged, weights = load_adapter(path, dit).merged(0.8), dit.state_dict()
    named = {f"diffusion_model.{name}": value for name, value in weights.items()}
    model = SimpleNamespace(state_dict=lambda: named, model_config=SimpleNamespace(unet_config={}))
    found = comfy.lora.load_lora(comfy.utils.load_torch_file(str(path)), comfy.lora.model_lora_keys_unet(model, {}))
    assert set(found) == {f"diffusion_model.{name}.weight" for name in lora.layers}
    assert any(weights[f"{name}.weight"].ndim == 4 for name in lora.layers)
    for key, patch in found.items():
        name = key.removeprefix("diffusion_model.")
        weight = comfy.lora.calculate_weight([(0.8, patch, 1.0, None, None)], weights[name].clone(), key)
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=1e-5)


def test_a_model_with_a_lora_of_mixed_ranks_holds_the_weights_of_our_merge(ours, models_folder, tmp_path):
    tiny.tiny_file(models_folder / "for_mixed_lora.safetensors", seed=4)
    (model,) = ours["LoadModel"].execute("for_mixed_lora.safetensors", "default").args[:1]
    with torch.inference_mode(False):
        lora = mixed_lora(model.model.diffusion_model)
        save_adapter(tmp_path / "a.safetensors", lora)
        merged = lora.merged(0.7)
    tensors = comfy.utils.load_torch_file(str(tmp_path / "a.safetensors"))
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 0.7, 0.0)
    assert len(patched.patches) == len(lora.layers) == 28
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    held = {name: value.clone() for name, value in patched.model.diffusion_model.state_dict().items()}
    comfy.model_management.unload_all_models()
    assert any(not torch.equal(held[name], value) for name, value in model.model.diffusion_model.state_dict().items())
    for name, value in merged.items():
        torch.testing.assert_close(held[name], value, atol=1e-6, rtol=1e-5)
