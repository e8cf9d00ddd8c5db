"""A saved LoRA in the host's own hands: every layer is found by name and gets the weight that our merge gives."""

from types import SimpleNamespace

import comfy.lora
import comfy.utils
import tiny
import torch
from pack.motion.adapters.lora import LoRA
from pack.motion.io.adapters.lora import save_lora
from pack.motion.models.linear_video.network import LinearVideoDiT


def test_the_host_patches_every_adapted_layer_to_the_weight_of_our_merge(tmp_path):
    with torch.inference_mode(False):
        torch.manual_seed(0)
        dit = LinearVideoDiT(tiny.tiny_spec().config)
        lora = LoRA(dit, targets=("attn1", "attn_temporal", "attn2", "ff"), rank=3, alpha=6.0)
        for layer in lora.layers.values():
            torch.nn.init.normal_(layer.up, std=0.1)
        save_lora(tmp_path / "a.safetensors", lora)
        merged, weights = lora.merged(0.8), dit.state_dict()
    names = {f"diffusion_model.{name}": value for name, value in weights.items()}
    model = SimpleNamespace(state_dict=lambda: names, model_config=SimpleNamespace(unet_config={}))
    found = comfy.lora.load_lora(
        comfy.utils.load_torch_file(str(tmp_path / "a.safetensors")), comfy.lora.model_lora_keys_unet(model, {})
    )
    assert set(found) == {f"diffusion_model.{name}.weight" for name in lora.layers}
    assert any(weights[f"{name}.weight"].ndim == 4 for name in lora.layers)
    for key, patch in found.items():
        name = key.removeprefix("diffusion_model.")
        weight = comfy.lora.calculate_weight([(0.8, patch, 1.0, None, None)], weights[name].clone(), key)
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=1e-5)
