"""A LoRA for Wan in the host's own hands: core's loader takes every key, the host answers as our network with it."""

import sys
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from pack.motion.adapters.lora import LoRA
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.models.conditions import Conditions
from pack.motion.models.wan.network import WanDiT
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
import tiny_wan  # noqa: E402
import wan_files  # noqa: E402

WIDE = {name: replace(config, caption_channels=4096) for name, config in wan_files.CONFIGS.items()}  # the host's
TARGETS = {"T2V": ("self_attn", "cross_attn"), "A14B I2V": ("self_attn", "cross_attn", "ffn"),
           "I2V": ("self_attn", "cross_attn", "ffn", "text_embedding", "time_", "head")}  # fmt: skip


def asked(network, config):
    """The velocity at drawn inputs, by the host's network or by ours."""
    draw = torch.Generator().manual_seed(3)
    latents, context = (torch.randn(shape, generator=draw) for shape in ((1, 16, 3, 6, 8), (1, 9, 4096)))
    beside = torch.randn(1, 20, 3, 6, 8, generator=draw) if config.concat_channels else None
    tokens = torch.randn(1, 257, 1280, generator=draw) if config.image_tokens else None
    timestep = torch.tensor([637.5])
    if isinstance(network, WanDiT):
        told = Conditions(context, concat_latents=beside, image_tokens=tokens)
        return network(latents, timestep, told)
    seen = latents if beside is None else torch.cat((latents, beside), 1)
    return network(seen, timestep, context, clip_fea=tokens)


@pytest.mark.parametrize("name", TARGETS)
def test_every_key_of_the_file_is_loaded_and_the_host_answers_as_our_merged_network(tmp_path, caplog, name):
    config = WIDE[name]
    with torch.inference_mode(False), torch.no_grad():
        own = tiny_wan.fill(WanDiT(config))
        save_file(own.state_dict(), tmp_path / "wan.safetensors")
        lora = LoRA(own, targets=TARGETS[name], rank=3, alpha=2.0)
        draw = torch.Generator().manual_seed(5)
        for value in lora.parameters().values():
            value.copy_(torch.randn(value.shape, generator=draw) / 8)
        save_adapter(tmp_path / "lora.safetensors", lora)
        plain, adapter = asked(own, config), load_adapter(tmp_path / "lora.safetensors", own)
        with adapter.attached():
            beside = asked(own, config)
        own.load_state_dict(adapter.merged())
        merged = asked(own, config)
        patcher = comfy.sd.load_diffusion_model(
            str(tmp_path / "wan.safetensors"), model_options={"dtype": torch.float32}
        )
    tensors = comfy.utils.load_torch_file(str(tmp_path / "lora.safetensors"))
    with caplog.at_level("INFO"):
        patched, _ = comfy.sd.load_lora_for_models(patcher, None, tensors, 1.0, 0.0)
    assert "not loaded" not in caplog.text.lower()
    assert set(patched.patches) == {f"diffusion_model.{layer}.weight" for layer in lora.layers}
    assert len(tensors) == 3 * len(lora.layers) and len(lora.layers) >= 16
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    network = patched.model.diffusion_model
    assert type(network) is WanModel
    found = asked(network, config)
    comfy.model_management.unload_all_models()
    assert tiny_wan.apart(found, merged) <= 5e-6 and tiny_wan.apart(beside, merged) <= 5e-6
    assert tiny_wan.apart(plain, merged) > 0.05
